"""Compile and render texts in any of the template syntaxes. Pure; templates and the FreshMail dialect call it.

    compile_text(body, TemplateSyntax.FRESHMAIL, html=True).render({"name": "Adam"}, now=clock())

Compile once, render for each recipient. Both steps raise Refused with ``line N: …``.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

from pipeline.content.placeholders import PlaceholderText
from pipeline.content.twig import ALL_VARIABLES, MAX_OUTPUT_BYTES, TwigText, VariableMention
from topics.templates import TemplateSyntax

_FRESHMAIL_MARK: Final = re.compile(r"\$\$([A-Za-z0-9_.-]{1,100})\$\$")


class CompiledText(Protocol):
    """A text that is ready to be rendered."""

    @property
    def mentions(self) -> tuple[VariableMention, ...]:
        """Return the variables that the text names, each with its line."""
        ...

    @property
    def nodes(self) -> int:
        """Return the number of literals, marks and parts of their expressions."""
        ...

    def render(self, values: Mapping[str, Any], now: int = 0, max_output_bytes: int = MAX_OUTPUT_BYTES) -> str:
        """Return the text with these JSON values. Raise Refused with line and variable.

        ``now``: the time of ``"now"|date`` in milliseconds. An output of more than ``max_output_bytes`` of UTF-8 is
        refused as soon as it exceeds them.
        """
        ...


def compile_text(source: str, syntax: TemplateSyntax, *, html: bool, lenient: bool = False) -> CompiledText:
    """Return the compiled text. Raise Refused with the line.

    ``html``: escape the values. ``lenient``: a missing variable is an empty text, as in Twig itself and always in
    FreshMail's syntax.
    """
    if syntax is TemplateSyntax.EXTRAHORIZON:
        return PlaceholderText(source, html=html)
    if syntax is TemplateSyntax.FRESHMAIL:
        # One engine renders both kinds of marks, so that a value with marks of the other kind is never rendered again.
        source = _FRESHMAIL_MARK.sub(lambda mark: f'{{{{ {ALL_VARIABLES}["{mark[1]}"] }}}}', source)
    return TwigText(source, html=html, lenient=lenient or syntax is TemplateSyntax.FRESHMAIL)
