"""HTML's tokens as regular expressions, and the decoding of attribute values. Pure.

`links` finds and changes tags with them, `text` cuts oversized documents along them. Every quantifier
is possessive, and whatever is never closed is one `UNCLOSED` up to the end, so that a scan looks at
each character a bounded number of times, however broken the markup is.

https://html.spec.whatwg.org/multipage/parsing.html#tokenization
"""

import html
import re
from html.entities import html5
from typing import Final

_WS: Final = r"[\t\n\f\r ]"
NAME_END: Final = r"(?=[\t\n\f\r />])"

_VALUE: Final = r"""(?:"[^"]*+"|'[^']*+'|[^\t\n\f\r "'>][^\t\n\f\r >]*+)"""
"""An attribute's value. Quotes delimit only behind the equals sign; elsewhere they are ordinary characters."""
_ATTRIBUTE: Final = rf"[^\t\n\f\r />][^\t\n\f\r />=]*+{_WS}*+(?:={_WS}*+(?:{_VALUE}|(?=>))|(?!=))"
ATTRIBUTES: Final = rf"(?:[\t\n\f\r /]++|{_ATTRIBUTE})*+"
"""Everything between a tag's name and its `>`."""
_RAW_NAMES: Final = rf"(?i:script|style|textarea|title|xmp|iframe|noembed|noframes){NAME_END}"
COMMENT: Final = r"<!--(?:-?>|(?:[^-]++|-(?!-!?>))*+--!?>)"
"""`<!-->` and `<!--->` are whole comments, as in `<!--[if !mso]><!-->`."""
BOGUS_COMMENT: Final = r"<(?:!(?!--)|\?|/(?![a-zA-Z]))[^>]*+>"
"""`<!DOCTYPE …>`, `<![if !mso]>`, `<?php …>`, `</ …>`: all end at the first `>`."""
_RAW_END: Final = rf"</(?i:(?P=raw)){NAME_END}"
RAW_TEXT: Final = (
    rf"<(?P<raw>{_RAW_NAMES}){ATTRIBUTES}>(?P<raw_text>(?:[^<]++|(?!{_RAW_END})<)*+){_RAW_END}{ATTRIBUTES}>"
)
"""Elements whose content is text."""
_NOT_RAW_TEXT: Final = rf"(?!{_RAW_NAMES}|(?i:plaintext){NAME_END})"
TAG: Final = rf"<{_NOT_RAW_TEXT}/?[a-zA-Z][^\t\n\f\r />]*+{ATTRIBUTES}>"
UNCLOSED: Final = r"(?P<unclosed><[a-zA-Z/!?].*+)"
"""What none of the others matched: browsers show nothing of it, nor of what follows."""
CONDITIONAL: Final = r"<!--\[[iI][fF](?P<conditional>(?:[^-]++|-(?!->))*+)-->"
"""A comment to everybody but Outlook, to which its content is markup."""


def skipped_run_pattern(names: str) -> str:
    """Return the pattern of a run of text and of tags whose names, with the end tags' slash, aren't these.

    One match for all that lies between two tags of interest takes a third of the time of a match for each.
    """
    # Most tags have no attributes: the short way to their end comes first.
    return rf"(?:[^<]++|<(?!{names}){_NOT_RAW_TEXT}/?[a-zA-Z][^\t\n\f\r />]*+(?:>|{ATTRIBUTES}>))++"


_PAIR: Final = re.compile(rf"([^\t\n\f\r />][^\t\n\f\r />=]*+)(?:{_WS}*+={_WS}*+({_VALUE})?+)?+")
_REFERENCE: Final = re.compile(r"&(?:#(?:[xX]([0-9a-fA-F]++)|([0-9]++));?|([a-zA-Z][a-zA-Z0-9]*+);?)")
_MAX_DIGITS: Final = 7
"""Digits of the largest code point; more name none."""


def attribute_span(tag: str, start: int, name: str) -> tuple[int, int] | None:
    """Return where the first attribute of this name has its value, quotes included; None without a value.

    ``start``: where the tag's own name ends.
    """
    for pair in _PAIR.finditer(tag, start):
        if pair[1].lower() == name:
            # Of two attributes of one name browsers take the first.
            return pair.span(2) if pair[2] else None
    return None


def attribute_value(raw: str) -> str:
    """Return what a value as it stands in a tag means: without its quotes, decoded."""
    quoted = len(raw) > 1 and raw[0] in "\"'" and raw[-1] == raw[0]
    return decoded_attribute(raw[1:-1] if quoted else raw)


def decoded_attribute(value: str) -> str:
    """Return an attribute's value with its character references resolved.

    Other than in text, a name without a semicolon is no reference before `=`, a letter or a digit:
    `&timestamp=1` stays as it is.
    """
    return _REFERENCE.sub(lambda found: _resolved(found, value), value) if "&" in value else value


def _resolved(found: "re.Match[str]", value: str) -> str:
    reference = found[0]
    if found[3] is None:
        digits = (found[1] or found[2]).lstrip("0")
        # The standard library reads numbers of any length, in quadratic time, up to a limit where it raises.
        return html.unescape(reference) if len(digits) <= _MAX_DIGITS else "\ufffd"
    if reference.endswith(";"):
        return html5.get(reference[1:], reference)
    return reference if value.startswith("=", found.end()) else html5.get(found[3], reference)
