"""Unit tests of a request's client: its address behind trusted proxies, its user agent, prefetches, one-click POSTs."""

import pytest

from pipeline.gateway.client_info import USER_AGENT_MAX_BYTES, ClientInfoReader
from pipeline.gateway.routes.unsubscribe import has_one_click_field


def client_address(peer: str, *forwarded: str, trusted: tuple[str, ...] = ()) -> str:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return ClientInfoReader(trusted)({"headers": headers, "client": (peer, 1)}).address


TRUSTED_NETWORKS = ("10.0.0.0/8", "fd00::/8")


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
def test_client_address_is_the_rightmost_untrusted_one(peer: str, forwarded: list[str], address: str) -> None:
    assert client_address(peer, *forwarded, trusted=TRUSTED_NETWORKS) == address
    assert client_address(peer, *forwarded) == peer


def test_user_agent_of_any_bytes_is_accepted_and_cut_off() -> None:
    client = ClientInfoReader()({"headers": [(b"user-agent", b"\xff" * 9_000)], "client": None})
    assert client.user_agent == "ÿ" * USER_AGENT_MAX_BYTES
    assert client.address == ""


@pytest.mark.parametrize(
    ("name", "value", "is_prefetch"),
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
def test_prefetch_headers_are_recognized(name: bytes, value: bytes, is_prefetch: bool) -> None:
    assert ClientInfoReader()({"headers": [(name, value)], "client": None}).is_prefetch is is_prefetch


MULTIPART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--b--\r\n'


@pytest.mark.parametrize(
    ("content_type", "body", "is_one_click"),
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
def test_one_click_field_is_found_in_both_form_encodings(content_type: str, body: bytes, is_one_click: bool) -> None:
    assert has_one_click_field(content_type, body) is is_one_click
