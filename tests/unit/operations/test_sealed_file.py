"""The encrypted file of a backup: whole or not at all, and every change of it is noticed."""

import hashlib
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import InvalidSettings
from pipeline.operations.backup import sealed_file
from pipeline.operations.backup.sealed_file import (
    BackupUnconfirmed,
    BackupUnreadable,
    SealedWriter,
    read_parts,
    verify_checksum,
)
from tests.support.modes import mode

PASSPHRASE = "a passphrase of tests"
PARTS = [b"first", b"second" * 100, b"", b"third" * 1000, b"last"]


@pytest.fixture(autouse=True)
def _cheap_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_file, "SCRYPT_COST", 2)


def written(path: Path, parts: list[bytes] = PARTS) -> Path:
    with SealedWriter(path, PASSPHRASE) as writer:
        for number, part in enumerate(parts, 1):
            writer.write_part(part, last=number == len(parts))
    return path


def pieces(data: bytes) -> tuple[bytes, list[bytes]]:
    """Return the preamble and the parts with their lengths, without the checksum."""
    start, end = sealed_file._PREAMBLE_BYTES, len(data) - sealed_file.CHECKSUM_BYTES
    parts = []
    position = start
    while position < end:
        length = 4 + int.from_bytes(data[position : position + 4], "big")
        parts.append(data[position : position + length])
        position += length
    return data[:start], parts


def with_checksum(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


def test_what_was_written_is_read_and_lies_in_a_private_file(tmp_path: Path) -> None:
    path = written(tmp_path / "one.backup")
    assert verify_checksum(path) == hashlib.sha256(path.read_bytes()[:-32]).hexdigest()
    assert list(read_parts(path, PASSPHRASE)) == PARTS
    assert mode(path) == 0o600
    assert b"second" not in path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_same_contents_are_never_the_same_bytes(tmp_path: Path) -> None:
    assert written(tmp_path / "one").read_bytes() != written(tmp_path / "two").read_bytes()


@pytest.mark.parametrize("cut", [1, 32, 33, 100, 5000])
def test_file_that_ends_early_is_damaged(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "one")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(BackupUnreadable, match="damaged or not complete"):
        verify_checksum(path)


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "one", [b"a", b"b"])
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(BackupUnreadable):
            verify_checksum(path)


def remove_last(parts: list[bytes]) -> list[bytes]:
    return parts[:-1]


def remove_middle(parts: list[bytes]) -> list[bytes]:
    return parts[:1] + parts[2:]


def swap(parts: list[bytes]) -> list[bytes]:
    return [parts[0], parts[2], parts[1], *parts[3:]]


def repeat(parts: list[bytes]) -> list[bytes]:
    return [*parts[:2], parts[1], *parts[2:]]


def append(parts: list[bytes]) -> list[bytes]:
    return [*parts, parts[-1]]


@pytest.mark.parametrize("change", [remove_last, remove_middle, swap, repeat, append])
def test_parts_that_somebody_moved_are_noticed_although_the_checksum_is_right(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    path = written(tmp_path / "one")
    preamble, parts = pieces(path.read_bytes())
    path.write_bytes(with_checksum(preamble + b"".join(change(parts))))
    verify_checksum(path)
    with pytest.raises(BackupUnreadable, match="can't be decrypted from its part"):
        list(read_parts(path, PASSPHRASE))


def test_part_of_another_file_is_noticed(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one"), written(tmp_path / "two")
    preamble, parts = pieces(one.read_bytes())
    _, others = pieces(two.read_bytes())
    one.write_bytes(with_checksum(preamble + b"".join([parts[0], others[1], *parts[2:]])))
    with pytest.raises(BackupUnreadable, match="from its part 1 on"):
        list(read_parts(one, PASSPHRASE))


def test_length_that_is_too_large_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    path = written(tmp_path / "one")
    preamble, parts = pieces(path.read_bytes())
    path.write_bytes(with_checksum(preamble + b"\xff\xff\xff\xff" + b"".join(parts)[4:]))
    with pytest.raises(BackupUnreadable, match="wrong length"):
        list(read_parts(path, PASSPHRASE))


def test_another_passphrase_is_told_from_damage(tmp_path: Path) -> None:
    path = written(tmp_path / "one")
    with pytest.raises(BackupUnreadable, match="made with another passphrase"):
        list(read_parts(path, PASSPHRASE + "!"))


def test_short_passphrase_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="at least 16 characters"), SealedWriter(tmp_path / "one", "too short"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_no_backup(tmp_path: Path) -> None:
    path = tmp_path / "mailfold.dump"
    path.write_bytes(b"PGDMP" + bytes(1000))
    with pytest.raises(BackupUnreadable, match="is no backup"):
        verify_checksum(path)


def interrupt_after_half(path: Path) -> None:
    with SealedWriter(path, PASSPHRASE) as writer:
        writer.write_part(b"half")
        raise KeyboardInterrupt


def test_interrupted_write_leaves_the_earlier_file_and_no_other(tmp_path: Path) -> None:
    path = written(tmp_path / "one")
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        interrupt_after_half(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            written(tmp_path / "one", [bytes(10_000)] * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_name_that_the_disk_does_not_confirm_is_told_of_a_file_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_folder: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sealed_file, "_sync_folder", fail)
    with pytest.raises(BackupUnconfirmed, match=r"one is complete, but the disk did not confirm.*: Input/output error"):
        written(tmp_path / "one")
    assert list(read_parts(tmp_path / "one", PASSPHRASE)) == PARTS
