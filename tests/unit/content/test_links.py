"""Tests of click links, the pixel and the plain text of HTML."""

import html as htmllib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.content.links import with_click_links, with_pixel
from pipeline.content.text import text_of
from pipeline.content.tokens import read_click_token, read_pixel_token
from pipeline.runtime.secrets.signing import Signer
from tests.conftest import RING
from topics.record import EmailId

SIGNER = Signer(RING, "track")
ID = EmailId("0191d5a0-0000-7000-8000-000000000001")
BASE = "https://t.example"


def clicks(markup: str) -> str:
    return with_click_links(markup, SIGNER, ID, BASE)


def targets(markup: str) -> list[tuple[int, str]]:
    tokens = re.findall(r"https://t\.example/c/([\w-]+)", markup)
    read = [read_click_token(SIGNER, token) for token in tokens]
    assert all(email_id == ID for email_id, _, _ in read)
    return [(number, url) for _, number, url in read]


@pytest.mark.parametrize(
    ("markup", "urls"),
    [
        ('<a href="https://x.example/">x</a>', ["https://x.example/"]),
        ("<A HREF='HTTP://X.example/?a=1&amp;b=2'>x</A>", ["HTTP://X.example/?a=1&b=2"]),
        ("<a class=b href=https://x.example/p>x</a>", ["https://x.example/p"]),
        ('<a\n  title="a > b"\n  href = "https://x.example/q"\n>x</a>', ["https://x.example/q"]),
        ('<a href="  https://x.example/sp\n ace ">x</a>', ["https://x.example/sp ace"]),
        (
            '<a href="https://x.example/1"></a><area href="https://x.example/2">',
            ["https://x.example/1", "https://x.example/2"],
        ),
        (
            '<!--[if mso]><v:roundrect href="https://x.example/vml"></v:roundrect><![endif]-->',
            ["https://x.example/vml"],
        ),
        ('<a href="https://x.example/&#x65;&eacute;">x</a>', ["https://x.example/eé"]),
        ('<a data-href="https://no.example" href="https://x.example/">x</a>', ["https://x.example/"]),
        ("<a title=\"x href='https://no.example'\" href='https://x.example/'>x</a>", ["https://x.example/"]),
    ],
)
def test_links_are_tracked_with_their_whole_target(markup: str, urls: list[str]) -> None:
    assert targets(clicks(markup)) == list(enumerate(urls))


@pytest.mark.parametrize(
    "markup",
    [
        '<a href="mailto:a@b.example">x</a>',
        '<a href="tel:+41">x</a>',
        '<a href="#top">x</a>',
        '<a href="/relative">x</a>',
        '<a href="javascript:alert(1)">x</a>',
        '<a href="{{unsubscribe}}">x</a>',
        '<a href="https://x.example/{{ token }}">x</a>',
        '<a href="https://x.example/*|UNSUB|*">x</a>',
        '<a href="%%unsubscribe%%">x</a>',
        '<a href="https://">x</a>',
        "<a name=x>x</a>",
        '<link href="https://x.example/style.css"><img src="https://x.example/i.png">',
        '<!-- <a href="https://x.example/">x</a> -->',
        "<style>a[href='https://x.example'] { } </style><script>'<a href=\"https://x.example\">'</script>",
        '<a href="https://x.example/',
        '<abbr href="https://x.example/">x</abbr>',
        f'<a href="{BASE}/c/abc">x</a><a href="{BASE}/u/abc">x</a>',
    ],
)
def test_other_links_are_unchanged(markup: str) -> None:
    assert clicks(markup) == markup


@given(st.text(st.sampled_from("<a href='\"=>&; \nhtps:/x.!-{}é\u2028[]c"), max_size=200))
def test_any_markup_keeps_every_byte_except_links(markup: str) -> None:
    changed = clicks(markup)
    back = re.sub(r'"https://t\.example/c/([\w-]+)"', lambda token: read_click_token(SIGNER, token[1])[2], changed)
    squeezed = re.sub(r"[\s'\"]", "", htmllib.unescape(markup))
    assert re.sub(r"[\s'\"]", "", htmllib.unescape(back)) == squeezed


@pytest.mark.parametrize(
    ("markup", "before", "after"),
    [
        ("<html><body><p>x</p></body></html>", "<html><body><p>x</p>", "</body></html>"),
        ("<BODY>x</BODY >", "<BODY>x", "</BODY >"),
        ("<p>x</p>", "<p>x</p>", ""),
        ("<html><p>x</html>", "<html><p>x", "</html>"),
        ("<body><pre>&lt;/body></pre></body></body>", "<body><pre>&lt;/body></pre></body>", "</body>"),
    ],
)
def test_pixel_is_the_last_element_of_the_body(markup: str, before: str, after: str) -> None:
    changed = with_pixel(markup, SIGNER, ID, BASE + "/")
    assert changed.startswith(before)
    assert changed.endswith(after)
    [token] = re.findall(r'<img src="https://t\.example/o/([\w-]+)\.gif"', changed)
    assert read_pixel_token(SIGNER, token) == ID


def test_text_is_the_visible_text() -> None:
    markup = (
        "<html><head><title>No</title><style>p{}</style></head><body><h1>Hello&nbsp;Anna</h1>\n<p>Buy   <b>now</b>:"
        ' <a href="https://x.example/?a=1&amp;b=2">the offer</a></p><ul><li>one<li>two</ul>'
        '<img src="x" alt="A cat"><script>no()</script><table><tr><td>1</td><td>2</td></tr></table></body></html>'
    )
    assert text_of(markup) == (
        "Hello Anna\n\nBuy now: the offer (https://x.example/?a=1&b=2)\n\n* one\n* two\nA cat\n\n1 2\n"
    )
