"""Limits of a tenant's content: linear time, bounded memory, and no crash of the process."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from pipeline.admin import Brand, Provider
from pipeline.content import schemas, template_source, text
from pipeline.content.chunks import unpack_content
from pipeline.content.links import TRACKING_HASH_PLACEHOLDER, with_click_links, with_pixel
from pipeline.content.text import text_of, with_text_part
from pipeline.content.tokens import read_pixel_token
from pipeline.content.twig import TwigText
from pipeline.dispatch import deliver
from pipeline.dispatch.deliver import SendJobHandler
from pipeline.dispatch.message import MessageWriter
from pipeline.errors import Refused
from pipeline.gateway.intake import AcceptedMessage, MessageIntake
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.ports import Log
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from tests.conftest import RING, SECRET
from topics.contents import Attachment, MessageContent
from topics.record import EmailId
from topics.requests import SendRequest

SIGNER = Signer(RING, "track")
ID = EmailId("0191d5a0-0000-7000-8000-000000000001")
BASE = "https://t.example"
MAX_GROWTH = 2.6
"""Of the time for twice the input; the square would be 4."""


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time of the faster of two runs."""
    took = []
    for _ in range(2):
        begun = time.thread_time()
        work()
        took.append(time.thread_time() - begun)
    return min(took)


def assert_linear(work: Callable[[int], object], size: int) -> None:
    """Assert that doubling the input, in one of three tries, doubles no more than the time."""
    growths = []
    for _ in range(3):
        small, large = seconds(lambda: work(size)), seconds(lambda: work(2 * size))
        # A time below a millisecond is mostly noise.
        growths.append(large / max(small, 0.001))
        if growths[-1] <= MAX_GROWTH:
            return
    pytest.fail(f"twice the input took {growths} times as long")


HOSTILE: dict[str, Callable[[int], str]] = {
    "unclosed tags": lambda n: "<a " * n,
    "unclosed quotes": lambda n: "<a x='" * n,
    "unclosed comments": lambda n: "<!--" * n,
    "unclosed declarations": lambda n: "<!" * n,
    "unclosed instructions": lambda n: "<?" * n,
    "unclosed sections": lambda n: "<![CDATA[" * n,
    "unclosed end tags": lambda n: "</" * n,
    "unclosed raw texts": lambda n: "<style>" * n,
    "raw texts' ends": lambda n: "<style></style " * n,
    "conditional comments": lambda n: "<!--[if " * n,
    "a conditional comment of tags": lambda n: "<!--[if mso]>" + "<a " * n + "-->",
    "dashes": lambda n: "<!--" + "-" * n,
    "equals signs": lambda n: "<a " + "= " * n,
    "blanks": lambda n: "<a x" + " " * n,
    "references": lambda n: '<a href="' + "&amp" * n + '">',
    "a long reference": lambda n: '<a href="&' + "a" * n + '">',
    "a long number": lambda n: '<a href="&#' + "1" * n + ';">',
    "angle brackets": lambda n: "<" * n,
    "attributes": lambda n: "<a " + " ".join(f"a{i}=1" for i in range(n)) + ">",
    "attributes with angle brackets": lambda n: "<a " + " ".join(f"a{i}='>'" for i in range(n)) + ">",
    "attributes that look like tags": lambda n: "<a " + " ".join(f"<a{i}" for i in range(n)) + ">",
    "attributes in a style of an image": lambda n: "<svg><style><a " + " ".join(f"a{i}=1" for i in range(n)) + ">",
    "nested boxes": lambda n: "<div>" * n,
    "nested boxes and ends of none": lambda n: "<div>" * n + "</p>" * n,
    "unknown elements and other ends": lambda n: "<x>" * n + "</y>" * n,
    "formatting opened again": lambda n: "<p>" + "".join(f"<b a={i}>" for i in range(n)) + "<p>x" * n,
    "links in tables": lambda n: "<a href=http://x>y<table><td>" * n,
    "nested links": lambda n: "<a href=http://x>y" * n + "</a>" * n,
    "links opened again": lambda n: f"<a href='http://{'x' * 1000}'>" + "<p>y" * n,
    "boxes in a hidden style": lambda n: "<select><style>" + "<div>" * n + "</style>",
    "joiners": lambda n: " \u200c" * n,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_text_part_takes_linear_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_SOURCE_CHARS", 10**9)
    assert_linear(lambda size: text_of(HOSTILE[name](size)), 4_000)


@pytest.mark.parametrize("name", HOSTILE)
def test_links_and_pixel_take_linear_time(name: str) -> None:
    def tracked(size: int) -> str:
        return with_pixel(with_click_links(HOSTILE[name](size), SIGNER, ID, BASE), SIGNER, ID, BASE)

    assert_linear(tracked, 4_000)


def test_deep_nesting_neither_crashes_nor_exhausts_memory() -> None:
    script = """
import resource
from pipeline.content.text import text_of
resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))
for tag in ("div", "b", "table", "svg><style", "template"):
    text_of(f"<{tag}>" * 100_000 + "x")
text_of("<p>" + "".join(f"<b a={i}>" for i in range(50_000)) + "<p>x" * 50_000)
text_of("<x" + "".join(f" a{i}" for i in range(150_000)) + ">")
print("alive")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "alive\n"), ended.stderr


def test_large_document_keeps_all_its_text_in_pieces() -> None:
    rows = [f"<tr><td>{n}<td><b>row</b> <a href='https://x.example/{n}'>link</a></tr>" for n in range(5_000)]
    lines = [line for line in text_of("<table>" + "\n".join(rows) + "</table>").splitlines() if line]
    assert lines == [f"{n} row link (https://x.example/{n})" for n in range(5_000)]


def test_long_tag_keeps_the_attributes_that_the_text_shows() -> None:
    data = "data:image/png;base64," + "A" * 100_000
    markup = f'<p>a <a title="{data}" href="https://x.example/?a=1&amp;b=2">b</a> <img src="{data}" alt="c &lt; d"></p>'
    assert text_of(markup + "<p title='a > b'>e</p>") == "a b (https://x.example/?a=1&b=2) c < d\n\ne\n"


def test_text_part_is_limited() -> None:
    assert len(text_of("<p>word</p>" * 500_000)) < text.MAX_SOURCE_CHARS
    # The parser would repeat the unclosed link in each paragraph.
    markup = f"<a href='http://{'x' * 1000}'>" + "<p>y" * 5_000
    assert len(text_of(markup)) < 2 * len(markup)


# ------------------------------------------------------------------------ at acceptance
def request(**values: Any) -> SendRequest:
    fields: dict[str, Any] = {
        **{"email_id": ID, "message_id": "m", "tenant": "acme", "dialect": "fasttrack", "brand": "7"},
        **{"recipient": "anna@example.com", "recorded_at": 1, "subject": "An offer"},
    }
    return SendRequest(**(fields | values))


SETTINGS = Settings(secret=SECRET, mail_domain="m.example.com", public_url=BASE)
PROVIDER = Provider("relay", "h", 25)


def accepted(content: MessageContent) -> MessageContent:
    """Return the content as the gateway puts it on the log."""
    intake = MessageIntake(cast("Runtime", SimpleNamespace(new_id=lambda: "c")), cast("Log", None))
    [packed] = intake._pack([AcceptedMessage(request(), content), AcceptedMessage(request(), content)], {})
    assert len(packed.requests) == 2
    return unpack_content(packed.chunks, packed.sha256)


def test_text_part_is_made_once_when_its_content_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(html: str) -> str:
        calls.append(html)
        return text_of(html)

    monkeypatch.setattr(text, "text_of", counted)
    stored = accepted(MessageContent(html="<p>Hello <b>Anna</b></p>"))
    assert (stored, len(calls)) == (MessageContent(html="<p>Hello <b>Anna</b></p>", text="Hello Anna\n"), 1)
    MessageWriter(SETTINGS, lambda: 1).message(request(), stored, Brand("acme", "7", "relay"), PROVIDER)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "content", [MessageContent(text="own", html="<p>x</p>"), MessageContent(text="own"), MessageContent(amp="<p>x</p>")]
)
def test_text_of_the_sender_is_unchanged(content: MessageContent) -> None:
    assert accepted(content) is not content
    assert accepted(content) == content


def test_content_stored_without_text_part_gets_one_when_sent() -> None:
    old = MessageContent(html="<p>Hello</p>")
    brand = Brand("acme", "7", "relay")
    writer = MessageWriter(SETTINGS, lambda: 1)
    sent = [writer.message(request(), content, brand, PROVIDER).content for content in (old, accepted(old))]
    assert sent[0] == sent[1]
    assert sent[0].text == "Hello\n"


@pytest.mark.parametrize("html", ["", "<p>x</p>", f"<p>{TRACKING_HASH_PLACEHOLDER}</p>"])
def test_text_part_has_the_tracking_hash_of_its_email(html: str) -> None:
    content = accepted(
        MessageContent(html=html, text="" if TRACKING_HASH_PLACEHOLDER in html else TRACKING_HASH_PLACEHOLDER)
    )
    sent = MessageWriter(SETTINGS, lambda: 1).message(request(), content, Brand("acme", "7", "relay"), PROVIDER).content
    assert read_pixel_token(SIGNER, sent.text.strip()) == ID


@pytest.mark.parametrize(
    ("content", "beside"),
    [
        (MessageContent(html="<p>x</p>", text="x"), False),
        (MessageContent(html="<p>x</p>"), True),
        (MessageContent(html="<p>" + "x" * deliver.MAX_INLINE_CHARS, text="x"), True),
        (MessageContent(text="x", attachments=(Attachment(filename="a", media_type="a/b", data=bytes(10**6)),)), True),
    ],
)
async def test_large_message_is_encoded_outside_the_event_loop(content: MessageContent, beside: bool) -> None:
    threads: list[int] = []

    def takes_mime(_provider: Provider) -> bool:
        threads.append(threading.get_ident())
        return True

    transport = SimpleNamespace(takes_mime=takes_mime)
    rt = SimpleNamespace(settings=SETTINGS, clock=lambda: 1, pool=None, log=None, new_id=lambda: "x")
    attempt = SimpleNamespace(
        request=request(),
        brand=Brand("acme", "7", "relay"),
        routing=SimpleNamespace(dkim=None),
        lease=SimpleNamespace(begin_contact=None),
    )
    doing = SendJobHandler(cast("Any", rt), cast("Any", transport), cast("Any", None))
    mail = await doing._write(PROVIDER, cast("Any", attempt), content)
    assert mail.mime_bytes.startswith(b"From: ")
    assert (threads != [threading.get_ident()]) == beside


# ----------------------------------------------------------------------------- templates
def refusal(values: dict[str, Any]) -> str:
    body = msgspec.json.encode({"texts": {"default": {"text": "t"}}} | values)
    with pytest.raises(Refused) as caught:
        template_source.parse_draft("t", "n", body)
    return f"{caught.value.where}: {caught.value}"


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"required": [x for n in range(500) for x in (n, f"a{n}")]}, "schema.required: not names"),
        ({"required": [f"a{n}" for n in range(schemas.MAX_LIST_MEMBERS + 1)]}, "schema.required: 1001 members"),
        ({"required": ["a", "a"]}, "schema.required: a name is there twice"),
        ({"required": "a"}, "schema.required: not names"),
        ({"enum": list(range(schemas.MAX_LIST_MEMBERS + 1))}, "schema.enum: 1001 members"),
        ({"properties": {"a": {"enum": [[n] for n in range(2_000)]}}}, "schema.properties.a.enum: 2000 members"),
        ({"type": ["string"] * 1_000}, "schema.type: not a type"),
        ({"type": ["string", 1]}, "schema.type: not a type"),
        ({"type": "text"}, "schema.type: not a type"),
        *[({word: "^(a+)+$"}, "not a keyword") for word in ("pattern", "patternProperties", "format", "$ref")],
        *[
            ({"properties": {"a": {word: []}}}, "not a keyword")
            for word in ("anyOf", "uniqueItems", "dependentRequired")
        ],
    ],
)
def test_expensive_schema_is_refused_before_validation(schema: Any, words: str) -> None:
    assert words in refusal({"schema": schema})


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ({"properties": {"a": {"items": {"enum": [f"x{n}" for n in range(1_000)]}}}}, {"a": ["y"] * 3_000}),
        ({"properties": {"a": {"items": {"required": [f"x{n}" for n in range(1_000)]}}}}, {"a": [{}] * 3_000}),
        (
            {"properties": {"a": {"items": {"properties": {f"x{n}": True for n in range(1_000)}}}}},
            {"a": [{}] * 3_000},
        ),
        ({"properties": {"a": {"items": {"const": list(range(1_000))}}}}, {"a": [list(range(1_000))] * 100}),
    ],
)
def test_values_that_take_too_long_to_check_are_refused(schema: Any, values: Any) -> None:
    assert schemas.declared_variables(schema) == frozenset({"a"})
    with pytest.raises(Refused, match="too many values for a schema of this size"):
        schemas.check_values(schema, values)
    schemas.check_values(schema, {"a": []})


def test_all_texts_of_a_template_together_are_limited() -> None:
    texts = {f"a{chr(97 + n)}": {"subject": "s", "html": "{{a}}" * 2_400, "text": "{{a}}" * 2_400} for n in range(9)}
    assert "texts: all texts together have more than 20000 marks" in refusal({"texts": texts})
    long = "{{ a" + " or a" * 30 + " }}"
    texts = {f"a{chr(97 + n)}": {"html": long * 50, "text": long * 50} for n in range(9)}
    assert "all texts together have more than 20000 marks" in refusal({"texts": texts})


def test_comparisons_count_as_work() -> None:
    items: Any = list(range(100_000))
    for operator in ("==", "!=", "<", ">="):
        with pytest.raises(Refused, match="comparisons touch more than"):
            TwigText(f"{{% if a {operator} b %}}{{% endif %}}" * 100, html=True).render({"a": items, "b": list(items)})
    texts = "x" * 1_000_000
    for left, right in (("y", items), ("y", texts), ({"k": items}, [{"k": items}]), (items, [items])):
        with pytest.raises(Refused, match="comparisons touch more than"):
            TwigText("{% if a in b %}{% endif %}" * 100, html=True).render({"a": left, "b": right})
    with pytest.raises(Refused, match="comparisons touch more than"):
        TwigText("{% if a == b %}{% endif %}" * 100, html=True).render({"a": texts, "b": texts + "y"})


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(lambda n: "{{ " + "1_" * n + " }}", id="float"),
        pytest.param(lambda n: "{{ " + "9" * n + " }}", id="digits"),
        pytest.param(lambda n: "{{" + " " * n, id="blanks"),
        pytest.param(lambda n: "{{ '" * n, id="quotes"),
        pytest.param(lambda n: "{{ '" + "\\" * n, id="backslashes"),
        pytest.param(lambda n: "{#" * n, id="comments"),
        pytest.param(lambda n: "{% raw %}" + "{% " * n, id="raw"),
        pytest.param(lambda n: "\n" * n + "{{ a }}", id="lines"),
        pytest.param(lambda n: "{{- " * n, id="dashes"),
        pytest.param(lambda n: "$content." * n, id="dollars"),
    ],
)
def test_template_takes_linear_time(source: Callable[[int], str]) -> None:
    def compile_it(size: int) -> None:
        with contextlib.suppress(Refused):
            TwigText(source(size), html=True)

    assert_linear(compile_it, 20_000)


def test_with_text_part_keeps_everything_else() -> None:
    content = MessageContent(html="<p>x</p>", amp="<p>y</p>", headers=(("X-A", "b"),))
    assert with_text_part(content) == msgspec.structs.replace(content, text="x\n")
