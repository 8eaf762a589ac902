"""Twig's truth and comparisons instead of Jinja's, which are Python's and not counted as work. Pure.

`twig` lets a template's tree through :class:`PhpConditions` before it is compiled, and gives its
environments :data:`CONDITION_TESTS`.
"""

from collections.abc import Callable
from typing import Any, Final

from jinja2 import StrictUndefined, nodes, pass_context
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from pipeline.content import phpvalues

BUDGET_KEY: Final = "_budget"
"""The name in a rendering's context of what counts the work."""


class MissingVariable(StrictUndefined):
    """A variable without a value: false in a condition, an error where it is printed."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]  # the parent's raise, and so never return
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return other is None or isinstance(other, MissingVariable)

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # nobody keeps one in a set


class LenientMissingVariable(MissingVariable):
    """A variable without a value in a lenient text: Twig's null, which is printed as nothing."""

    __slots__ = ()

    def __str__(self) -> str:  # type: ignore[override]
        return ""


def _is_true(value: Any) -> bool:
    return phpvalues.is_true(value)


def _known(value: Any) -> Any:
    """Return the value to compare: null for a variable without a value."""
    return None if isinstance(value, MissingVariable) else value


@pass_context
def _equal(context: Context, left: Any, right: Any) -> bool:
    return phpvalues.are_equal(_known(left), _known(right), context[BUDGET_KEY].spend)


@pass_context
def _contained(context: Context, part: Any, whole: Any) -> bool:
    return phpvalues.contains(_known(whole), _known(part), context[BUDGET_KEY].spend)


def _ordered(fits: Callable[[int], bool]) -> Callable[[Context, Any, Any], bool]:
    @pass_context
    def test(context: Context, left: Any, right: Any) -> bool:
        for value in (left, right):
            if isinstance(value, MissingVariable):
                # Raises, unless the text is lenient: what isn't there has no order.
                str(value)
        order = phpvalues.compare(_known(left), _known(right), context[BUDGET_KEY].spend)
        return order is not None and fits(order)

    return test


_TRUTH_TEST: Final = "_true"
_COMPARISONS: Final[dict[str, tuple[str, bool]]] = {
    **{"eq": ("_equal", True), "ne": ("_equal", False), "in": ("_contained", True), "notin": ("_contained", False)},
    **{name: (f"_{name}", True) for name in ("lt", "lteq", "gt", "gteq")},
}
"""Jinja's operator -> the name of our test, and whether its result is used as it is (True) or negated."""
CONDITION_TESTS: Final[dict[str, Callable[..., bool]]] = {
    **{_TRUTH_TEST: _is_true, "_equal": _equal, "_contained": _contained},
    **{"_lt": _ordered(lambda order: order < 0), "_lteq": _ordered(lambda order: order <= 0)},
    **{"_gt": _ordered(lambda order: order > 0), "_gteq": _ordered(lambda order: order >= 0)},
}


class PhpConditions(NodeTransformer):
    """Replaces Jinja's conditions by our tests."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """Return what stands in a node's place; its children are replaced first."""
        self.generic_visit(node, *args, **kwargs)
        if isinstance(node, nodes.If):
            node.test = _asked(_TRUTH_TEST, node.test)
        elif isinstance(node, nodes.Not):
            node.node = _asked(_TRUTH_TEST, node.node)
        elif isinstance(node, nodes.And | nodes.Or):
            node.left, node.right = _asked(_TRUTH_TEST, node.left), _asked(_TRUTH_TEST, node.right)
        elif isinstance(node, nodes.Compare):
            return _compared(node)
        return node


def _compared(node: nodes.Compare) -> nodes.Expr:
    """Return the comparison, or several from left to right, as tests."""
    answer: nodes.Expr = node.expr
    for operand in node.ops:
        test, meant = _COMPARISONS[operand.op]
        answer = _asked(test, answer, operand.expr)
        answer = answer if meant else nodes.Not(answer, lineno=node.lineno)
    return answer


def _asked(test: str, value: nodes.Node, *arguments: nodes.Expr) -> nodes.Test:
    return nodes.Test(value, test, list(arguments), [], None, None, lineno=value.lineno)
