"""Who asks: whom proxies of ours vouch for, and nobody whom somebody only claims to be."""

import pytest

from pipeline.gateway.client_info import USER_AGENT_MAX_BYTES, ClientInfoReader
from pipeline.gateway.routes.unsubscribe import has_one_click_field


def seen(peer: str, *forwarded: str, trusted: tuple[str, ...] = ()) -> str:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return ClientInfoReader(trusted)({"headers": headers, "client": (peer, 1)}).address


OURS = ("10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["104.47.0.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["104.47.0.1", "203.0.113.9,10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("fd00::1", ["[2001:db8::9]:4711"], "2001:db8::9"),
        ("10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("", ["203.0.113.9"], ""),
    ],
)
def test_the_address_is_the_last_that_a_proxy_of_ours_saw(peer: str, forwarded: list[str], address: str) -> None:
    assert seen(peer, *forwarded, trusted=OURS) == address
    assert seen(peer, *forwarded) == peer


def test_a_user_agent_is_bounded_and_any_bytes_will_do() -> None:
    caller = ClientInfoReader()({"headers": [(b"user-agent", b"\xff" * 9_000)], "client": None})
    assert caller.user_agent == "ÿ" * USER_AGENT_MAX_BYTES
    assert caller.address == ""


@pytest.mark.parametrize(
    ("name", "value", "ahead"),
    [
        (b"sec-purpose", b"prefetch", True),
        (b"sec-purpose", b"prefetch;prerender", True),
        (b"purpose", b"Prefetch", True),
        (b"x-moz", b"prefetch", True),
        (b"x-purpose", b"preview", True),
        (b"purpose", b"navigate", False),
        (b"sec-fetch-mode", b"prefetch", False),
    ],
)
def test_what_is_fetched_ahead_is_known(name: bytes, value: bytes, ahead: bool) -> None:
    assert ClientInfoReader()({"headers": [(name, value)], "client": None}).is_prefetch is ahead


MULTIPART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--b--\r\n'


@pytest.mark.parametrize(
    ("content_type", "body", "click"),
    [
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=One-Click", True),
        ("", b"List-Unsubscribe=One-Click\r\n", True),
        ("application/x-www-form-urlencoded; charset=utf-8", b"a=1&List-Unsubscribe=One-Click", True),
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=Two-Clicks", False),
        ("application/x-www-form-urlencoded", b"", False),
        ("application/x-www-form-urlencoded", b"&".join([b"a=1"] * 50), False),
        ("multipart/form-data; boundary=b", MULTIPART % (b"List-Unsubscribe", b"One-Click"), True),
        ("multipart/form-data; boundary=b", MULTIPART % (b"Other", b"One-Click"), False),
        ("multipart/form-data", MULTIPART % (b"List-Unsubscribe", b"One-Click"), False),
        ("multipart/form-data; boundary=b", b"\xff\x00", False),
    ],
)
def test_a_click_is_the_one_field_in_either_encoding(content_type: str, body: bytes, click: bool) -> None:
    assert has_one_click_field(content_type, body) is click
