"""What is redacted before `delivery-events`, and what may stay."""

import json

import pytest

from pipeline.errors import Unrecognised
from pipeline.webhooks.redaction import (
    MAX_ADDRESS_CHARS,
    MAX_KNOWN_ADDRESSES,
    REDACTED,
    redact_all,
    redact_links,
    redacted_native,
    redactor,
)
from tests.support.growth import MAX_GROWTH, growth

ANNA = "anna+news@mail.example.com"


@pytest.mark.parametrize(
    ("text", "redacted_text"),
    [
        (f"550 5.1.1 <{ANNA}>: no such user", "550 5.1.1 <[address]>: no such user"),
        (f"{ANNA},anna@localhost;\tand (x@y)", "[address],[address];\tand ([address])"),
        ("smtp;anna%2Bnews%40mail.example.com is gone", "smtp;[address] is gone"),
        ("ünï@exämple.com", REDACTED),
        ("no address here, 5 @ 3", "no address here, 5 @ 3"),
        ("", ""),
    ],
)
def test_redacted_replies_contain_no_address(text: str, redacted_text: str) -> None:
    assert redact_all(text) == redacted_text


@pytest.mark.parametrize(
    ("link", "redacted_text"),
    [
        (f"https://example.com/u?e={ANNA}&x=1", "https://example.com/u?e=[address]&x=1"),
        ("https://example.com/u?e=anna%2Bnews%40mail.example.com&x=1", "https://example.com/u?e=[address]&x=1"),
        ("https://medium.example/@anna/story", "https://medium.example/@anna/story"),
        ("https://cdn.example/npm/react@18.2.0/index.js", "https://cdn.example/npm/react@18.2.0/index.js"),
        ("https://user:secret@example.com/", "https://user:[address]/"),
        ("https://example.com/", "https://example.com/"),
    ],
)
def test_redacted_link_is_still_a_link(link: str, redacted_text: str) -> None:
    assert redact_links(link) == redacted_text


def test_known_address_is_redacted_in_every_spelling() -> None:
    hide = redactor(["anna@localhost", "", "no address", 'quoted"@x'])
    redacted = "anna@localhost ANNA@LOCALHOST anna%40localhost bob@localhost"
    assert hide(redacted) == f"{REDACTED} {REDACTED} {REDACTED} bob@localhost"
    assert hide.redact_known(f"{ANNA} anna@localhost") == f"{ANNA} {REDACTED}"


def test_native_fields_stay_without_personal_ones() -> None:
    event = {
        "to": ANNA,
        "message-id": f"20130821005614.1@{ANNA.partition('@')[2]}",
        "url": f"https://example.com/@x?e={ANNA}",
        "newer": {"seen by": [ANNA, {"to": "x", ANNA: 1}]},
        "size": 2.5,
    }
    redacted = redacted_native(
        json.dumps(event).encode(), redactor([]), personal=frozenset({"to"}), verbatim=frozenset({"url", "message-id"})
    )
    assert json.loads(bytes(redacted)) == {
        "message-id": "20130821005614.1@mail.example.com",
        "url": "https://example.com/@x?e=[address]",
        "newer": {"seen by": [REDACTED, {REDACTED: 1}]},
        "size": 2.5,
    }


@pytest.mark.parametrize(
    ("value", "redacted_text"),
    [
        (b"9" * 400, b"9" * 400),
        (b"1.50", b"1.50"),
        (b"true", b"true"),
        (b'"\\u00e4 \\n"', '"ä \\n"'.encode()),
        (b'"plain \\n \\"text\\""', b'"plain \\n \\"text\\""'),
        # Behind an escape, where looking at the bytes as they are would begin too early, or see nothing at all.
        (b'"gone:\\nanna@example.com"', b'"gone:\\n[address]"'),
        (b'"\\u0061nna\\u0040example.com"', b'"[address]"'),
        (b'"anna%\\u00340example.com"', b'"[address]"'),
        (b'"0@\\""', b'"0@\\""'),
        (b'["anna@example.com",{"a":"b@c.de"}]', b'["[address]",{"a":"[address]"}]'),
        (b'[{"a" : 1.50}]', b'[{"a" : 1.50}]'),
        (b'[{"a" : 1.50, "to" : 1}]', b'[{"a":1.5}]'),
        (b'[{"\\u0074o" : 1}]', b"[{}]"),
    ],
)
def test_value_is_unchanged_except_for_addresses(value: bytes, redacted_text: bytes) -> None:
    redacted = redacted_native(b'{"x":%s}' % value, redactor([]), personal=frozenset({"to"}), verbatim=frozenset())
    assert bytes(redacted) == b'{"x":%s}' % redacted_text


def test_event_nested_too_deeply_is_unrecognised() -> None:
    # Deeper than what any of the supported Pythons lets a parser written in C go down.
    deep = b'{"x":%s"@"%s}' % (b'{"a":' * 100_000, b"}" * 100_000)
    with pytest.raises(Unrecognised):
        redacted_native(deep, redactor([]), personal=frozenset(), verbatim=frozenset())


@pytest.mark.parametrize(
    "text", ["a" * 300_000 + " @ %40", "a@" * 50_000, "%4" * 50_000 + "%40", "a." * 100_000 + "@" + "b." * 100_000]
)
def test_redaction_takes_linear_time(text: str) -> None:
    """Quadratic, these would take minutes."""
    assert len(redact_links(redact_all(text))) <= len(text) * 9


@pytest.mark.parametrize(
    ("text", "redacted_text"),
    [
        ("bounce+anna@b.com@x", "bounce+[address]@x"),
        ("ANNA@B.COM/anna%40b.com/zoe@b.co", "[address]/[address]/[address]"),
        # The longer domain is somebody else's; what stands before it is the shorter one's.
        ("zoe@b.com", "[address]m"),
        ("eve@b.com", "eve@b.com"),
        ("anna@b.comanna@b.com", "[address][address]"),
        ("@b.com", "@b.com"),
        ("a@b@c.de", "[address]"),
    ],
)
def test_known_addresses_are_redacted_anywhere_in_a_text(text: str, redacted_text: str) -> None:
    assert redactor(["anna@b.com", "zoe@b.co", "a@b@c.de"]).redact_known(text) == redacted_text


def test_too_many_recipients_redact_everything_like_an_address() -> None:
    many = [f"user{number}@example.com" for number in range(MAX_KNOWN_ADDRESSES + 1)]
    for addresses in (many, ["a" * MAX_ADDRESS_CHARS + "@b.c"]):
        assert redactor(addresses).redact_known("id.1@somebody.test of user7@example.com") == "[address] of [address]"


@pytest.mark.parametrize(
    ("addresses", "unit"),
    [
        (["a" * 300 + "@b.c"], "a"),
        ([f"{'a' * 300}{number}@b" for number in range(50)] + ["z@b"], "a" * 99 + "@b"),
        (["x@" + "b" * 250], "@" + "b" * 200),
        (["a@b.c"], "@b.c%40b.c"),
        (["a" * 5000 + "@b.c"], "a"),
    ],
)
def test_known_addresses_take_time_in_proportion_to_the_text(addresses: list[str], unit: str) -> None:
    hide = redactor(addresses).redact_known
    hide("%40" + addresses[0])
    grown = growth(lambda size: hide(f"{addresses[-1]} %40 {unit * (size // len(unit))}"), 40_000)
    assert grown <= MAX_GROWTH


def test_time_is_not_quadratic_in_the_number_of_addresses() -> None:
    def redacted(number: int) -> str:
        addresses = [f"user{one}@example{one}.com" for one in range(number)]
        return redactor(addresses).redact_known(" ".join(addresses))

    assert growth(redacted, 1000) <= MAX_GROWTH
