"""Tests of templates: drafts, languages, rendering, visible recipients and the tracking hash."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.content import template_source, templates
from pipeline.content.links import TRACKING_HASH_PLACEHOLDER, with_tracking_hash
from pipeline.content.mime import encode_request as mime
from pipeline.content.tokens import read_pixel_token
from pipeline.errors import Refused
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import Signer
from topics.codec import decode, encode
from topics.contents import MessageContent
from topics.record import EmailId
from topics.registry import SEND_REQUESTS, TEMPLATES
from topics.requests import HeaderRecipients, Mailbox, SendRequest
from topics.templates import Template

EMAIL = EmailId("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
TEXT = {"subject": "Hi {{ name }}", "html": "<p>{{ name }}</p>"}


def draft(name: str = "welcome", **values: Any) -> Template:
    return template_source.parse_draft("acme", name, json.dumps({"texts": {"en": TEXT}} | values).encode())


def refusal(name: str = "welcome", **values: Any) -> str:
    with pytest.raises(Refused) as caught:
        draft(name, **values)
    return f"{caught.value.where}: {caught.value}"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"texts": {}}, "texts: 1 to 50 languages"),
        ({"texts": {"en": {}}}, "texts.en: neither html nor text"),
        ({"texts": {"English!": TEXT}}, "texts.english!: a language"),
        ({"texts": {"en": {"html": "\n\n{{ x"}}}, "texts.en.html: line 3: unexpected end"),
        (
            {"texts": {"en": TEXT | {"subject": "{{ x|shuffle }}"}}},
            "texts.en.subject: line 1: there is no filter shuffle",
        ),
        ({"default": "de"}, "default: no texts in this language"),
        ({"syntax": "handlebars"}, "body: Invalid enum value"),
        ({"txts": {}}, "body: Object contains unknown field"),
        ({"texts": {"en": {"html": "x" * 300_000}}}, "texts: 300"),
        ({"schema": []}, "schema: not a JSON schema"),
        ({"schema": {"type": "nothing"}}, "schema.type"),
        ({"schema": {"properties": {"name": {"pattern": "(a+)+"}}}}, "schema.properties.name: pattern: not a keyword"),
        ({"schema": {"$ref": "http://127.0.0.1/"}}, "schema: $ref: not a keyword"),
        (
            {"schema": {"properties": {"nom": {}}}},
            "texts.en.subject: line 1: name is not among the schema's properties",
        ),
    ],
)
def test_invalid_draft_is_refused_with_the_place(values: Any, words: str) -> None:
    assert words in refusal(**values)


def test_name_that_is_unsafe_in_a_path_is_refused() -> None:
    for wrong in ("", "a/b", "a b", "-a", "é", "a" * 101):
        assert "at most 100" in refusal(wrong)


def test_hash_depends_only_on_the_content() -> None:
    first = draft()
    assert draft(schema=None).hash == first.hash
    assert draft(texts={"EN": TEXT}).hash == first.hash
    changed = [
        draft("other"),
        draft(description="x"),
        draft(texts={"en": TEXT | {"text": "x"}}),
        draft(syntax="freshmail"),
    ]
    assert len({first.hash, *(each.hash for each in changed)}) == 5
    other = template_source.parse_draft("other", "welcome", json.dumps({"texts": {"en": TEXT}}).encode())
    assert (other.hash != first.hash, other.template_id != first.template_id) == (True, True)
    assert decode(TEMPLATES, encode(TEMPLATES, first)) == first


def test_nearest_language_is_rendered_or_the_default() -> None:
    template = draft(texts=dict.fromkeys(("en", "en-gb", "pt-br", "default"), TEXT))
    wanted = {
        "en-GB": "en-gb",
        "en_GB": "en-gb",
        "en-US": "en",
        "EN": "en",
        "pt": "default",
        "pt-BR-x": "pt-br",
        "": "default",
    }
    assert {language: templates.language_of(template, language) for language in wanted} == wanted


def test_files_of_a_folder_make_a_draft() -> None:
    files = {
        "template.json": '{"default": "en", "description": "x"}',
        "en.subject": "Hi {{ name }}\n",
        "en.html": "<p>{{ name }}</p>",
        "de.txt": "Hallo {{ name }}",
        "README": "not ours",
    }
    template = template_source.draft_from_files("acme", "welcome", files)
    assert set(template.texts) == {"en", "de"}
    assert template.texts["en"].subject == "Hi {{ name }}"
    rendered = templates.render_template(template, "de", {"name": "<A>"}, now=0)
    assert (rendered.subject, rendered.html, rendered.text, rendered.ref.language) == ("", "", "Hallo <A>", "de")


def test_subject_cannot_become_another_header() -> None:
    with pytest.raises(Refused, match="a line break") as caught:
        templates.render_template(draft(), "en", {"name": "x\r\nBcc: y@example.com"}, now=0)
    assert caught.value.where == "texts.en.subject"
    with pytest.raises(Refused, match="a line break"):
        templates.render_template(draft(), "en", {"name": "=?utf-8?q?=0d=0aBcc:_y?="}, now=0)


def test_values_must_match_the_schema_except_the_tracking_hash() -> None:
    schema = {
        "properties": {"name": {"type": "string", "maxLength": 3}},
        "required": ["name"],
        "additionalProperties": False,
    }
    template = draft(schema=schema)
    assert templates.render_template(template, "en", {"name": "A", "tracking_hash": "x"}, now=0).html == "<p>A</p>"
    for wrong, where in (({"name": 5}, "variables.name"), ({"name": "long"}, "variables.name"), ({}, "variables")):
        with pytest.raises(Refused) as caught:
            templates.render_template(template, "en", wrong, now=0)
        assert caught.value.where == where


@given(st.binary(max_size=80))
def test_any_body_is_a_draft_or_refused(body: bytes) -> None:
    with contextlib.suppress(Refused):
        template_source.parse_draft("acme", "x", body)


def request(**values: Any) -> SendRequest:
    fields: dict[str, Any] = {
        "email_id": EMAIL,
        "message_id": "m",
        "tenant": "acme",
        "dialect": "extrahorizon",
        "brand": "default",
        "recipient": "di@example.com",
        "recorded_at": 0,
    }
    return SendRequest(**(fields | values))


def headers_of(shown: HeaderRecipients | None) -> str:
    raw = mime(
        request(shown=shown),
        MessageContent(text="x"),
        sender=Mailbox(address="a@example.com"),
        message_id="<m@x>",
        date=0,
    )
    return raw.split(b"\r\n\r\n")[0].replace(b"\r\n ", b" ").decode()


def test_every_copy_names_the_same_recipients_and_no_bcc() -> None:
    many = tuple(Mailbox(address=f"someone{nth}@example.com", name="Ü" * 20) for nth in range(50))
    headers = headers_of(HeaderRecipients(to=(Mailbox(address="anna@example.com", name="Anna"),), cc=many))
    assert "To: Anna <anna@example.com>\r\n" in headers
    assert headers.count("someone") == 50
    assert "di@example.com" not in headers
    assert "To: undisclosed-recipients:;\r\n" in headers_of(HeaderRecipients())
    assert "To: di@example.com\r\n" in headers_of(None)


def test_each_email_of_a_shared_content_gets_its_own_hash() -> None:
    signer = Signer(SecretRing.of("s" * 32), "track")
    filled = with_tracking_hash(f"a {TRACKING_HASH_PLACEHOLDER} b", signer, EMAIL)
    assert read_pixel_token(signer, filled.split()[1]) == EMAIL
    assert with_tracking_hash("nothing", signer, EMAIL) == "nothing"


def test_request_stored_before_templates_is_readable() -> None:
    old = (
        b'{"type":"send-request/1","email_id":"%s","message_id":"m","tenant":"t","dialect":"fasttrack",'
        % EMAIL.encode()
    )
    old += b'"brand":"1","recipient":"a@example.com","recorded_at":5}'
    read = decode(SEND_REQUESTS, old)
    assert (read.shown, read.template, bytes(read.variables)) == (None, None, b"null")
    assert encode(SEND_REQUESTS, read) == old
    assert msgspec.json.decode(encode(SEND_REQUESTS, request(shown=HeaderRecipients())))["shown"] == {}
