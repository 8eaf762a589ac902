"""A text and its syntax in, something that renders it with values out. Pure: the one door to all syntaxes.

    compiled(body, Syntax.FRESHMAIL, html=True).render({"name": "Adam"}, now=clock())

`html=True` escapes what is filled in; `now` (milliseconds) is what ``"now"|date`` means. Both steps
raise Refused with ``line N: …``; compile once, render for each recipient.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

from pipeline.content.placeholders import PlaceholderText
from pipeline.content.twig import ALL_VARIABLES, MAX_OUTPUT_BYTES, TwigText, VariableMention
from topics.templates import TemplateSyntax

_FRESHMAIL_MARK: Final = re.compile(r"\$\$([A-Za-z0-9_.-]{1,100})\$\$")


class CompiledText(Protocol):
    """A text that can be rendered."""

    @property
    def mentions(self) -> tuple[VariableMention, ...]:
        """Every line and the path of a variable that it names."""
        ...

    @property
    def nodes(self) -> int:
        """How much there is to compile and render: literals, marks and the parts of their expressions."""
        ...

    def render(self, values: Mapping[str, Any], now: int = 0, max_output_bytes: int = MAX_OUTPUT_BYTES) -> str:
        """What it says with these values, JSON's own. Raises Refused, with line and variable.

        More than ``max_output_bytes`` of UTF-8 are refused while they are made, not afterwards.
        """
        ...


def compile_text(source: str, syntax: TemplateSyntax, *, html: bool, lenient: bool = False) -> CompiledText:
    """Raises Refused, with the line, for what can't be compiled.

    ``lenient``: a variable that isn't there says nothing, as in Twig itself; FreshMail's syntax is always so.
    """
    if syntax is TemplateSyntax.EXTRAHORIZON:
        return PlaceholderText(source, html=html)
    if syntax is TemplateSyntax.FRESHMAIL:
        # One engine for both kinds of marks: values are never looked at for marks of the other kind.
        source = _FRESHMAIL_MARK.sub(lambda mark: f'{{{{ {ALL_VARIABLES}["{mark[1]}"] }}}}', source)
    return TwigText(source, html=html, lenient=lenient or syntax is TemplateSyntax.FRESHMAIL)
