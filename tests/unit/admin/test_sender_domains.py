"""Which senders the verified domains of a tenant cover, and how domains are spelled."""

import pytest

from pipeline.admin.sender_domains import SenderRules, normalize_domain
from pipeline.errors import Refused

RULES = SenderRules(
    {"*": frozenset({"shop.example", "xn--mnchen-3ya.example"}), "7": frozenset({"only-seven.example"})},
    {"*": "news@shop.example", "7": "news@only-seven.example", "8": "news@other.example", "9": ""},
)


@pytest.mark.parametrize(
    ("brand", "address", "is_allowed"),
    [
        ("1", "news@shop.example", True),
        ("1", "News@SHOP.Example", True),
        ("1", "news@mail.shop.example", True),
        ("1", "news@a.b.shop.example", True),
        ("1", "news@münchen.example", True),
        ("1", "news@MÜNCHEN.example", True),
        ("1", "news@xn--mnchen-3ya.example", True),
        ("1", "news@notshop.example", False),
        ("1", "news@example", False),
        ("1", "news@shop.example.evil.example", False),
        ("1", "shop.example@evil.example", False),
        ("7", "news@only-seven.example", True),
        ("1", "news@only-seven.example", False),
        ("1", "news@", False),
        ("1", "news@shop.example..", False),
        ("1", '"a@shop.example"@evil.example', False),
        ("1", "", False),
    ],
)
def test_verified_domain_covers_itself_and_its_subdomains(brand: str, address: str, is_allowed: bool) -> None:
    assert RULES.allows(brand, address) is is_allowed
    assert bool(RULES.problem(brand, address)) is not is_allowed


@pytest.mark.parametrize(
    ("brand", "is_allowed"),
    [("7", True), ("8", False), ("9", True), ("10", True)],
)
def test_request_without_sender_is_judged_by_the_sender_of_its_brand(brand: str, is_allowed: bool) -> None:
    assert bool(RULES.problem(brand, None)) is not is_allowed


def test_request_without_any_sender_has_the_address_of_the_installation() -> None:
    assert SenderRules().problem("1", None) == ""
    assert SenderRules().problem("1", "news@shop.example") != ""


@pytest.mark.parametrize(
    ("typed", "domain"),
    [
        ("Shop.Example", "shop.example"),
        ("shop.example.", "shop.example"),
        (" münchen.example ", "xn--mnchen-3ya.example"),
        ("XN--MNCHEN-3YA.example", "xn--mnchen-3ya.example"),
    ],
)
def test_domain_is_stored_in_one_spelling(typed: str, domain: str) -> None:
    assert normalize_domain(typed) == domain


@pytest.mark.parametrize(
    "typed", ["", ".", "localhost", "192.0.2.1", "a..b", "shop example.com", "a" * 300 + ".com", "com."]
)
def test_what_is_no_domain_is_refused(typed: str) -> None:
    with pytest.raises(Refused):
        normalize_domain(typed)
