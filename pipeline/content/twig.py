"""Compile and render texts in Twig's syntax, with bounded time and output. Pure; `pipeline.content.render` calls it.

The engine is Jinja2's immutable sandbox, restricted to an allow-list of nodes, filters and tests (so there are no
loops, calls, imports or arithmetic) and to look-ups in JSON values, so that no attribute of a Python object is ever
read. Compiling takes linear time; the size of the output and the work of filters are limited while they run.
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
"""Bytes of output if the caller sets no lower limit: the most that OUTPUT_MAX_CHARS characters can take."""
WORK_MAX_CHARS: Final = 20_000_000
"""Characters that all filters and comparisons of one rendering may process together."""
_ESCAPE_COST_PER_CHAR: Final = 20
"""Work in characters for a character that is escaped by a Python function."""
MAX_NODES: Final = 5_000
MAX_DEPTH: Final = 40

TemplateValues = Mapping[str, Any]
VariableMention = tuple[int, tuple[str, ...]]
"""The number of a line, and the path of a variable that it names."""

ALL_VARIABLES: Final = "_"
"""The name of an object with all variables, for those whose names are no identifiers: ``_["first-name"]``."""
_NOW_KEY: Final = "_now"

_MARKS: Final = re.compile(r"\{[{%#]")
_COMMENT: Final = re.compile(r"\{#(?:[^{#]|\{(?!#)|#(?!\}))*+#\}")
"""A comment that ends before another begins, unlike minified CSS, where ``{#id{color:red}}`` has no end."""
_COMMENT_STARTS, _COMMENT_ENDS = "\0{#", "#}\0"
"""Delimiters of comments in lenient texts, put there after they were distinguished from CSS."""
_ALLOWED_NODES: Final = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.Name, nodes.Getattr, nodes.Getitem),
    *(nodes.Const, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Compare, nodes.Operand, nodes.Filter, nodes.Test),
)
_TOO_COMPLEX: Final = "too complicated: fewer or less deeply nested marks, please"


class _WorkBudget:
    """The characters that a rendering may still process."""

    def __init__(self) -> None:
        self._left = WORK_MAX_CHARS

    def spend(self, characters: int) -> None:
        """Deduct characters. Raise Refused if the budget is exceeded."""
        self._left -= characters
        if self._left < 0:
            raise Refused(f"its filters and comparisons touch more than {WORK_MAX_CHARS} characters")


class _TwigKeywords(Extension):
    """Replaces Twig's keywords `elseif` and `null` by Jinja's."""

    def filter_stream(self, stream: TokenStream) -> Iterable[Token]:
        """Yield the tokens with the keywords replaced; Jinja calls it."""
        previous_type = ""
        for token in stream:
            if token.type == "name" and previous_type == "block_begin" and token.value == "elseif":
                yield Token(token.lineno, "name", "elif")
            elif token.type == "name" and previous_type != "dot" and token.value == "null":
                yield Token(token.lineno, "name", "none")
            else:
                yield token
            previous_type = token.type


class _TwigEnvironment(ImmutableSandboxedEnvironment):
    """An environment whose look-ups return only members of JSON objects and items of lists."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return the value of ``user.name``; Jinja calls it."""
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return the value of ``user["name"]`` or ``items[0]``; Jinja calls it."""
        if isinstance(obj, dict) and argument in obj:
            return obj[argument]
        if isinstance(obj, list) and type(argument) is int and 0 <= argument < len(obj):
            return obj[argument]
        return self.undefined(name=str(argument))


def _printable(value: Any) -> Any:
    """Return a value as PHP prints it. Raise Refused for objects and lists."""
    if isinstance(value, str | MissingVariable):
        return value if isinstance(value, str) else str(value)
    if value is None or isinstance(value, bool):
        return "1" if value else ""
    if isinstance(value, int | float):
        return phpvalues.float_text(value) if isinstance(value, float) else str(value)
    raise Refused("an object or a list can't be shown; name one of its members")


@pass_context
def _finalized(_context: Context, value: Any) -> Any:
    """Return the value to print; Jinja calls it.

    Because it takes the context, Jinja also calls it for constants, which it would otherwise print as Python does.
    """
    return _printable(value)


def _text(context: Context, value: Any) -> str:
    text = str(_printable(value))
    context[BUDGET_KEY].spend(len(text))
    return text


@pass_context
def _upper(context: Context, value: Any) -> str:
    return _text(context, value).upper()


@pass_context
def _lower(context: Context, value: Any) -> str:
    return _text(context, value).lower()


@pass_context
def _raw(context: Context, value: Any) -> Markup:
    return Markup(_text(context, value))  # noqa: S704 - unescaped output is the purpose of `raw`


@pass_context
def _escape(context: Context, value: Any, strategy: str = "html") -> Markup:
    if strategy != "html" and strategy not in phpvalues.ESCAPE_BY_STRATEGY:
        raise Refused(f"escape: only {', '.join(('html', *phpvalues.ESCAPE_BY_STRATEGY))}, not {strategy!r}")
    printable = _printable(value)
    context[BUDGET_KEY].spend(len(str(printable)))
    if strategy == "html":
        return escape(printable)
    context[BUDGET_KEY].spend(_ESCAPE_COST_PER_CHAR * len(str(printable)))
    escaped = phpvalues.ESCAPE_BY_STRATEGY[strategy](str(printable))
    return Markup(escaped)  # noqa: S704 - all strategies escape every character that is special in HTML


@pass_context
def _date(context: Context, value: Any, form: str = php_date.DEFAULT_FORMAT, zone: str = "UTC") -> str:
    if not isinstance(form, str) or not isinstance(zone, str) or len(form) > php_date.FORMAT_MAX_CHARS:
        raise Refused("date: a format and a time zone are short texts")
    context[BUDGET_KEY].spend(len(form))
    if isinstance(value, LenientMissingVariable):
        value = "now"
    return php_date.format_php(php_date.parse_datetime(_printable(value), context[_NOW_KEY], zone), form)


def _default(value: Any, other: Any = "") -> Any:
    return other if _is_empty(value) else value


def _is_empty(value: Any) -> bool:
    """Return whether Twig calls a value empty; zero isn't."""
    return isinstance(value, MissingVariable) or value is None or value is False or value == "" or value in ([], {})


_FILTERS: Final = {
    **{"default": _default, "date": _date, "raw": _raw, "upper": _upper, "lower": _lower},
    **{"escape": _escape, "e": _escape},
}
_TESTS: Final = {
    "defined": lambda value: not isinstance(value, MissingVariable),
    "empty": _is_empty,
    "none": lambda value: value is None or isinstance(value, MissingVariable),
}


def _make_environment(html: bool, lenient: bool) -> _TwigEnvironment:
    environment = _TwigEnvironment(
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
        # The optimizer takes quadratic time: it evaluates each level of an expression again.
        optimized=False,
    )
    environment.globals.clear()
    environment.filters = dict(_FILTERS)
    environment.tests = {**_TESTS, **CONDITION_TESTS}
    return environment


_ENVIRONMENTS: Final = {
    (html, lenient): _make_environment(html, lenient) for html in (True, False) for lenient in (True, False)
}


class TwigText:
    """A compiled text in Twig's syntax."""

    def __init__(self, source: str, *, html: bool, lenient: bool = False) -> None:
        """Compile the source. Raise Refused with the line.

        ``html``: escape the values. ``lenient``: a missing variable is an empty text, and an unclosed comment is text.
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
        """Return the text with these values. Raise Refused with line and variable, and for more output than allowed.

        ``now``: the time of ``"now"|date`` in milliseconds.
        """
        if self._literal is not None:
            return "".join(limit_output([self._literal], max_output_bytes))
        context = {**values, ALL_VARIABLES: values, BUDGET_KEY: _WorkBudget(), _NOW_KEY: now}
        try:
            return "".join(limit_output(self._template.generate(context), max_output_bytes))
        except (Refused, UndefinedError, TypeError, ValueError, RecursionError) as error:
            raise Refused(self._explain(error)) from None

    def _compile(self, source: str, environment: _TwigEnvironment) -> None:
        try:
            tree = environment.parse(source)
            self.nodes, self.mentions = _check_tree(tree)
            self._template = environment.from_string(PhpConditions().visit(tree))
        except TemplateSyntaxError as error:
            raise Refused(f"line {error.lineno}: {_lower_first(error.message or 'not understood')}") from None
        except (RecursionError, MemoryError, SyntaxError, ValueError):
            raise Refused(_TOO_COMPLEX) from None

    def _explain(self, error: Exception) -> str:
        line = _template_line(error.__traceback__)
        if isinstance(error, UndefinedError):
            name = re.sub(r"^'(.*)' is undefined$", r"\1", str(error))
            paths = [path for number, path in self.mentions if number == line and path[-1:] == (name,)]
            return f"line {line}: there is no variable {'.'.join(paths[0]) if paths else name}"
        # The error may come from the limit of the output, which belongs to no line.
        where = f"line {line}: " if line else ""
        return where + (str(error) if isinstance(error, Refused) else "values that don't go together")


def limit_output(pieces: Iterable[str], max_output_bytes: int) -> Iterator[str]:
    """Yield the pieces. Raise Refused as soon as they exceed OUTPUT_MAX_CHARS or ``max_output_bytes``."""
    chars_left, bytes_left = OUTPUT_MAX_CHARS, max_output_bytes
    for piece in pieces:
        chars_left -= len(piece)
        bytes_left -= len(piece) if piece.isascii() else len(piece.encode("utf-8", "replace"))
        if chars_left < 0:
            raise Refused(f"it says more than {OUTPUT_MAX_CHARS} characters")
        if bytes_left < 0:
            raise Refused(f"it says more than {max_output_bytes} bytes")
        yield piece


def _check_tree(tree: nodes.Template) -> tuple[int, tuple[VariableMention, ...]]:
    """Return the number of nodes and the variables that are named. Raise TemplateSyntaxError for a forbidden node."""
    count = 0
    mentions: list[VariableMention] = []
    pending: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while pending:
        node, depth = pending.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise TemplateSyntaxError(_TOO_COMPLEX, node.lineno)
        _check_node(node)
        if path := _variable_path(node):
            mentions.append((node.lineno, path))
            # The children are the rest of the same path.
            continue
        pending += [(child, depth + 1) for child in node.iter_child_nodes()]
    return count, tuple(mentions)


def _check_node(node: nodes.Node) -> None:
    """Raise TemplateSyntaxError for a node, filter, test or name that isn't allowed."""
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


def _variable_path(node: nodes.Node) -> tuple[str, ...]:
    """Return the path that a chain of look-ups names, empty for another node. Raise TemplateSyntaxError."""
    steps: list[str] = []
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        _check_node(node)
        steps.append(node.attr if isinstance(node, nodes.Getattr) else str(getattr(node.arg, "value", "")))
        node = node.node
        if len(steps) > MAX_DEPTH:
            raise TemplateSyntaxError(_TOO_COMPLEX, node.lineno)
    if not isinstance(node, nodes.Name):
        return ()
    _check_node(node)
    return tuple(reversed(steps)) if node.name == ALL_VARIABLES else (node.name, *reversed(steps))


def _template_line(traceback: TracebackType | None) -> int:
    """Return the line of the template, whose frames Jinja adds to the traceback; 0 if there is none."""
    line = 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _lower_first(message: str) -> str:
    return (message[:1].lower() + message[1:]).rstrip(".")
