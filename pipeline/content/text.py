"""HTML in, its plain text out: for readers, filters and people without HTML. Pure."""

import re
from html.parser import HTMLParser
from typing import Final

_SILENT: Final = frozenset({"head", "script", "style", "title", "template"})
_BLOCK: Final = re.compile(
    r"(address|article|aside|blockquote|br|center|dd|div|dl|dt|fieldset|figure|footer|form|h[1-6]|header|hr"
    r"|li|main|nav|ol|p|pre|section|table|tbody|tfoot|thead|tr|ul)\Z"
)
_SPACES: Final = re.compile(r"[ \t\r\n\f\xa0\u200b\u200c\u200d\ufeff\u034f\xad]+")
_EMPTY_LINES: Final = re.compile(r"\n{3,}")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent = 0
        self._links: list[tuple[str, int]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in _SILENT:
            self._silent += 1
        elif _BLOCK.match(tag):
            self.parts.append("\n* " if tag == "li" else "\n")
        elif tag in ("td", "th"):
            self.parts.append(" ")
        elif tag == "a":
            self._links.append((values.get("href") or "", len(self.parts)))
        elif tag == "img" and (alt := values.get("alt")):
            self.handle_data(alt)

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif _BLOCK.match(tag):
            self.parts.append("\n")
        elif tag == "a" and self._links:
            self._end_link(*self._links.pop())

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(_SPACES.sub(" ", data))

    def _end_link(self, href: str, start: int) -> None:
        said = "".join(self.parts[start:]).strip()
        if href.lower().startswith(("http://", "https://", "mailto:")) and said and href != said:
            self.parts.append(f" ({href.removeprefix('mailto:')})")


def text_of(html: str) -> str:
    """What a person would read, paragraphs apart, link targets in parentheses."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = [" ".join(line.split(" ")).strip() for line in "".join(reader.parts).split("\n")]
    lines = [re.sub(" {2,}", " ", line) for line in lines]
    return _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip() + "\n"
