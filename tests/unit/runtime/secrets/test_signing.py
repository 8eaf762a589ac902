"""Test the hashes of suppressed addresses: spellings of one address have one hash, and old hashes are still known."""

import pytest

from pipeline.content.mime import with_ascii_domain
from pipeline.runtime.secrets.signing import AddressHasher, hash_address, old_hash_of
from tests.conftest import RING

SIGNER = AddressHasher(RING)


def hashed(address: str) -> bytes:
    return hash_address(SIGNER, address)


def hashed_before(address: str) -> bytes:
    """Return the hash that earlier versions stored."""
    return SIGNER.digest(address.strip().casefold().encode())


@pytest.mark.parametrize(
    "other",
    [
        "user@bücher.example",
        "USER@BÜCHER.example",
        "user@bu\u0308cher.example",
        " user@XN--bcher-KVA.Example ",
        "user@bücher。example",
    ],
)
def test_spellings_of_one_address_have_one_hash(other: str) -> None:
    assert hashed(other) == hashed("user@xn--bcher-kva.example")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("user@strasse.example", "user@straße.example"),
        ("user@βόλος.example", "user@βόλοσ.example"),
        ("straße@example.com", "strasse@example.com"),
        ("a@x.example", "b@x.example"),
    ],
)
def test_different_addresses_have_different_hashes(first: str, second: str) -> None:
    assert hashed(first) != hashed(second)


@pytest.mark.parametrize("address", ["Anna@Example.com", "a_b@a_b.example.com", "", "@", "x"])
def test_hash_of_an_ascii_address_is_that_of_earlier_versions(address: str) -> None:
    assert hashed(address) == hashed_before(address)
    assert old_hash_of(SIGNER, address) is None


@pytest.mark.parametrize(
    ("address", "shared"),
    [
        ("user@Bücher.example", False),
        ("user@straße.example", True),
        ("user@βόλος.example", True),
        ("user@i❤.ws", False),
    ],
)
def test_old_hash_is_known_for_each_spelling(address: str, shared: bool) -> None:
    for spelling in (address, with_ascii_domain(address), address.replace("user", "USER")):
        old = old_hash_of(SIGNER, spelling)
        assert old is not None
        assert (old.digest, old.shared) == (hashed_before(address), shared)


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_too_long_text_is_hashed_without_normalizing_it(size: int) -> None:
    assert hashed("A" * size) == hashed("a" * size)
