"""Inputs that other mail software handled wrongly: links, pixel, text part and headers."""

import re
from email import message_from_bytes
from email.header import decode_header
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from pipeline.content.links import with_click_links, with_pixel, with_trap_link
from pipeline.content.markup import decoded_attribute
from pipeline.content.mime import encode_request
from pipeline.content.text import text_of
from pipeline.content.tokens import read_click_token
from pipeline.runtime.secrets.signing import Signer
from tests.conftest import RING
from topics.contents import Attachment, MessageContent
from topics.record import EmailId
from topics.requests import Mailbox, SendRequest

SIGNER = Signer(RING, "track")
ID = EmailId("0191d5a0-0000-7000-8000-000000000001")
BASE = "https://t.example"
SHOP = "https://shop.example"


def targets(markup: str) -> list[str]:
    """Return the targets of the click links that were written into a markup."""
    changed = with_click_links(markup, SIGNER, ID, BASE)
    return [read_click_token(SIGNER, token)[2] for token in re.findall(r"https://t\.example/c/([\w-]+)", changed)]


def with_pixel_mark(markup: str) -> str:
    """Return the markup with ``<PX>`` where the pixel was put."""
    return re.sub(r'<img src="https://t\.example/o/[^>]*>', "<PX>", with_pixel(markup, SIGNER, ID, BASE))


# --------------------------------------------------------------------------------- links
@pytest.mark.parametrize(
    ("markup", "urls"),
    [
        # Named references without a semicolon stay before `=` and before letters and digits.
        (
            f'<a href="{SHOP}/reset?user=7&timestamp=1714557600&sig=ab">x</a>',
            [f"{SHOP}/reset?user=7&timestamp=1714557600&sig=ab"],
        ),
        (f'<a href="{SHOP}/?a=1&copy=2&lt=3&reg_x&notit=4">x</a>', [f"{SHOP}/?a=1&copy=2&lt=3®_x&notit=4"]),
        (f'<a href="{SHOP}/?a=1&copy2=2&ampx=3&amp=4">x</a>', [f"{SHOP}/?a=1&copy2=2&ampx=3&amp=4"]),
        (f'<a href="{SHOP}/?a=1&amp;b=2&#38;c=3&#x26;d=4&eacute;">x</a>', [f"{SHOP}/?a=1&b=2&c=3&d=4é"]),
        (f'<a href="{SHOP}/?q=&copy">x</a>', [f"{SHOP}/?q=©"]),
        (f'<a href="{SHOP}/&#{"9" * 6000};&#0000000065;">x</a>', [f"{SHOP}/\ufffdA"]),
        # A value ends at its own delimiter, and other quotes belong to it.
        (
            f"""<a href="{SHOP}/odata?$filter=Name%20eq%20'Milk'">x</a>""",
            [f"{SHOP}/odata?$filter=Name%20eq%20'Milk'"],
        ),
        (f"""<a href='{SHOP}/?q="a"'>x</a>""", [f'{SHOP}/?q="a"']),
        (f"<a href={SHOP}/?q='a'>x</a>", [f"{SHOP}/?q='a'"]),
        (f"<a title=it's href={SHOP}/a/>x</a>", [f"{SHOP}/a/"]),
        (f'<a title="a"href="{SHOP}/b">x</a>', [f"{SHOP}/b"]),
        (f'<a title == href="{SHOP}/b">x</a>', [f"{SHOP}/b"]),
        (f'<A\fHREF\n=\n"{SHOP}/b">x</A>', [f"{SHOP}/b"]),
        # The four forms of Outlook's conditional comments.
        (
            f'<!--[if mso]><v:roundrect href="{SHOP}/b"></v:roundrect><![endif]-->'
            f'<!--[if !mso]><!--><a href="{SHOP}/b">Buy</a><!--<![endif]-->',
            [f"{SHOP}/b", f"{SHOP}/b"],
        ),
        (f'<!--[if !mso]>--><a href="{SHOP}/c">x</a><!--<![endif]-->', [f"{SHOP}/c"]),
        (f'<![if !mso]><a href="{SHOP}/d">x</a><![endif]>', [f"{SHOP}/d"]),
        (f'<!--[if !mso]><!-- --><a href="{SHOP}/e">x</a><!-- <![endif]-->', [f"{SHOP}/e"]),
        (f'<!--[if mso]><style>a<![endif]--><a href="{SHOP}/f">x</a>', [f"{SHOP}/f"]),
        # Comments end where browsers end them.
        (f'<!--><a href="{SHOP}/g">x</a>-->', [f"{SHOP}/g"]),
        (f'<!---><a href="{SHOP}/h">x</a>', [f"{SHOP}/h"]),
        (f'<!-- x --!><a href="{SHOP}/i">x</a>', [f"{SHOP}/i"]),
        (f'<!-- <a href="{SHOP}/no">x</a> --><a href="{SHOP}/j">x</a>', [f"{SHOP}/j"]),
        (f'<?php echo "<a href=" ?><a href="{SHOP}/k">x</a>', [f"{SHOP}/k"]),
        # Texts that are no markup.
        (f'<style>a</styles><a href="{SHOP}/no"></style><a href="{SHOP}/l">x</a>', [f"{SHOP}/l"]),
        (f'<xmp><a href="{SHOP}/no"></xmp><iframe><a href="{SHOP}/no"></iframe>', []),
        (f'<img alt="<a href={SHOP}/no>"><a href="{SHOP}/m">x</a>', [f"{SHOP}/m"]),
        # A relative link stays.
        (f'<base href="{SHOP}/"><a href="x">x</a><area href="{SHOP}/n">', [f"{SHOP}/n"]),
        (f'<svg><a xlink:href="{SHOP}/no">x</a></svg><a href="\x01{SHOP}/o\x1f">x</a>', [f"{SHOP}/o"]),
    ],
)
def test_links_are_read_as_browsers_read_them(markup: str, urls: list[str]) -> None:
    assert targets(markup) == urls


@pytest.mark.parametrize(
    ("value", "decoded"),
    [
        ("a&amp;b&lt;c&quot;&apos;", "a&b<c\"'"),
        ("&notin;&not;&notit;&not", "∉¬&notit;¬"),
        ("&nosuch;&;&#;&#x;&#xZ;&", "&nosuch;&;&#;&#x;&#xZ;&"),
        ("&#65&#x42;&#x80;&#0;&#xD800;&#x110000;", "AB€\ufffd\ufffd\ufffd"),
    ],
)
def test_attribute_values_are_decoded_by_html_rules(value: str, decoded: str) -> None:
    assert decoded_attribute(value) == decoded


@given(
    st.lists(
        st.sampled_from([*"&#;xX=0aZ", "amp", "copy", "not", "it", "timestamp", "lt", "65", "x80", "é"]), max_size=9
    )
)
def test_attribute_values_are_decoded_as_by_a_browser_parser(pieces: list[str]) -> None:
    value = "".join(pieces)
    link = LexborHTMLParser(f'<a href="{value}">').css_first("a")
    assert link is not None
    assert decoded_attribute(value) == (link.attributes["href"] or "")


MARKUP: Final = (
    *(
        "<a href=",
        "<A HREF='",
        '<a href="',
        "<area ",
        "<a",
        "</a",
        "<img alt=",
        "href=",
        " x",
        "=",
        "'",
        '"',
        " ",
        "\n",
        "/",
    ),
    *(
        ">",
        "<",
        "<!--",
        "-->",
        "--!>",
        "<!-->",
        "<!-",
        "-",
        "<!x",
        "<?",
        "</ ",
        "</",
        "https://x.example/1",
        "http://y/",
    ),
    *(
        "<style>",
        "</style",
        "<title ",
        "</title>",
        "<textarea>",
        "</textarea/>",
        "<xmp>",
        "</xmp>",
        "&amp;",
        "&copy",
        "z",
    ),
)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(MARKUP), max_size=14))
def test_links_are_those_that_a_browser_parser_finds(pieces: list[str]) -> None:
    markup = "".join(pieces)
    links = (link.attributes.get("href") or "" for link in LexborHTMLParser(markup).css("a, area"))
    web = {url for link in links if re.match(r"https?://[^/]", url := link.replace("\n", "").strip())}
    assert set(targets(markup)) == web


@given(st.lists(st.sampled_from((*MARKUP, "</body>", "</html>", "<body>")), max_size=14))
def test_browser_parser_finds_the_pixel(pieces: list[str]) -> None:
    pixels = LexborHTMLParser(with_pixel("".join(pieces), SIGNER, ID, BASE)).css(f'img[src^="{BASE}/o/"]')
    assert len(pixels) == 1


@pytest.mark.parametrize(
    ("markup", "tracked"),
    [
        (
            "<html><body><p>Hi</p></body><!-- end </body> --></html>",
            "<html><body><p>Hi</p><PX></body><!-- end </body> --></html>",
        ),
        ("<body>x</body><script>'</body>'</script>", "<body>x<PX></body><script>'</body>'</script>"),
        ("<body>x<style></body></style>", "<body>x<style></body></style><PX>"),
        ('<body>x</BODY\n ><p title="</body>">', '<body>x<PX></BODY\n ><p title="</body>">'),
        ("<body>x</body></body></html>", "<body>x</body><PX></body></html>"),
        ("<p>x</p><!-- </html> -->", "<p>x</p><!-- </html> --><PX>"),
        ("<p>x</p><!-- never closed", "<p>x</p><PX><!-- never closed"),
        ("<body>x</body><!-- never closed </body>", "<body>x<PX></body><!-- never closed </body>"),
        ("<p>x</p><style>p{}", "<p>x</p><PX><style>p{}"),
        ("<p>x</p><textarea>y", "<p>x</p><PX><textarea>y"),
        ('<p>x</p><a href="', '<p>x</p><PX><a href="'),
        ("<p>x</p><title </title>", "<p>x</p><PX><title </title>"),
        ('<style title=">"></body></style><body>x', '<style title=">"></body></style><body>x<PX>'),
        ("<p>x</p><!--[if mso]></body><![endif]-->", "<p>x</p><!--[if mso]></body><![endif]--><PX>"),
        ("<!--[if !mso]><!--><body>x</body><!--<![endif]-->", "<!--[if !mso]><!--><body>x<PX></body><!--<![endif]-->"),
        ("x</bodyguard></body class=a>", "x</bodyguard><PX></body class=a>"),
        ("a < b </ c", "a < b <PX></ c"),
    ],
)
def test_pixel_is_where_browsers_load_it(markup: str, tracked: str) -> None:
    assert with_pixel_mark(markup) == tracked
    trapped = re.sub(r'<a href="https://t\.example/t/[^>]*></a>', "<PX>", with_trap_link(markup, SIGNER, ID, BASE))
    assert trapped == tracked


# ------------------------------------------------------------------------------ text part
@pytest.mark.parametrize(
    ("markup", "text"),
    [
        (
            "<!DOCTYPE html><html><head><title>Offer</title><body><p>Hello Anna, your order is on its way.</p></body>",
            "Hello Anna, your order is on its way.\n",
        ),
        ("<p>Donau&shy;dampf&shy;schiff&shy;fahrt</p>", "Donaudampfschifffahrt\n"),
        ("<p>For you 👨\u200d👩\u200d👧!</p>", "For you 👨\u200d👩\u200d👧!\n"),
        ("<p>می\u200cخواهم</p>", "می\u200cخواهم\n"),
        ("<p>Sale &zwnj; &zwnj;&nbsp;&#847;&zwnj;&#65279;&#8203; now</p>", "Sale now\n"),
        (
            '<a href="https://x.example/?a=1&timestamp=2">x</a>',
            "x (https://x.example/?a=1&timestamp=2)\n",
        ),
        ('<a href="https://x.example/">https://x.example/</a>', "https://x.example/\n"),
        ('<a href="mailto:a@b.example">write</a> <a href="#top">up</a>', "write (a@b.example) up\n"),
        ('<a href="https://x.example/"><img alt="Shop &amp; more" src=x></a>', "Shop & more (https://x.example/)\n"),
        ('<a href="https://x.example/1"></a><a href="https://x.example/2"> </a>y', "y\n"),
        ("<ul><li>one<li>two</ul><ol><li><b>th</b>ree</ol>", "* one\n* two\n\n* three\n"),
        ("<table><tr><td>1<td>2<tr><th>3<th>4</table>", "1 2\n\n3 4\n"),
        ("<p>a<br>b<br/>c<hr>d</p>", "a\nb\nc\n\nd\n"),
        ("<pre>a\n  b</pre>", "a\nb\n"),
        ("<svg><title>no</title><text>yes</text></svg><template>no</template>", "yes\n"),
        ("<!--[if mso]>Outlook<![endif]--><!--[if !mso]><!-->All<!--<![endif]-->", "All\n"),
        ("<script>no()</script><style>no{}</style><noscript>yes</noscript><iframe>no</iframe>", "yes\n"),
        ('<textarea>a <b> c</textarea><img alt="x <i>y</i>">', "a <b> cx <i>y</i>\n"),
        ("<b><i>bold</b></i> <font color=red>red</font><strong>er</strong>", "bold reder\n"),
        ("a < b && c > d &lt;e&gt;", "a < b && c > d <e>\n"),
        ("lone \ud800 surrogate", "lone ? surrogate\n"),
        ("", "\n"),
    ],
)
def test_text_part_has_the_visible_text(markup: str, text: str) -> None:
    assert text_of(markup) == text


# --------------------------------------------------------------------------------- headers
def message(**values: Any) -> tuple[bytes, EmailMessage]:
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
    content = values.pop("content", MessageContent(text="x"))
    sender = values.pop("sender", Mailbox(address="news@shop.example", name="Shop"))
    raw = encode_request(
        SendRequest(**(fields | values)), content, sender=sender, message_id="<a@b>", date=1_700_000_000_000
    )
    parsed = message_from_bytes(raw, policy=SMTP)
    assert isinstance(parsed, EmailMessage)
    return raw, parsed


@pytest.mark.parametrize(
    "name",
    [
        "한" * 111 + ".pdf",
        "a" * 255,
        "👨\u200d👩\u200d👧" * 40 + ".pdf",
        "Rechnung März.pdf",
        '100%\'* "x"\\y; é.txt',
        "é" * 300,
        "=?utf-8?q?Ann?=.pdf",
    ],
)
def test_attachment_names_are_unchanged_on_short_lines(name: str) -> None:
    file = Attachment(filename=name, media_type="application/pdf", data=b"x")
    raw, parsed = message(content=MessageContent(text="x", attachments=(file,)))
    assert max(map(len, raw.split(b"\r\n"))) <= 78
    [attached] = parsed.iter_attachments()
    assert attached.get_filename() == name


@pytest.mark.parametrize("name", ["", " ", "\r\n"])
def test_attachment_without_a_name_gets_one(name: str) -> None:
    file = Attachment(filename=name, media_type="application/pdf", data=b"x")
    [attached] = message(content=MessageContent(text="x", attachments=(file,)))[1].iter_attachments()
    assert attached.get_filename() == "attachment"


@pytest.mark.parametrize("name", ["=?utf-8?q?Ann?=", "Ann =?utf-8?b?QQ==?= B", '"=?x', "=?"])
def test_display_name_is_unchanged(name: str) -> None:
    raw, parsed = message(sender=Mailbox(address="a@b.example", name=name), recipient_name=name)
    head = raw.split(b"\r\n\r\n")[0]
    for header in (b"From", b"To"):
        [line] = re.findall(rb"(?m)^" + header + rb": ((?:.|\r\n )*?)\r\n(?! )", head + b"\r\n")
        encoded = re.sub(rb"\s*<[^<>]*>\Z", b"", line).decode()
        assert "".join(part.decode(charset or "ascii") for part, charset in decode_header(encoded)) == name
    assert parsed["From"].addresses[0].addr_spec == "a@b.example"


@pytest.mark.parametrize("length", [60, 61, 500, 999, 5000])
@pytest.mark.parametrize("letter", ["x", "x ", "é", "👨"])
def test_no_header_line_is_longer_than_998_octets(length: int, letter: str) -> None:
    words = letter * length
    headers = (("X-Own", words), ("X-" + "O" * 58, words), ("List-Unsubscribe", f"<https://x.example/{words}>"))
    file = Attachment(filename=words, media_type="a/b", data=b"x")
    raw, _ = message(
        subject=words,
        recipient_name=words,
        sender=Mailbox(address="a@b.example", name=words),
        reply_to=("a@b.example",) * 90,
        content=MessageContent(text="x", headers=headers, attachments=(file,)),
    )
    assert max(map(len, raw.split(b"\r\n"))) <= 998
