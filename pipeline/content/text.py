"""Convert HTML to plain text, for spam filters and clients without HTML. Pure.

The gateway calls it once for each content when it is accepted, in a thread; the dispatcher for contents that were
stored earlier. lexbor parses the HTML as browsers do. By the HTML standard, tree construction takes quadratic time for
deep nesting, for formatting elements that are opened again in each paragraph, and for many attributes of one tag. So
lexbor only gets pieces of a few hundred tags of limited length, with formatting elements renamed to unknown ones.
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
"""Characters of an HTML body that are converted; the rest is left out of the text part."""
MAX_TAGS_UNSPLIT: Final = 2_000
"""Tags of a document that is parsed as a whole; nearly every email has fewer."""
TAGS_PER_PIECE: Final = 500
MAX_TAG_CHARS: Final = 2_000
"""Characters of a tag; of a longer one, only the attributes that the text shows are kept."""

_FORMATTING: Final = r"(?=(?i:b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)[\t\n\f\r />])"
_FORMATTING_START: Final = re.compile("<" + _FORMATTING)
_FORMATTING_END: Final = re.compile("</" + _FORMATTING)
_RENAMED_TAG_PREFIX: Final = "mailfold-plain-"
"""Prefix of a formatting element's new name, removed again where the "tag" was part of a text."""
_MAYBE_LONG_TAG: Final = re.compile(
    rf"<[a-zA-Z/][^<>]{{0,{MAX_TAG_CHARS}}}+(?!>)"
    r"""|=[\t\n\f\r ]*+(?:"[^"<>]*+[<>]|'[^'<>]*+[<>])"""
)
"""A tag that may be longer than MAX_TAG_CHARS: it isn't closed by then, or has an angle bracket in a value."""
_TOKENS: Final = re.compile(rf"(?P<tag>{TAG})|{RAW_TEXT}|{COMMENT}|{BOGUS_COMMENT}|{UNCLOSED}", re.DOTALL)
_TAG_NAME: Final = re.compile(r"</?[a-zA-Z][^\t\n\f\r />]{0,100}+")
_PIECE_START: Final = re.compile(r"<(?:p|div|table|tr|li|ul|ol|h[1-6]|section)(?=[\t\n\f\r />])", re.IGNORECASE)
_PIECE_PREFIX: Final = "<table><tr><td>"
"""Put before all pieces except the first, because the parser drops rows and cells outside a table."""

_HIDDEN_ELEMENTS: Final = frozenset({"head", "script", "style", "title", "template", "iframe", "noembed", "noframes"})
_BLOCK_ELEMENTS: Final = frozenset(
    {
        *("address", "article", "aside", "blockquote", "br", "center", "dd", "div", "dl", "dt", "fieldset", "figure"),
        *("footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre"),
        *("section", "table", "tbody", "tfoot", "thead", "tr", "ul"),
    }
)
_LINE_BREAK_ELEMENTS: Final = frozenset({"br", "li"})
"""Elements after which the text goes on in the next line instead of the next paragraph."""
_SPACES: Final = re.compile(r"[ \t\r\n\f\xa0\u2007]+")
_SPACES_BUT_LINES: Final = re.compile(r"[ \t\r\f\xa0\u2007]+")
_INVISIBLE_CHARS: Final = str.maketrans("", "", "\xad\u034f\u200b\ufeff")
"""Soft hyphens and similar characters, which are invisible everywhere in a line."""
_JOINER_CHARS: Final = "\u200c\u200d"
"""Characters that join or separate the letters and emoji around them; beside a space they have no effect."""
_EMPTY_LINES: Final = re.compile(r"\n{3,}")


def text_of(html: str) -> str:
    """Return the visible text with empty lines between paragraphs and link targets in parentheses."""
    source = html[:MAX_SOURCE_CHARS]
    # The parser opens a wrongly closed element again and again, which can multiply its text: hence this limit.
    writer = _TextWriter(len(source) + 1_000)
    renamed = _FORMATTING_END.sub(f"</{_RENAMED_TAG_PREFIX}", _FORMATTING_START.sub(f"<{_RENAMED_TAG_PREFIX}", source))
    for piece in _pieces(renamed):
        writer.add(piece)
    lines = [_clean_spaces(line) for line in "".join(writer.parts).split("\n")]
    text = _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip()
    return text.replace(f"<{_RENAMED_TAG_PREFIX}", "<").replace(f"</{_RENAMED_TAG_PREFIX}", "</") + "\n"


def with_text_part(content: MessageContent) -> MessageContent:
    """Return the content with a text part, made from its HTML if the sender gave none."""
    if content.text or not content.html:
        return content
    return msgspec.structs.replace(content, text=text_of(content.html))


def _clean_spaces(line: str) -> str:
    words = line.split(" ")
    return " ".join(filter(None, words if line.isascii() else (word.strip(_JOINER_CHARS) for word in words)))


class _TextWriter:
    """Collects the visible text of parsed documents."""

    def __init__(self, max_chars: int) -> None:
        self.parts: list[str] = []
        self._chars_left = max_chars
        self._preformatted = 0
        self._links: list[tuple[str, int]] = []

    def add(self, html: str) -> None:
        """Append the text of a piece of the document."""
        try:
            parser = LexborHTMLParser(html.encode("utf-8", "replace"))
        except SelectolaxError:
            return
        if parser.root is not None:
            self._walk(parser.root)
        self._links.clear()
        self._preformatted = 0

    def _walk(self, node: LexborNode | None) -> None:
        # Without recursion, because the sender decides how deep the nesting is.
        ancestors: list[tuple[LexborNode, str]] = []
        while node is not None and self._chars_left > 0:
            tag = node.tag or ""
            if tag == "-text":
                self._write_inline(node.text_content)
            else:
                self._open(node, tag)
                if tag not in _HIDDEN_ELEMENTS and (child := node.first_child) is not None:
                    ancestors.append((node, tag))
                    node = child
                    continue
                self._close(tag)
            while (following := node.next) is None and ancestors:
                node, tag = ancestors.pop()
                self._close(tag)
            node = following

    def _write(self, text: str) -> None:
        self.parts.append(text)
        self._chars_left -= len(text)

    def _write_inline(self, text: str | None) -> None:
        if not text:
            return
        if not text.isascii():
            text = text.translate(_INVISIBLE_CHARS)
        self._write((_SPACES_BUT_LINES if self._preformatted else _SPACES).sub(" ", text))

    def _open(self, node: LexborNode, tag: str) -> None:
        if tag in _BLOCK_ELEMENTS:
            self._write("\n* " if tag == "li" else "\n")
            self._preformatted += tag == "pre"
        elif tag in ("td", "th"):
            self._write(" ")
        elif tag == "a":
            self._links.append((node.attributes.get("href") or "", len(self.parts)))
        elif tag == "img":
            self._write_inline(node.attributes.get("alt"))

    def _close(self, tag: str) -> None:
        if tag in _BLOCK_ELEMENTS:
            self._preformatted -= tag == "pre"
            if tag not in _LINE_BREAK_ELEMENTS:
                self._write("\n")
        elif tag == "a":
            self._end_link(*self._links.pop())

    def _end_link(self, href: str, start: int) -> None:
        href = href.strip()
        if not href.lower().startswith(("http://", "https://", "mailto:")):
            return
        target = href[len("mailto:") :] if href[:7].lower() == "mailto:" else href
        label = self._text_since(start, len(target) + 1)
        if label and label not in (href, target):
            self._write(f" ({target})")

    def _text_since(self, start: int, min_chars: int) -> str:
        """Return at least ``min_chars`` of the text since a part, or all of it if it has fewer.

        More isn't read, because links can be nested and the same text would be read for each.
        """
        text = ""
        for index in range(start, len(self.parts)):
            text = (text + self.parts[index]).lstrip()
            if len(text.rstrip()) >= min_chars:
                break
        return text.rstrip()


# ------------------------------------------------------------------------------- pieces
def _pieces(html: str) -> Iterator[str]:
    """Yield the document in pieces that lexbor parses in bounded time."""
    if html.count("<") <= MAX_TAGS_UNSPLIT and not _MAYBE_LONG_TAG.search(html):
        yield html
        return
    parts: list[str] = []
    tags = position = 0
    while (token := _TOKENS.search(html, position)) is not None:
        if tags >= TAGS_PER_PIECE and (_PIECE_START.match(token[0]) or tags >= 2 * TAGS_PER_PIECE):
            yield "".join([*parts, html[position : token.start()]])
            parts, tags = [_PIECE_PREFIX], 0
        else:
            parts.append(html[position : token.start()])
        parts.append(_safe_markup(token))
        position = token.end()
        tags += 1
    yield "".join([*parts, html[position:]])


def _safe_markup(token: "re.Match[str]") -> str:
    """Return a token's replacement in its piece: short tags, escaped raw text, and no comments.

    Raw text is escaped, because lexbor doesn't treat it as raw text within `svg` or `select` and could find any number
    of tags in it.
    """
    if token.lastgroup == "tag":
        return token[0] if len(token[0]) <= MAX_TAG_CHARS else _shorten_tag(token[0])
    if (token["raw"] or "").lower() in ("textarea", "xmp"):
        return token["raw_text"].replace("<", "&lt;")
    return ""


def _shorten_tag(tag: str) -> str:
    """Return the tag with only those attributes that the text shows."""
    name = _TAG_NAME.match(tag)
    assert name is not None  # every tag begins with a name
    spans = ((key, attribute_span(tag, name.end(), key)) for key in ("href", "alt"))
    return name[0] + "".join(f" {key}={tag[span[0] : span[1]]}" for key, span in spans if span) + ">"
