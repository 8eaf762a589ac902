"""Limit the memory of one request's rendered contents, counted while they are rendered. Pure.

The dialects that render for several recipients call it.
"""

import sys

from pipeline.errors import Refused
from topics.contents import MessageContent


class OverBudget(Refused):
    """The contents of one request take too much memory together."""


class ContentBudget:
    """The bytes of memory that a request's contents may still take; a character takes 1 to 4."""

    def __init__(self, max_rendered: int, max_kept: int) -> None:
        self._max_rendered = self._rendered = max_rendered
        self._max_kept = self._kept = max_kept

    def charge_rendered(self, text: str) -> str:
        """Deduct the size of a rendered text and return the text. Raise OverBudget."""
        self._rendered -= sys.getsizeof(text)
        if self._rendered < 0:
            raise OverBudget(f"More than {self._max_rendered} bytes are to be rendered for them together.")
        return text

    def charge_kept(self, content: MessageContent) -> MessageContent:
        """Deduct the size of a content that stays in memory and return the content. Raise OverBudget."""
        self._kept -= content_bytes(content)
        if self._kept < 0:
            raise OverBudget(f"Their contents are more than {self._max_kept} bytes together.")
        return content


def content_bytes(content: MessageContent) -> int:
    """Return the bytes of memory that a content takes."""
    files = sum(len(file.data) for file in content.attachments)
    return sys.getsizeof(content.html) + sys.getsizeof(content.text) + files
