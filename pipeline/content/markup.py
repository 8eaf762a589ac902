"""Regular expressions for the tokens of HTML, and the decoding of attribute values. Pure.

`links` finds and changes tags by them, `text` splits large documents at them. All quantifiers are possessive, and an
unclosed construct is one `UNCLOSED` token up to the end, so that a scan reads each character a bounded number of times,
however broken the markup is.

https://html.spec.whatwg.org/multipage/parsing.html#tokenization
"""

import html
import re
from html.entities import html5
from typing import Final

_WS: Final = r"[\t\n\f\r ]"
NAME_END: Final = r"(?=[\t\n\f\r />])"

_VALUE: Final = r"""(?:"[^"]*+"|'[^']*+'|[^\t\n\f\r "'>][^\t\n\f\r >]*+)"""
"""An attribute's value. Quotes are delimiters only directly after the equals sign."""
_ATTRIBUTE: Final = rf"[^\t\n\f\r />][^\t\n\f\r />=]*+{_WS}*+(?:={_WS}*+(?:{_VALUE}|(?=>))|(?!=))"
ATTRIBUTES: Final = rf"(?:[\t\n\f\r /]++|{_ATTRIBUTE})*+"
"""Everything between a tag's name and its `>`."""
_RAW_NAMES: Final = rf"(?i:script|style|textarea|title|xmp|iframe|noembed|noframes){NAME_END}"
COMMENT: Final = r"<!--(?:-?>|(?:[^-]++|-(?!-!?>))*+--!?>)"
"""`<!-->` and `<!--->` are whole comments, as in `<!--[if !mso]><!-->`."""
BOGUS_COMMENT: Final = r"<(?:!(?!--)|\?|/(?![a-zA-Z]))[^>]*+>"
"""`<!DOCTYPE …>`, `<![if !mso]>`, `<?php …>` and `</ …>`, which end at the first `>`."""
_RAW_END: Final = rf"</(?i:(?P=raw)){NAME_END}"
RAW_TEXT: Final = (
    rf"<(?P<raw>{_RAW_NAMES}){ATTRIBUTES}>(?P<raw_text>(?:[^<]++|(?!{_RAW_END})<)*+){_RAW_END}{ATTRIBUTES}>"
)
"""An element whose content is text."""
_NOT_RAW_TEXT: Final = rf"(?!{_RAW_NAMES}|(?i:plaintext){NAME_END})"
TAG: Final = rf"<{_NOT_RAW_TEXT}/?[a-zA-Z][^\t\n\f\r />]*+{ATTRIBUTES}>"
UNCLOSED: Final = r"(?P<unclosed><[a-zA-Z/!?].*+)"
"""A construct without its end, up to the end of the document: browsers show nothing of it."""
CONDITIONAL: Final = r"<!--\[[iI][fF](?P<conditional>(?:[^-]++|-(?!->))*+)-->"
"""A conditional comment: Outlook reads its content as markup, all others as a comment."""


def skipped_run_pattern(names: str) -> str:
    """Return a pattern for a run of text and tags that have other names than ``names``.

    ``names``: a pattern; the name of an end tag begins with a slash. One match for a whole run takes a third of the
    time of a match for each tag.
    """
    # Most tags have no attributes, so their end is tried first.
    return rf"(?:[^<]++|<(?!{names}){_NOT_RAW_TEXT}/?[a-zA-Z][^\t\n\f\r />]*+(?:>|{ATTRIBUTES}>))++"


_PAIR: Final = re.compile(rf"([^\t\n\f\r />][^\t\n\f\r />=]*+)(?:{_WS}*+={_WS}*+({_VALUE})?+)?+")
_REFERENCE: Final = re.compile(r"&(?:#(?:[xX]([0-9a-fA-F]++)|([0-9]++));?|([a-zA-Z][a-zA-Z0-9]*+);?)")
_MAX_DIGITS: Final = 7
"""Digits of the largest code point."""


def attribute_span(tag: str, start: int, name: str) -> tuple[int, int] | None:
    """Return the position of the value, with its quotes, of the first attribute of this name; None without a value.

    ``start``: the position after the tag's own name.
    """
    for pair in _PAIR.finditer(tag, start):
        if pair[1].lower() == name:
            # Browsers use the first of two attributes of the same name.
            return pair.span(2) if pair[2] else None
    return None


def attribute_value(raw: str) -> str:
    """Return the value of an attribute as written in a tag, without its quotes and decoded."""
    quoted = len(raw) > 1 and raw[0] in "\"'" and raw[-1] == raw[0]
    return decoded_attribute(raw[1:-1] if quoted else raw)


def decoded_attribute(value: str) -> str:
    """Return an attribute's value with its character references resolved.

    Unlike in text, a name without a semicolon is no reference if `=`, a letter or a digit follows: `&timestamp=1`
    stays as it is.
    """
    return _REFERENCE.sub(lambda match: _resolve_reference(match, value), value) if "&" in value else value


def _resolve_reference(match: "re.Match[str]", value: str) -> str:
    reference = match[0]
    if match[3] is None:
        digits = (match[1] or match[2]).lstrip("0")
        # The standard library reads longer numbers in quadratic time, and raises above a limit.
        return html.unescape(reference) if len(digits) <= _MAX_DIGITS else "\ufffd"
    if reference.endswith(";"):
        return html5.get(reference[1:], reference)
    return reference if value.startswith("=", match.end()) else html5.get(match[3], reference)
