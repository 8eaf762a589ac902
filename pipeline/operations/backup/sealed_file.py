"""Write and read the encrypted file of a backup, part by part, in bounded memory.

The file is::

    magic line · salt (16) · nonce prefix (7) · parts … · SHA-256 of all bytes before

A part is its length (4 bytes) and its ciphertext: AES-256-GCM with a nonce of the prefix, the part's number (4 bytes)
and whether it is the last (1 byte), so that a part that is missing, repeated, moved or changed, and a file that ends
early, can't be decrypted (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár). The key is made from the
passphrase by scrypt. The checksum at the end is not encrypted: a damaged file is told from a wrong passphrase by it.
"""

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pipeline.errors import InvalidSettings, PermanentError
from pipeline.runtime.private_files import open_private

MAGIC: Final = b"mailfold backup 1\n"
SALT_BYTES: Final = 16
NONCE_PREFIX_BYTES: Final = 7
TAG_BYTES: Final = 16
CHECKSUM_BYTES: Final = hashlib.sha256().digest_size
MAX_PART_BYTES: Final = 16_000_000
"""Bytes of one part, at most; a reader allocates no more, whatever the file says."""
READ_BYTES: Final = 1_000_000
MAX_PARTS: Final = 2**32 - 1
SCRYPT_COST: Final = 2**15
"""scrypt's N; with r = 8 a guess takes 32 MiB of memory and about 0.1 s."""
MIN_PASSPHRASE_CHARS: Final = 16
_PREAMBLE_BYTES: Final = len(MAGIC) + SALT_BYTES + NONCE_PREFIX_BYTES
_LENGTH: Final = struct.Struct(">I")
_NUMBER: Final = struct.Struct(">I?")


class BackupUnreadable(PermanentError):
    """The file is no backup, is damaged, or has another passphrase."""


class BackupUnconfirmed(PermanentError):
    """The file is complete, but the disk did not confirm its name."""


class SealedWriter:
    """Writer of one new file, which gets its name only when it is complete and on disk.

    Use it in a ``with`` block: an error in it removes what was written.
    """

    def __init__(self, path: Path, passphrase: str) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        self._passphrase = passphrase
        self._checksum = hashlib.sha256()
        self._number = 0
        self._is_complete = False
        self.written_bytes = CHECKSUM_BYTES
        """Bytes of the finished file."""

    def __enter__(self) -> "SealedWriter":
        """Create the temporary file beside the final one, with mode 0600. Raise OSError."""
        salt, self._prefix = os.urandom(SALT_BYTES), os.urandom(NONCE_PREFIX_BYTES)
        self._preamble = MAGIC + salt + self._prefix
        self._cipher = _make_cipher(self._passphrase, salt)
        self._temporary.unlink(missing_ok=True)
        self._output: BinaryIO = os.fdopen(open_private(self._temporary, os.O_WRONLY | os.O_EXCL), "wb")
        self._write(self._preamble)
        return self

    def write_part(self, plain: bytes, *, last: bool = False) -> None:
        """Encrypt and write one part; after the last one, write the checksum and give the file its name.

        Raise OSError, as where the disk is full, and BackupUnconfirmed.
        """
        assert len(plain) + TAG_BYTES <= MAX_PART_BYTES
        assert self._number < MAX_PARTS
        sealed = self._cipher.encrypt(self._prefix + _NUMBER.pack(self._number, last), plain, self._preamble)
        self._write(_LENGTH.pack(len(sealed)) + sealed)
        self._number += 1
        if last:
            self._finish()

    @property
    def checksum(self) -> str:
        """Return the SHA-256 at the end of the finished file, hexadecimal."""
        return self._checksum.hexdigest()

    def __exit__(self, *_: object) -> None:
        """Close the file; remove it unless it is complete."""
        with contextlib.suppress(OSError):  # what is still buffered does not fit either
            self._output.close()
        if not self._is_complete:
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._output.write(self._checksum.digest())
        self._output.flush()
        os.fsync(self._output.fileno())
        self._temporary.replace(self.path)
        self._is_complete = True
        try:
            _sync_folder(self.path.parent)
        except OSError as error:
            raise BackupUnconfirmed(
                f"{self.path} is complete, but the disk did not confirm its name, so that it may be missing after a "
                f"power failure: {error.strerror or error}. Look at the disk, then save another"
            ) from error

    def _write(self, data: bytes) -> None:
        self._checksum.update(data)
        self._output.write(data)
        self.written_bytes += len(data)


def verify_checksum(path: Path) -> str:
    """Return the checksum at a file's end, hexadecimal. Raise BackupUnreadable where it is not the file's, OSError."""
    with path.open("rb") as source:
        remaining = os.fstat(source.fileno()).st_size - CHECKSUM_BYTES
        if remaining < _PREAMBLE_BYTES or source.read(len(MAGIC)) != MAGIC:
            raise BackupUnreadable(f"{path} is no backup that `mailfold backup` of this version made")
        source.seek(0)
        checksum = hashlib.sha256()
        while remaining:
            data = source.read(min(READ_BYTES, remaining))
            if not data:
                raise BackupUnreadable(f"{path} became shorter while it was read")
            checksum.update(data)
            remaining -= len(data)
        if source.read() != checksum.digest():
            raise BackupUnreadable(f"{path} is damaged or not complete: its checksum is another; take another copy")
    return checksum.hexdigest()


def read_parts(path: Path, passphrase: str) -> Iterator[bytes]:
    """Yield the decrypted parts of a file whose checksum was verified. Raise BackupUnreadable, OSError."""
    with path.open("rb") as source:
        preamble = source.read(_PREAMBLE_BYTES)
        prefix = preamble[-NONCE_PREFIX_BYTES:]
        cipher = _make_cipher(passphrase, preamble[len(MAGIC) : -NONCE_PREFIX_BYTES])
        end = os.fstat(source.fileno()).st_size - CHECKSUM_BYTES
        number, is_last = 0, False
        while not is_last:
            sealed = _read_sealed(source, end, path)
            is_last = source.tell() == end
            try:
                yield cipher.decrypt(prefix + _NUMBER.pack(number, is_last), sealed, preamble)
            except InvalidTag:
                raise BackupUnreadable(_reason(path, number)) from None
            number += 1


def _read_sealed(source: BinaryIO, end: int, path: Path) -> bytes:
    head = source.read(_LENGTH.size)
    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
    if not TAG_BYTES <= length <= min(MAX_PART_BYTES, end - source.tell()):
        raise BackupUnreadable(f"{path} is damaged: a part of it has a wrong length")
    return source.read(length)


def _reason(path: Path, number: int) -> str:
    if number == 0:
        return f"{path} can't be decrypted: it was made with another passphrase (MAILFOLD_BACKUP_PASSPHRASE)"
    return f"{path} can't be decrypted from its part {number} on: somebody changed it, or parts are missing"


def _make_cipher(passphrase: str, salt: bytes) -> AESGCM:
    if len(passphrase) < MIN_PASSPHRASE_CHARS:
        raise InvalidSettings(
            f"MAILFOLD_BACKUP_PASSPHRASE: at least {MIN_PASSPHRASE_CHARS} characters, or "
            "MAILFOLD_BACKUP_PASSPHRASE_FILE with as many; keep it apart from the backups"
        )
    return AESGCM(Scrypt(salt=salt, length=32, n=SCRYPT_COST, r=8, p=1).derive(passphrase.encode()))


def _sync_folder(folder: Path) -> None:
    """Write the folder's entry for the new name to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
