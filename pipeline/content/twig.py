"""A text with Twig's marks in, what it says with its variables filled in out. Pure and bounded.

Jinja2's immutable sandbox is the engine, and little of it is let in: an allow-list of nodes, filters
and tests (so no loops, calls, imports, arithmetic), and look-ups in JSON values only, so that no
attribute of a Python object is ever read. What can be compiled is linear in its size; what comes
out, and what filters do on the way, is counted while it happens.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final

from jinja2 import TemplateSyntaxError, UndefinedError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup, escape

from pipeline.content import php_date, phpvalues
from pipeline.content.conditions import (
    BUDGET_KEY,
    CONDITION_TESTS,
    LenientMissingVariable,
    MissingVariable,
    PhpConditions,
)
from pipeline.errors import Refused

SOURCE_MAX_CHARS: Final = 2_000_000
OUTPUT_MAX_CHARS: Final = 4_000_000
MAX_OUTPUT_BYTES: Final = 4 * OUTPUT_MAX_CHARS
"""Where a caller sets no limit of its own: as many as OUTPUT_MAX characters have at most."""
WORK_MAX_CHARS: Final = 20_000_000
"""Characters that all filters and comparisons of one rendering may touch together."""
_ESCAPE_COST_PER_CHAR: Final = 20
"""What a character costs that is escaped one by one."""
MAX_NODES: Final = 5_000
MAX_DEPTH: Final = 40

TemplateValues = Mapping[str, Any]
VariableMention = tuple[int, tuple[str, ...]]
"""A line, and the path of a variable that it names."""

ALL_VARIABLES: Final = "_"
"""Names every variable together, so that one whose name is no identifier can be had: ``_["first-name"]``."""
_NOW_KEY: Final = "_now"

_MARKS: Final = re.compile(r"\{[{%#]")
_COMMENT: Final = re.compile(r"\{#(?:[^{#]|\{(?!#)|#(?!\}))*+#\}")
"""A comment that ends before another begins: in minified CSS, ``{#id{color:red}}``, nothing ends it."""
_COMMENT_STARTS, _COMMENT_ENDS = "\0{#", "#}\0"
"""Comments in lenient texts, once they are told from CSS."""
_ALLOWED_NODES: Final = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.Name, nodes.Getattr, nodes.Getitem),
    *(nodes.Const, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Compare, nodes.Operand, nodes.Filter, nodes.Test),
)
_TOO_COMPLEX: Final = "too complicated: fewer or less deeply nested marks, please"


class _WorkBudget:
    """What is left to be done."""

    def __init__(self) -> None:
        self._left = WORK_MAX_CHARS

    def spend(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise Refused(f"its filters and comparisons touch more than {WORK_MAX_CHARS} characters")


class _TwigKeywords(Extension):
    """Twig's words where Jinja has others: `elseif` and `null`."""

    def filter_stream(self, stream: TokenStream) -> Iterable[Token]:
        """See Jinja's documentation of extensions."""
        before = ""
        for token in stream:
            if token.type == "name" and before == "block_begin" and token.value == "elseif":
                yield Token(token.lineno, "name", "elif")
            elif token.type == "name" and before != "dot" and token.value == "null":
                yield Token(token.lineno, "name", "none")
            else:
                yield token
            before = token.type


class _TwigEnvironment(ImmutableSandboxedEnvironment):
    """Look-ups find what JSON has: members of objects, items of lists."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``user.name``."""
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``user["name"]``, ``items[0]``."""
        if isinstance(obj, dict) and argument in obj:
            return obj[argument]
        if isinstance(obj, list) and type(argument) is int and 0 <= argument < len(obj):
            return obj[argument]
        return self.undefined(name=str(argument))


def _shown(value: Any) -> Any:
    """A value as PHP would print it."""
    if isinstance(value, str | MissingVariable):
        return value if isinstance(value, str) else str(value)
    if value is None or isinstance(value, bool):
        return "1" if value else ""
    if isinstance(value, int | float):
        return phpvalues.float_text(value) if isinstance(value, float) else str(value)
    raise Refused("an object or a list can't be shown; name one of its members")


@pass_context
def _finalized(_context: Context, value: Any) -> Any:
    """For Jinja: what takes a context is also asked of constants, which it would print as Python does."""
    return _shown(value)


def _text(context: Context, value: Any) -> str:
    shown = str(_shown(value))
    context[BUDGET_KEY].spend(len(shown))
    return shown


@pass_context
def _upper(context: Context, value: Any) -> str:
    return _text(context, value).upper()


@pass_context
def _lower(context: Context, value: Any) -> str:
    return _text(context, value).lower()


@pass_context
def _raw(context: Context, value: Any) -> Markup:
    return Markup(_text(context, value))  # noqa: S704 - it is what `raw` means; the template's author asks for it


@pass_context
def _escape(context: Context, value: Any, strategy: str = "html") -> Markup:
    if strategy != "html" and strategy not in phpvalues.ESCAPE_BY_STRATEGY:
        raise Refused(f"escape: only {', '.join(('html', *phpvalues.ESCAPE_BY_STRATEGY))}, not {strategy!r}")
    shown = _shown(value)
    context[BUDGET_KEY].spend(len(str(shown)))
    if strategy == "html":
        return escape(shown)
    context[BUDGET_KEY].spend(_ESCAPE_COST_PER_CHAR * len(str(shown)))
    escaped = phpvalues.ESCAPE_BY_STRATEGY[strategy](str(shown))
    return Markup(escaped)  # noqa: S704 - none of them leaves anything that HTML knows


@pass_context
def _date(context: Context, value: Any, form: str = php_date.DEFAULT_FORMAT, zone: str = "UTC") -> str:
    if not isinstance(form, str) or not isinstance(zone, str) or len(form) > php_date.FORMAT_MAX_CHARS:
        raise Refused("date: a format and a time zone are short texts")
    context[BUDGET_KEY].spend(len(form))
    if isinstance(value, LenientMissingVariable):
        value = "now"
    return php_date.format_php(php_date.parse_datetime(_shown(value), context[_NOW_KEY], zone), form)


def _default(value: Any, other: Any = "") -> Any:
    return other if _empty(value) else value


def _empty(value: Any) -> bool:
    """What Twig calls so; zero isn't."""
    return isinstance(value, MissingVariable) or value is None or value is False or value == "" or value in ([], {})


_FILTERS: Final = {
    **{"default": _default, "date": _date, "raw": _raw, "upper": _upper, "lower": _lower},
    **{"escape": _escape, "e": _escape},
}
_TESTS: Final = {
    "defined": lambda value: not isinstance(value, MissingVariable),
    "empty": _empty,
    "none": lambda value: value is None or isinstance(value, MissingVariable),
}


def _environment(html: bool, lenient: bool) -> _TwigEnvironment:
    made = _TwigEnvironment(
        autoescape=html,
        undefined=LenientMissingVariable if lenient else MissingVariable,
        comment_start_string=_COMMENT_STARTS if lenient else "{#",
        comment_end_string=_COMMENT_ENDS if lenient else "#}",
        finalize=_finalized,
        keep_trailing_newline=True,
        # Twig: "the first newline after a template tag is removed automatically (like in PHP)".
        trim_blocks=True,
        extensions=[_TwigKeywords],
        cache_size=0,
        # It would try to evaluate each level of an expression anew, from the innermost one on.
        optimized=False,
    )
    made.globals.clear()
    made.filters = dict(_FILTERS)
    made.tests = {**_TESTS, **CONDITION_TESTS}
    return made


_ENVIRONMENTS: Final = {
    (html, lenient): _environment(html, lenient) for html in (True, False) for lenient in (True, False)
}


class TwigText:
    """A compiled text."""

    def __init__(self, source: str, *, html: bool, lenient: bool = False) -> None:
        """Raises Refused, with the line, for what can't be compiled or isn't let in.

        ``lenient``: a variable that isn't there says nothing, and only what ends is a comment.
        """
        if len(source) > SOURCE_MAX_CHARS:
            raise Refused(f"more than {SOURCE_MAX_CHARS} characters")
        if lenient:
            source = _COMMENT.sub(lambda comment: f"\0{comment[0]}\0", source)
        self.mentions: tuple[VariableMention, ...] = ()
        self.nodes = 0
        self._literal = None if _MARKS.search(source) else source
        if self._literal is None:
            self._compile(source, _ENVIRONMENTS[html, lenient])

    def render(self, values: TemplateValues, now: int = 0, max_output_bytes: int = MAX_OUTPUT_BYTES) -> str:
        """What it says with these values. Raises Refused, with line and variable, and for more bytes than this."""
        if self._literal is not None:
            return "".join(limit_output([self._literal], max_output_bytes))
        context = {**values, ALL_VARIABLES: values, BUDGET_KEY: _WorkBudget(), _NOW_KEY: now}
        try:
            return "".join(limit_output(self._template.generate(context), max_output_bytes))
        except (Refused, UndefinedError, TypeError, ValueError, RecursionError) as error:
            raise Refused(self._explained(error)) from None

    def _compile(self, source: str, environment: _TwigEnvironment) -> None:
        try:
            tree = environment.parse(source)
            self.nodes, self.mentions = _checked(tree)
            self._template = environment.from_string(PhpConditions().visit(tree))
        except TemplateSyntaxError as error:
            raise Refused(f"line {error.lineno}: {_lower_first(error.message or 'not understood')}") from None
        except (RecursionError, MemoryError, SyntaxError, ValueError):
            raise Refused(_TOO_COMPLEX) from None

    def _explained(self, error: Exception) -> str:
        line = _line(error.__traceback__)
        if isinstance(error, UndefinedError):
            name = re.sub(r"^'(.*)' is undefined$", r"\1", str(error))
            paths = [path for number, path in self.mentions if number == line and path[-1:] == (name,)]
            return f"line {line}: there is no variable {'.'.join(paths[0]) if paths else name}"
        # What ends it may be what was said until then: no line's fault.
        where = f"line {line}: " if line else ""
        return where + (str(error) if isinstance(error, Refused) else "values that don't go together")


def limit_output(pieces: Iterable[str], max_output_bytes: int) -> Iterator[str]:
    """Yield the pieces while they are made. Raises Refused as soon as they are more than OUTPUT_MAX or these bytes."""
    characters, bytes_left = OUTPUT_MAX_CHARS, max_output_bytes
    for piece in pieces:
        characters -= len(piece)
        bytes_left -= len(piece) if piece.isascii() else len(piece.encode("utf-8", "replace"))
        if characters < 0:
            raise Refused(f"it says more than {OUTPUT_MAX_CHARS} characters")
        if bytes_left < 0:
            raise Refused(f"it says more than {max_output_bytes} bytes")
        yield piece


def _checked(tree: nodes.Template) -> tuple[int, tuple[VariableMention, ...]]:
    """The number of nodes, and the variables that are named. Raises TemplateSyntaxError for whatever isn't let in."""
    number = 0
    mentions: list[VariableMention] = []
    waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        number += 1
        if number > MAX_NODES or depth > MAX_DEPTH:
            raise TemplateSyntaxError(_TOO_COMPLEX, node.lineno)
        _let_in(node)
        if path := _path(node):
            mentions.append((node.lineno, path))
            # What is behind a path is its beginning.
            continue
        waiting += [(child, depth + 1) for child in node.iter_child_nodes()]
    return number, tuple(mentions)


def _let_in(node: nodes.Node) -> None:
    refusal = ""
    if not isinstance(node, _ALLOWED_NODES):
        refusal = f"{type(node).__name__.lower()} is not available here"
    elif isinstance(node, nodes.Name) and node.name.startswith("_") and node.name != ALL_VARIABLES:
        refusal = f"{node.name}: names begin with a letter"
    elif isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Const):
        refusal = "what stands in [] must be a text or a number"
    elif isinstance(node, nodes.Filter) and (node.node is None or node.name not in _FILTERS):
        refusal = f"there is no filter {node.name}; there are {', '.join(_FILTERS)}"
    elif isinstance(node, nodes.Test) and node.name not in _TESTS:
        refusal = f"there is no test {node.name}; there are {', '.join(_TESTS)}"
    if refusal:
        raise TemplateSyntaxError(refusal, node.lineno)


def _path(node: nodes.Node) -> tuple[str, ...]:
    """The path that a chain of look-ups names; empty for what is none. Checks each link of the chain."""
    steps: list[str] = []
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        _let_in(node)
        steps.append(node.attr if isinstance(node, nodes.Getattr) else str(getattr(node.arg, "value", "")))
        node = node.node
        if len(steps) > MAX_DEPTH:
            raise TemplateSyntaxError(_TOO_COMPLEX, node.lineno)
    if not isinstance(node, nodes.Name):
        return ()
    _let_in(node)
    return tuple(reversed(steps)) if node.name == ALL_VARIABLES else (node.name, *reversed(steps))


def _line(traceback: TracebackType | None) -> int:
    """The template's line: Jinja makes its frames look as if they were the template's."""
    line = 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _lower_first(message: str) -> str:
    return (message[:1].lower() + message[1:]).rstrip(".")
