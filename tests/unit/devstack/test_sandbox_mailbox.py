"""Test what the sandbox's mailbox keeps of messages, including malformed ones, and the sandbox's key."""

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pipeline.devstack.sandbox import api, keys, pages
from pipeline.devstack.sandbox.mailbox import HtmlLinks, SandboxMailbox, SandboxMessage, correlation_data
from pipeline.errors import InvalidSettings


def message(raw: bytes, number: int = 1) -> SandboxMessage:
    return SandboxMessage(number, f"q{number}", 0, "b@mailfold.test", ("anna@example.test",), False, raw)


def test_unique_arguments_are_read_from_a_folded_header() -> None:
    raw = b'Message-ID: <a@b>\r\nX-SMTPAPI: {"unique_args":\r\n {"mailfold_email_id": "e1"}}\r\n\r\nhello'
    assert correlation_data(raw) == ("<a@b>", {"mailfold_email_id": "e1"})


@pytest.mark.parametrize("given", [b"", b"{", b"[]", b"1", b'{"unique_args": 3}', b'{"unique_args": null}'])
def test_header_without_valid_arguments_gives_none(given: bytes) -> None:
    assert correlation_data(b"X-SMTPAPI: " + given + b"\r\n\r\n") == ("", {})


def test_message_without_headers_has_no_correlation_data() -> None:
    assert correlation_data(b"") == ("", {})


def test_images_and_links_are_found_in_malformed_html() -> None:
    found = HtmlLinks("<A HREF='one?a=1&amp;b=2'>x</a><a name=x><img src=\"p.gif\"/><img><p <a href=two>")
    assert (found.links, found.images) == (["one?a=1&b=2"], ["p.gif"])


def test_oldest_messages_are_dropped_above_the_count_limit() -> None:
    kept = SandboxMailbox(keep=2)
    for number in (1, 2, 3):
        kept.add(message(b"x", number))
    assert [found.number for found in kept.newest()] == [3, 2]


def test_oldest_messages_are_dropped_above_the_size_limit_but_never_the_newest() -> None:
    kept = SandboxMailbox(keep=100, keep_bytes=10)
    kept.add(message(b"12345", 1))
    kept.add(message(b"12345", 2))
    assert [found.number for found in kept.newest()] == [2, 1]
    kept.add(message(b"123456789012345", 3))
    assert [found.number for found in kept.newest()] == [3]


MALFORMED = [
    b"",
    b"\r\n",
    b"no header at all",
    b"Content-Type: text/html; charset=martian\r\n\r\n\xff\xfe",
    b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nleft open",
    b"From: <<<>>>,,;;\r\nTo: @\r\nDate: yesterday\r\nMessage-ID: [x\r\nContent-Type: ;;;\r\n\r\nhi",
    b"Subject: =?utf-8?b?////?=\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!",
    b"Content-Disposition: attachment; filename*=utf-8'en'\xff\r\nContent-Type: message/rfc822\r\n\r\nSubject: in",
]


@pytest.mark.parametrize("raw", MALFORMED)
def test_malformed_message_can_be_shown(raw: bytes) -> None:
    shown = api.as_json(message(raw))
    assert shown["size"] == len(raw)
    assert "<html" in pages.message(message(raw))
    assert "<html" in pages.inbox([message(raw)])
    assert isinstance(message(raw).html(), str)


def test_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: keys.public_key(tmp_path), range(16)))
    assert len(made) == 1
    assert base64.b64decode(made.pop())[:2] == b"0Y"
    files = list((tmp_path / "sandbox").iterdir())
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600]


@pytest.mark.parametrize("kind", ["rsa", "garbage"])
def test_file_with_another_kind_of_key_is_refused(tmp_path: Path, kind: str) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "webhook-key.pem").write_bytes(rsa_key if kind == "rsa" else b"garbage")
    with pytest.raises(InvalidSettings, match="not an ECDSA key"):
        keys.public_key(tmp_path)
