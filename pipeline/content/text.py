"""HTML in, its plain text out: for readers, filters and people without HTML. Pure.

lexbor reads the HTML as browsers do. Its tree construction isn't linear, as the standard's isn't: deep
nesting, formatting elements that are opened again in each paragraph, and many attributes of one tag
cost the square of their number. So it only ever gets pieces of a few hundred tags, with formatting
elements renamed to ones that mean nothing, and tags of bounded length.

Called once for each content at its acceptance, in a thread; by the dispatcher for contents that were
stored before.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec
from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from pipeline.content.markup import (
    BOGUS_COMMENT,
    COMMENT,
    RAW_TEXT,
    TAG,
    UNCLOSED,
    attribute_span,
)
from topics.contents import MessageContent

MAX_SOURCE_CHARS: Final = 1_000_000
"""Of an HTML body; the text part says no more than what is found in these."""
MAX_TAGS_UNSPLIT: Final = 2_000
"""An email with fewer is parsed as a whole, which is nearly every email."""
TAGS_PER_PIECE: Final = 500
MAX_TAG_CHARS: Final = 2_000
"""Of a longer tag, only what the text shows is kept."""

_FORMATTING: Final = r"(?=(?i:b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)[\t\n\f\r />])"
_FORMATTING_START: Final = re.compile("<" + _FORMATTING)
_FORMATTING_END: Final = re.compile("</" + _FORMATTING)
_RENAMED_TAG_PREFIX: Final = "mailfold-plain-"
"""Put before a formatting element's name, and removed where the tag turns out to be text."""
_MAYBE_LONG_TAG: Final = re.compile(
    rf"<[a-zA-Z/][^<>]{{0,{MAX_TAG_CHARS}}}+(?!>)"
    r"""|=[\t\n\f\r ]*+(?:"[^"<>]*+[<>]|'[^'<>]*+[<>])"""
)
"""Where a tag may be longer than MAX_TAG_CHARS: it isn't closed by then, or an angle bracket is in a value."""
_TOKENS: Final = re.compile(rf"(?P<tag>{TAG})|{RAW_TEXT}|{COMMENT}|{BOGUS_COMMENT}|{UNCLOSED}", re.DOTALL)
_TAG_NAME: Final = re.compile(r"</?[a-zA-Z][^\t\n\f\r />]{0,100}+")
_PIECE_START: Final = re.compile(r"<(?:p|div|table|tr|li|ul|ol|h[1-6]|section)(?=[\t\n\f\r />])", re.IGNORECASE)
_PIECE_PREFIX: Final = "<table><tr><td>"
"""Before all pieces but the first, which would lose their rows and cells outside a table."""

_HIDDEN_ELEMENTS: Final = frozenset({"head", "script", "style", "title", "template", "iframe", "noembed", "noframes"})
_BLOCK_ELEMENTS: Final = frozenset(
    {
        *("address", "article", "aside", "blockquote", "br", "center", "dd", "div", "dl", "dt", "fieldset", "figure"),
        *("footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre"),
        *("section", "table", "tbody", "tfoot", "thead", "tr", "ul"),
    }
)
_LINE_BREAK_ELEMENTS: Final = frozenset({"br", "li"})
"""What follows them stands on the next line, not in the next paragraph."""
_SPACES: Final = re.compile(r"[ \t\r\n\f\xa0\u2007]+")
_SPACES_BUT_LINES: Final = re.compile(r"[ \t\r\f\xa0\u2007]+")
_INVISIBLE_CHARS: Final = str.maketrans("", "", "\xad\u034f\u200b\ufeff")
"""Soft hyphens and the like, which are seen nowhere in a line."""
_JOINER_CHARS: Final = "\u200c\u200d"
"""They join or part the letters and emoji around them; beside a space they do nothing."""
_EMPTY_LINES: Final = re.compile(r"\n{3,}")


def text_of(html: str) -> str:
    """Return what a person would read, paragraphs apart, link targets in parentheses."""
    source = html[:MAX_SOURCE_CHARS]
    # An element that is closed wrongly is opened again and again by the parser; what it says then has its limit here.
    writer = _TextWriter(len(source) + 1_000)
    renamed = _FORMATTING_END.sub(f"</{_RENAMED_TAG_PREFIX}", _FORMATTING_START.sub(f"<{_RENAMED_TAG_PREFIX}", source))
    for piece in _pieces(renamed):
        writer.add(piece)
    lines = [_tidy(line) for line in "".join(writer.parts).split("\n")]
    text = _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip()
    return text.replace(f"<{_RENAMED_TAG_PREFIX}", "<").replace(f"</{_RENAMED_TAG_PREFIX}", "</") + "\n"


def with_text_part(content: MessageContent) -> MessageContent:
    """Return the content with a text part, made of its HTML where the sender gave none."""
    if content.text or not content.html:
        return content
    return msgspec.structs.replace(content, text=text_of(content.html))


def _tidy(line: str) -> str:
    words = line.split(" ")
    return " ".join(filter(None, words if line.isascii() else (word.strip(_JOINER_CHARS) for word in words)))


class _TextWriter:
    """Walks trees and collects what they say."""

    def __init__(self, max_chars: int) -> None:
        self.parts: list[str] = []
        self._left = max_chars
        self._preformatted = 0
        self._links: list[tuple[str, int]] = []

    def add(self, html: str) -> None:
        """Append what this part of a document says."""
        try:
            parser = LexborHTMLParser(html.encode("utf-8", "replace"))
        except SelectolaxError:
            return
        if parser.root is not None:
            self._walk(parser.root)
        self._links.clear()
        self._preformatted = 0

    def _walk(self, node: LexborNode | None) -> None:
        # No recursion: nesting is as deep as the sender likes.
        above: list[tuple[LexborNode, str]] = []
        while node is not None and self._left > 0:
            tag = node.tag or ""
            if tag == "-text":
                self._say_inline(node.text_content)
            else:
                self._open(node, tag)
                if tag not in _HIDDEN_ELEMENTS and (child := node.first_child) is not None:
                    above.append((node, tag))
                    node = child
                    continue
                self._close(tag)
            while (following := node.next) is None and above:
                node, tag = above.pop()
                self._close(tag)
            node = following

    def _say(self, text: str) -> None:
        self.parts.append(text)
        self._left -= len(text)

    def _say_inline(self, text: str | None) -> None:
        if not text:
            return
        if not text.isascii():
            text = text.translate(_INVISIBLE_CHARS)
        self._say((_SPACES_BUT_LINES if self._preformatted else _SPACES).sub(" ", text))

    def _open(self, node: LexborNode, tag: str) -> None:
        if tag in _BLOCK_ELEMENTS:
            self._say("\n* " if tag == "li" else "\n")
            self._preformatted += tag == "pre"
        elif tag in ("td", "th"):
            self._say(" ")
        elif tag == "a":
            self._links.append((node.attributes.get("href") or "", len(self.parts)))
        elif tag == "img":
            self._say_inline(node.attributes.get("alt"))

    def _close(self, tag: str) -> None:
        if tag in _BLOCK_ELEMENTS:
            self._preformatted -= tag == "pre"
            if tag not in _LINE_BREAK_ELEMENTS:
                self._say("\n")
        elif tag == "a":
            self._end_link(*self._links.pop())

    def _end_link(self, href: str, start: int) -> None:
        href = href.strip()
        if not href.lower().startswith(("http://", "https://", "mailto:")):
            return
        target = href[len("mailto:") :] if href[:7].lower() == "mailto:" else href
        said = self._said_since(start, len(target) + 1)
        if said and said not in (href, target):
            self._say(f" ({target})")

    def _said_since(self, start: int, enough: int) -> str:
        """Return the beginning of what was said since, long enough to be compared: links can be nested."""
        said = ""
        for index in range(start, len(self.parts)):
            said = (said + self.parts[index]).lstrip()
            if len(said.rstrip()) >= enough:
                break
        return said.rstrip()


# ------------------------------------------------------------------------------- pieces
def _pieces(html: str) -> Iterator[str]:
    """Yield the document in parts that lexbor parses in bounded time."""
    if html.count("<") <= MAX_TAGS_UNSPLIT and not _MAYBE_LONG_TAG.search(html):
        yield html
        return
    parts: list[str] = []
    tags = place = 0
    while (token := _TOKENS.search(html, place)) is not None:
        if tags >= TAGS_PER_PIECE and (_PIECE_START.match(token[0]) or tags >= 2 * TAGS_PER_PIECE):
            yield "".join([*parts, html[place : token.start()]])
            parts, tags = [_PIECE_PREFIX], 0
        else:
            parts.append(html[place : token.start()])
        parts.append(_shown(token))
        place = token.end()
        tags += 1
    yield "".join([*parts, html[place:]])


def _shown(token: "re.Match[str]") -> str:
    """Return what stands for a token in its piece.

    No comments, and raw text only as text: where lexbor sees no raw text, as within `svg` or `select`, it
    would find any number of tags in it.
    """
    if token.lastgroup == "tag":
        return token[0] if len(token[0]) <= MAX_TAG_CHARS else _shortened(token[0])
    if (token["raw"] or "").lower() in ("textarea", "xmp"):
        return token["raw_text"].replace("<", "&lt;")
    return ""


def _shortened(tag: str) -> str:
    """Return the tag with only the attributes that the text shows."""
    name = _TAG_NAME.match(tag)
    assert name is not None  # a tag begins with one
    spans = ((key, attribute_span(tag, name.end(), key)) for key in ("href", "alt"))
    return name[0] + "".join(f" {key}={tag[span[0] : span[1]]}" for key, span in spans if span) + ">"
