"""Tests of the checks of addresses and header texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.content import addresses, domains
from pipeline.content.addresses import address_problem, header_text_problem


@pytest.mark.parametrize(
    "address",
    [
        "anna@example.com",
        "Anna.O'Hara+news@mail.example.co.uk",
        "x@exämple.se",
        "user@例え.テスト",
        "a" * 64 + "@example.com",
        "a@" + "b" * 63 + ".com",
        "bounce@sandbox.mailfold.localhost",
        "x@xn--exmple-cua.se",
        "a_b@a_b.example.com",
    ],
)
def test_real_addresses_are_accepted(address: str) -> None:
    assert address_problem(address) is None


@pytest.mark.parametrize(
    "address",
    [
        "",
        "@",
        "anna",
        "anna@",
        "@example.com",
        "anna@localhost",
        "anna@example..com",
        "anna@.example.com",
        "anna@example.com.",
        "anna@-example.com",
        "anna@example-.com",
        "anna@192.0.2.1",
        "anna@[192.0.2.1]",
        "an na@example.com",
        " anna@example.com",
        "anna@example.com ",
        "anna@exam ple.com",
        ".anna@example.com",
        "anna.@example.com",
        "an..na@example.com",
        '"anna"@example.com',
        "Anna <anna@example.com>",
        "anna@example.com,bertil@example.com",
        "anna@b@example.com",
        "änna@example.com",
        "anna@example.com\r\nBcc: x@example.com",
        "anna\r\n@example.com",
        "anna@example.com\n",
        "anna\0@example.com",
        "anna@exam\0ple.com",
        "anna@example.com\u2028",
        "anna@\ud800.com",
        "a" * 65 + "@example.com",
        "a@" + "b" * 64 + ".com",
        "a@" + "ü" * 63 + ".com",
        "a@" + ".".join(["b" * 60] * 5) + ".com",
    ],
)
def test_invalid_address_is_refused(address: str) -> None:
    assert address_problem(address)


def test_address_of_254_octets_is_accepted_and_one_more_is_refused() -> None:
    domain = ".".join(["b" * 60] * 4)
    assert address_problem("a" * (253 - len(domain)) + "@" + domain) is None
    assert address_problem("a" * (254 - len(domain)) + "@" + domain) == "more than 254 octets"


@given(st.text())
def test_any_text_is_accepted_or_refused(text: str) -> None:
    address_problem(text)
    address_problem(f"anna@{text}.com")


@given(st.text())
def test_accepted_header_text_is_one_line_when_decoded(text: str) -> None:
    if header_text_problem(text) is None and text:
        assert text.splitlines() == [text]


def test_header_texts_are_accepted_or_refused() -> None:
    assert header_text_problem("Grüße\tan Anna 🎉") is None
    assert header_text_problem("") is None
    assert header_text_problem("x" * 998) is None
    assert header_text_problem("x" * 999) == "more than 998 characters"


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_long_address_is_refused_before_it_is_split(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "to_ascii", None)
    monkeypatch.setattr(addresses, "_decoded", None)
    assert address_problem("a@" + "x" * size + ".com") == "more than 254 octets"
    assert address_problem("=?a?q?" * size + "@x.com") == "more than 254 octets"
    assert header_text_problem("=?a?q?" * size) == "more than 998 characters"


def test_long_domains_are_not_cached() -> None:
    before = domains._encoded.cache_info().currsize
    for number in range(50):
        address_problem(f"a@{number:06d}." + "x" * 10_000)
    assert domains._encoded.cache_info().currsize == before


def test_error_for_internationalized_domain_gives_the_reason() -> None:
    assert address_problem("a@a\u200db.example") == "not a domain name after the @: U+200D is not allowed there"


@pytest.mark.parametrize(
    "address",
    ["änna@example.com", "二ノ宮@黒川.日本", "квіточка.о@пошта.укр", "a\u0308nna@example.com", "anna@example.com"],
)
def test_non_ascii_local_part_is_accepted_with_smtputf8(address: str) -> None:
    assert address_problem(address, smtputf8=True) is None
    assert bool(address_problem(address)) is not address.isascii()


@pytest.mark.parametrize(
    "address",
    [
        *("ä nna@example.com", ".ä@example.com", "ä..b@example.com", '"ä"@example.com', "ä,b@example.com"),
        *("ä\u00a0b@example.com", "ä\u202eb@example.com", "ä\u200bb@example.com", "ä\x85b@example.com"),
        *("ä\ud800@example.com", "ä" * 33 + "@example.com", "ä\r\n@example.com", "ä@b@example.com", "ä@localhost"),
    ],
)
def test_invalid_address_is_refused_with_smtputf8(address: str) -> None:
    assert address_problem(address, smtputf8=True)
