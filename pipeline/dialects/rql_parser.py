"""Parse a query in Extra Horizon's resource query language (RQL) into operator calls. Pure.

:mod:`pipeline.dialects.rql` calls it. Grammar: https://github.com/persvr/rql
"""

import re
from typing import Final

import msgspec

from pipeline.errors import Refused

QUERY_MAX_DEPTH: Final = 20
MAX_TERMS: Final = 200
"""Conditions, groups and values of one query."""
_TOKEN: Final = re.compile(r"=[a-z]+=|[<>!=]=|[()&|,=<>]|[^()&|,=<>!]+|!")
_OPERATOR_BY_SIGN: Final = {"=": "eq", "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


class OperatorCall(msgspec.Struct, frozen=True):
    """An operator with its arguments; a list of values is a call without a name."""

    name: str
    args: "list[OperatorCall | str]"


def parse_calls(text: str) -> list[OperatorCall | str]:
    """Return the calls that are joined by "and" at the top level. Raise Refused.

    ``text``: the query, of a length that the caller has limited, with its URL encoding removed.
    """
    return _RqlParser(text).parse()


class _RqlParser:
    """Parses a query into operator calls, with shorthands such as ``a=1`` replaced by calls."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._position = 0
        self._terms = 0

    def parse(self) -> list[OperatorCall | str]:
        group = self._parse_group(0)
        if self._position < len(self._tokens):
            raise Refused(f"{self._peek()!r} where nothing more is expected", "rql")
        return [group] if group.name != "and" else group.args

    def _parse_group(self, depth: int) -> OperatorCall:
        """Return the call of conditions that are joined by & or by |."""
        conditions: list[OperatorCall | str] = [self._parse_condition(depth)]
        separator = ""
        while self._peek() in ("&", "|"):
            if separator and self._peek() != separator:
                raise Refused("& and | in one group: put parentheses around each", "rql")
            separator = self._next()
            conditions.append(self._parse_condition(depth))
        return OperatorCall("or" if separator == "|" else "and", conditions)

    def _parse_condition(self, depth: int) -> OperatorCall:
        term = self._parse_term(depth)
        if isinstance(term, str):
            raise Refused(f"{term!r} is no condition", "rql")
        return term

    def _parse_term(self, depth: int) -> OperatorCall | str:
        """Return the call of ``name(…)``, ``(…)`` or ``field=value``, or a bare value."""
        self._terms += 1
        if depth > QUERY_MAX_DEPTH or self._terms > MAX_TERMS:
            raise Refused("too long or nested too deeply", "rql")
        if self._peek() == "(":
            return self._parse_parentheses(depth)
        word = self._parse_word()
        if self._peek() == "(":
            self._next()
            return OperatorCall(word.strip(), self._parse_args(depth))
        operator = self._peek()
        if operator in _OPERATOR_BY_SIGN or re.fullmatch(r"=[a-z]+=", operator):
            self._next()
            name = _OPERATOR_BY_SIGN.get(operator) or operator.strip("=")
            return OperatorCall(name, [word, self._parse_word()])
        return word

    def _parse_parentheses(self, depth: int) -> OperatorCall:
        """Return the call of a group of conditions, or of a list of values."""
        opening = self._position
        self._next()
        self._parse_word()
        # A comma or the end after the first word: this is a list of values. Either way, read it again from its start.
        is_list = self._peek() in (",", ")")
        self._position = opening + 1
        if is_list:
            return OperatorCall("", self._parse_args(depth))
        group = self._parse_group(depth + 1)
        self._expect(")")
        return group

    def _parse_args(self, depth: int) -> list[OperatorCall | str]:
        args: list[OperatorCall | str] = []
        if self._peek() != ")":
            args.append(self._parse_term(depth + 1))
        while self._peek() == ",":
            self._next()
            args.append(self._parse_term(depth + 1))
        self._expect(")")
        return args

    def _parse_word(self) -> str:
        """Return a name or a value, which may be empty."""
        if self._peek() and not re.fullmatch(r"[()&|,=<>!].*", self._peek(), re.DOTALL):
            return self._next()
        return ""

    def _expect(self, token: str) -> None:
        if self._peek() != token:
            raise Refused(f"{token!r} expected, not {self._peek() or 'the end'!r}", "rql")
        self._next()

    def _peek(self) -> str:
        return self._tokens[self._position] if self._position < len(self._tokens) else ""

    def _next(self) -> str:
        self._position += 1
        return str(self._tokens[self._position - 1])
