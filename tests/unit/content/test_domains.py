"""Tests of domain names in ASCII: IDNA 2008 with UTS #46's mapping, non-transitional."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.content.domains import MAX_DOMAIN_CHARS, InvalidDomain, to_ascii
from pipeline.content.mime import with_ascii_domain


@pytest.mark.parametrize(
    ("domain", "encoded"),
    [
        ("Example.COM", "example.com"),
        ("faß.example", "xn--fa-hia.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("βόλος.example", "xn--nxasmm1c.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("ｅｘａｍｐｌｅ．com", "example.com"),
        ("a_b.bücher.example", "a_b.xn--bcher-kva.example"),
        ("i❤.ws", "xn--i-7iq.ws"),
        ("❤\ufe0f.ws", "xn--qei.ws"),
        ("💩.la", "xn--ls8h.la"),
    ],
)
def test_domain_is_converted_to_a_labels(domain: str, encoded: str) -> None:
    assert to_ascii(domain) == encoded
    assert with_ascii_domain(f"user@{domain}") == f"user@{domain if domain.isascii() else encoded}"


@pytest.mark.parametrize(
    ("domain", "problem"),
    [
        ("", "an empty label"),
        ("a..example", "an empty label"),
        ("\u00ad.example", "an empty label"),
        ("-a.example", "hyphen"),
        ("a_ü.example", "U\\+005F"),
        ("a\u200db.example", "U\\+200D"),
        ("\ud800.example", "U\\+D800"),
        ("a＠b.example", "characters"),
        ("ü" * 63 + ".example", "valid|63"),
        ("b" * 64 + ".example", "63"),
        ("a." * 200, "253"),
        ("\ufdfa" * 60 + ".example", "253"),
        ("😀" * 60 + ".example", "63"),
        ("\u200d😀.example", "U\\+200D|not a valid"),
        ("אa.example", "not a valid"),
    ],
)
def test_invalid_domain_is_refused_with_a_reason(domain: str, problem: str) -> None:
    with pytest.raises(InvalidDomain, match=problem):
        to_ascii(domain)
    assert with_ascii_domain(f"user@{domain}").rpartition("@")[2] == domain.replace("\x00", "").strip()


@given(st.text())
def test_result_is_ascii_short_and_stable(text: str) -> None:
    try:
        encoded = to_ascii(text)
    except InvalidDomain:
        return
    assert encoded.isascii()
    assert len(encoded) <= MAX_DOMAIN_CHARS
    assert to_ascii(encoded) == encoded


def test_sharp_s_and_double_s_are_different_domains() -> None:
    assert to_ascii("straße.example") != to_ascii("strasse.example")
    assert to_ascii("bücher.example") == to_ascii("XN--BCHER-KVA.example")
