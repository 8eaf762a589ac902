"""Tests of encoded messages: golden files, and properties of any message."""

import email
import re
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.content.mime import encode_request, needs_smtputf8, with_ascii_domain
from topics.contents import Attachment, MessageContent
from topics.record import EmailId
from topics.requests import Mailbox, SendRequest

GOLDEN = Path(__file__).parents[2] / "golden" / "mime"
ID = EmailId("0191d5a0-0000-7000-8000-000000000001")


def request(**values: Any) -> SendRequest:
    fields: dict[str, Any] = {
        "email_id": ID,
        "message_id": "m",
        "tenant": "acme",
        "dialect": "fasttrack",
        "brand": "7",
        "recipient": "anna@example.com",
        "recorded_at": 1,
        "subject": "An offer",
    }
    return SendRequest(**(fields | values))


def rendered(content: MessageContent, sender: Mailbox | None = None, **values: Any) -> bytes:
    return encode_request(
        request(**values),
        content,
        sender=sender or Mailbox(address="news@shop.example", name="Shop"),
        message_id="<abc.def@mail.example>",
        date=1_700_000_000_000,
        extra=(("X-SMTPAPI", '{"unique_args": {"mailfold_email_id": "x"}}'),),
    )


def parsed(raw: bytes) -> EmailMessage:
    message = email.message_from_bytes(raw, policy=SMTP)
    assert isinstance(message, EmailMessage)
    return message


CASES: dict[str, bytes] = {
    "text_only": rendered(MessageContent(text="Hello\nAnna\n")),
    "html_only": rendered(MessageContent(html="<p>Hello <b>Anna</b></p>")),
    "all_three": rendered(
        MessageContent(
            html="<p>Grüße, Zoë</p>", text="Grüße, Zoë", amp="<!doctype html><html ⚡4email data-css-strict></html>"
        ),
        Mailbox(address="post@bücher.example", name="Bücher & Söhne, GmbH"),
        subject="Grüße aus Köln – nur für Sie: " + "sehr " * 20 + "günstig",
        recipient_name="Zoë “Z” O’Hara",
        reply_to=("help@shop.example", "sales@bücher.example"),
    ),
    "attachments": rendered(
        MessageContent(
            text="See attached.",
            html="<p>See attached.</p>",
            attachments=(
                Attachment(filename="Rechnung März.pdf", media_type="application/pdf", data=bytes(range(256))),
                Attachment(filename='a "quoted".txt', media_type="text/plain", data=b"a\nb"),
                Attachment(filename="mail.eml", media_type="message/rfc822", data=b"Subject: x\r\n\r\ny"),
            ),
            headers=(
                ("List-Unsubscribe", "<https://shop.example/u/1>"),
                ("Message-ID", "<forged@x>"),
                ("Bad Name", "x"),
            ),
        )
    ),
    "base64": rendered(MessageContent(text="こんにちは世界。" * 20), subject="こんにちは" * 30),
    "long_lines": rendered(MessageContent(text="x" * 3000 + "\n.\n..dots\nFrom here\n" + "trailing \t\n")),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_messages_equal_their_golden_files(name: str) -> None:
    assert CASES[name] == (GOLDEN / f"{name}.eml").read_bytes()


@pytest.mark.parametrize("name", sorted(CASES))
def test_golden_messages_parse_without_defects(name: str) -> None:
    raw = CASES[name]
    assert parsed(raw).defects == []
    for part in parsed(raw).walk():
        assert part.defects == []
    lines = raw.split(b"\r\n")
    assert not any(b"\r" in line or b"\n" in line for line in lines), "every line ends in CRLF"
    assert max(map(len, lines)) <= 998
    assert raw.isascii()


def test_alternatives_are_ordered_from_plain_to_rich() -> None:
    message = parsed(CASES["all_three"])
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/x-amp-html", "text/html"]
    assert message["Subject"].startswith("Grüße aus Köln – nur")
    [sender] = message["From"].addresses
    assert (sender.display_name, sender.addr_spec) == ("Bücher & Söhne, GmbH", "post@xn--bcher-kva.example")
    [recipient] = message["To"].addresses
    assert recipient.display_name == "Zoë “Z” O’Hara"
    assert [a.addr_spec for a in message["Reply-To"].addresses] == ["help@shop.example", "sales@xn--bcher-kva.example"]
    assert str(message["Date"]) == "Tue, 14 Nov 2023 22:13:20 +0000"


def test_text_part_is_made_from_html() -> None:
    message = parsed(CASES["html_only"])
    plain, html = message.iter_parts()
    assert plain.get_content() == "Hello Anna\r\n"
    assert html.get_content_type() == "text/html"


def test_attachments_are_unchanged_and_own_headers_replace_no_reserved_header() -> None:
    message = parsed(CASES["attachments"])
    files = list(message.iter_attachments())
    assert [file.get_filename() for file in files] == ["Rechnung März.pdf", 'a "quoted".txt', "mail.eml"]
    assert files[0].get_content() == bytes(range(256))
    assert files[2].get_content_type() == "application/octet-stream"
    assert message.get_all("Message-ID") == ["<abc.def@mail.example>"]
    assert message["List-Unsubscribe"] == "<https://shop.example/u/1>"
    assert "Bad Name" not in str(message)


TEXT = st.text(st.characters(codec="utf-8"), max_size=400)
LINE = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=300)


@given(text=TEXT)
@example(text="\r\n\r\n.\r\n \t\r\n=3D\r\n")
@example(text="a" * 2000 + " \n")
@example(text="\0ä")
def test_any_text_is_unchanged_except_line_ends(text: str) -> None:
    message = parsed(rendered(MessageContent(text=text or "x")))
    payload = message.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload == re.sub(rb"\r\n|\r|\n", b"\r\n", (text or "x").encode())


@given(subject=LINE, name=LINE, recipient_name=LINE)
@example(subject="=?utf-8?q?not_encoded?=", name="a, b; c: <d@e>", recipient_name='"quoted" \\ back')
@example(subject="x" * 1500, name="y" * 1500, recipient_name="z " * 700)
@example(subject="two  spaces and a  few more " * 8, name=" ", recipient_name="")
def test_any_names_and_subjects_are_encoded_in_short_ascii_lines(subject: str, name: str, recipient_name: str) -> None:
    raw = rendered(
        MessageContent(text="x"),
        Mailbox(address="a@b.example", name=name),
        subject=subject,
        recipient_name=recipient_name,
    )
    head = raw.split(b"\r\n\r\n")[0]
    assert head.isascii()
    assert max(map(len, head.split(b"\r\n"))) <= 998
    message = parsed(raw)
    assert _squeezed(message["Subject"]) == _squeezed(subject)
    assert [a.addr_spec for a in message["From"].addresses] == ["a@b.example"]
    assert [a.addr_spec for a in message["To"].addresses] == ["anna@example.com"]


def _squeezed(text: str) -> str:
    # Mail clients may change the white space around encoded words.
    return re.sub(r"\s+", "", str(text))


EVIL = st.text(st.sampled_from('a\r\n\0: <>@\x0b\x0c\x85\u2028,;"\\é'), max_size=40)


@given(words=EVIL)
@example(words="x\r\nBcc: victim@example.com")
@example(words="\r\n\r\n<script>")
def test_no_text_of_a_caller_becomes_another_header(words: str) -> None:
    content = MessageContent(
        text="body",
        headers=(("X-Own", words), (words, "x")),
        attachments=(Attachment(filename=words, media_type=words, data=b"x"),),
    )
    raw = rendered(content, Mailbox(address="a@b.example", name=words), subject=words, recipient_name=words)
    head = raw.partition(b"\r\n\r\n")[0]
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n") if line[:1] not in (b" ", b"\t")}
    assert names <= {
        *(b"from", b"to", b"subject", b"date", b"message-id", b"x-smtpapi", b"x-own", b"mime-version", b"content-type"),
        words.encode().lower(),
    }
    assert b"\0" not in head
    assert b"bcc" not in names
    assert raw.replace(b"\r\n", b"").count(b"\r") == 0
    assert raw.replace(b"\r\n", b"").count(b"\n") == 0


@pytest.mark.parametrize(
    ("address", "wire", "utf8"),
    [
        ("anna@example.com", "anna@example.com", False),
        ("anna@bücher.example", "anna@xn--bcher-kva.example", False),
        ("jürgen@example.com", "jürgen@example.com", True),
        ("jürgen@bücher.example", "jürgen@xn--bcher-kva.example", True),
        ("anna@example.com\r\nRCPT TO:<x@y>", "anna@example.comRCPT TO:<x@y>", False),
    ],
)
def test_smtputf8_is_needed_only_for_non_ascii_local_parts(address: str, wire: str, utf8: bool) -> None:
    assert with_ascii_domain(address) == wire
    assert needs_smtputf8(with_ascii_domain(address)) is utf8
