"""The sandbox's kept messages, their headers and links, and its signing key."""

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pipeline.devstack.sandbox import api, keys
from pipeline.devstack.sandbox.mailbox import (
    MAX_PARSED_HEADER_CHARS,
    HtmlLinks,
    SandboxMailbox,
    SandboxMessage,
    correlation_data,
)
from pipeline.errors import InvalidSettings


def message(raw: bytes, number: int = 1) -> SandboxMessage:
    return SandboxMessage(number, f"q{number}", 0, "b@mailfold.test", ("anna@example.test",), False, raw)


def test_unique_arguments_are_read_from_folded_header() -> None:
    raw = b'Message-ID: <a@b>\r\nX-SMTPAPI: {"unique_args":\r\n {"mailfold_email_id": "e1"}}\r\n\r\nhello'
    assert correlation_data(raw) == ("<a@b>", {"mailfold_email_id": "e1"})


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"1", b'{"unique_args": 3}', b'{"unique_args": null}'])
def test_invalid_smtpapi_header_gives_no_unique_arguments(value: bytes) -> None:
    assert correlation_data(b"X-SMTPAPI: " + value + b"\r\n\r\n") == ("", {})


def test_message_without_headers_has_no_correlation_data() -> None:
    assert correlation_data(b"") == ("", {})


def test_images_and_links_are_found_in_invalid_html() -> None:
    html_links = HtmlLinks("<A HREF='one?a=1&amp;b=2'>x</a><a name=x><img src=\"p.gif\"/><img><p <a href=two>")
    assert (html_links.links, html_links.images) == (["one?a=1&b=2"], ["p.gif"])


def test_oldest_messages_are_removed_when_there_are_too_many() -> None:
    mailbox = SandboxMailbox(keep=2)
    for number in (1, 2, 3):
        mailbox.add(message(b"x", number))
    assert [shown.number for shown in mailbox.newest()] == [3, 2]


def test_oldest_messages_are_removed_when_too_large_but_newest_is_kept() -> None:
    mailbox = SandboxMailbox(keep=100, keep_bytes=10)
    mailbox.add(message(b"12345", 1))
    mailbox.add(message(b"12345", 2))
    assert [shown.number for shown in mailbox.newest()] == [2, 1]
    mailbox.add(message(b"123456789012345", 3))
    assert [shown.number for shown in mailbox.newest()] == [3]


def test_page_of_the_mailbox_says_whether_older_messages_follow() -> None:
    mailbox = SandboxMailbox(keep=10)
    for number in range(1, 6):
        mailbox.add(message(b"x", number))
    first, has_older = mailbox.page(before=100, limit=3)
    assert ([shown.number for shown in first], has_older) == ([5, 4, 3], True)
    last, has_older = mailbox.page(before=3, limit=2)
    assert ([shown.number for shown in last], has_older) == ([2, 1], False)


@pytest.mark.parametrize(
    ("sender", "brand"),
    [
        (b"Nordlicht <news@nordlicht.test>", "Nordlicht"),
        (b"=?utf-8?b?U8O8ZHdpbmQ=?= <news@suedwind.test>", "Südwind"),
        (b"news@nordlicht.test", "nordlicht.test"),
        (b"<<<>>>,,;;", ""),
        (b"", ""),
    ],
)
def test_brand_is_the_senders_name_or_else_its_domain(sender: bytes, brand: str) -> None:
    assert message(b"From: " + sender + b"\r\n\r\n").sender()[0] == brand


def test_header_that_is_too_long_to_be_parsed_is_returned_as_it_came() -> None:
    value = '"' * MAX_PARSED_HEADER_CHARS
    assert message(f"To: {value}\r\n {value}\r\nSubject: hi\r\n\r\n".encode()).header("To") == f"{value} {value}"


def test_headers_are_shown_where_parts_are_nested_too_deep_to_be_parsed() -> None:
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(3_000))
    shown = message(b"Subject: deep\r\n" + nested)
    assert shown.subject() == "deep"
    assert api.as_json(shown)["size"] == len(shown.raw)


def test_concurrent_callers_get_one_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        public_keys = set(pool.map(lambda _: keys.public_key(tmp_path), range(16)))
    assert len(public_keys) == 1
    assert base64.b64decode(public_keys.pop())[:2] == b"0Y"
    files = list((tmp_path / "sandbox").iterdir())
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600]


@pytest.mark.parametrize("kind", ["rsa", "garbage"])
def test_file_without_an_ecdsa_key_is_refused(tmp_path: Path, kind: str) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "webhook-key.pem").write_bytes(rsa_key if kind == "rsa" else b"garbage")
    with pytest.raises(InvalidSettings, match="not an ECDSA key"):
        keys.public_key(tmp_path)
