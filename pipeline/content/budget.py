"""What one request's rendered contents may take, counted while they are rendered, before the next is. Pure."""

import sys

from pipeline.errors import Refused
from topics.contents import MessageContent


class OverBudget(Refused):
    """The contents of one request are too much together."""


class ContentBudget:
    """Bytes that a request's contents may still take, as memory holds them: a character takes 1 to 4."""

    def __init__(self, most_rendered: int, most_kept: int) -> None:
        self._most_rendered = self._rendered = most_rendered
        self._most_kept = self._kept = most_kept

    def charge_rendered(self, text: str) -> str:
        """Charge a text that was rendered, and return it. Raise OverBudget."""
        self._rendered -= sys.getsizeof(text)
        if self._rendered < 0:
            raise OverBudget(f"More than {self._most_rendered} bytes are to be rendered for them together.")
        return text

    def charge_kept(self, content: MessageContent) -> MessageContent:
        """Charge a content that is kept beside the others, and return it. Raise OverBudget."""
        self._kept -= content_bytes(content)
        if self._kept < 0:
            raise OverBudget(f"Their contents are more than {self._most_kept} bytes together.")
        return content


def content_bytes(content: MessageContent) -> int:
    """Return how many bytes of memory a content takes."""
    files = sum(len(file.data) for file in content.attachments)
    return sys.getsizeof(content.html) + sys.getsizeof(content.text) + files
