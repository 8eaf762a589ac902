"""Replace Jinja's conditions and comparisons, which are Python's and unlimited in work, by Twig's. Pure.

`pipeline.content.twig` transforms a template's tree by :class:`PhpConditions` before it is compiled, and adds
:data:`CONDITION_TESTS` to its environments.
"""

from collections.abc import Callable
from typing import Any, Final

from jinja2 import StrictUndefined, nodes, pass_context
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from pipeline.content import phpvalues

BUDGET_KEY: Final = "_budget"
"""The name of the work budget in a rendering's context."""


class MissingVariable(StrictUndefined):
    """A variable without a value: false in a condition, an error where it is printed."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]  # the parent's raise, and so never return
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return other is None or isinstance(other, MissingVariable)

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # it is never put into a set


class LenientMissingVariable(MissingVariable):
    """A variable without a value in a lenient text: Twig's null, which is printed as an empty text."""

    __slots__ = ()

    def __str__(self) -> str:  # type: ignore[override]
        return ""


def _is_true(value: Any) -> bool:
    return phpvalues.is_true(value)


def _comparable(value: Any) -> Any:
    """Return the value to compare: None for a variable without a value."""
    return None if isinstance(value, MissingVariable) else value


@pass_context
def _equal(context: Context, left: Any, right: Any) -> bool:
    return phpvalues.are_equal(_comparable(left), _comparable(right), context[BUDGET_KEY].spend)


@pass_context
def _contained(context: Context, part: Any, whole: Any) -> bool:
    return phpvalues.contains(_comparable(whole), _comparable(part), context[BUDGET_KEY].spend)


def _order_test(is_match: Callable[[int], bool]) -> Callable[[Context, Any, Any], bool]:
    @pass_context
    def test(context: Context, left: Any, right: Any) -> bool:
        for value in (left, right):
            if isinstance(value, MissingVariable):
                # Raises unless the text is lenient: a missing value has no order.
                str(value)
        order = phpvalues.compare(_comparable(left), _comparable(right), context[BUDGET_KEY].spend)
        return order is not None and is_match(order)

    return test


_TRUTH_TEST: Final = "_true"
_COMPARISONS: Final[dict[str, tuple[str, bool]]] = {
    **{"eq": ("_equal", True), "ne": ("_equal", False), "in": ("_contained", True), "notin": ("_contained", False)},
    **{name: (f"_{name}", True) for name in ("lt", "lteq", "gt", "gteq")},
}
"""The name of our test for each of Jinja's operators, and False where its result is negated."""
CONDITION_TESTS: Final[dict[str, Callable[..., bool]]] = {
    **{_TRUTH_TEST: _is_true, "_equal": _equal, "_contained": _contained},
    **{"_lt": _order_test(lambda order: order < 0), "_lteq": _order_test(lambda order: order <= 0)},
    **{"_gt": _order_test(lambda order: order > 0), "_gteq": _order_test(lambda order: order >= 0)},
}


class PhpConditions(NodeTransformer):
    """Replaces Jinja's conditions by our tests."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """Return the replacement of a node; its children are replaced first."""
        self.generic_visit(node, *args, **kwargs)
        if isinstance(node, nodes.If):
            node.test = _test_node(_TRUTH_TEST, node.test)
        elif isinstance(node, nodes.Not):
            node.node = _test_node(_TRUTH_TEST, node.node)
        elif isinstance(node, nodes.And | nodes.Or):
            node.left, node.right = _test_node(_TRUTH_TEST, node.left), _test_node(_TRUTH_TEST, node.right)
        elif isinstance(node, nodes.Compare):
            return _compared(node)
        return node


def _compared(node: nodes.Compare) -> nodes.Expr:
    """Return a comparison as a test; a chain of comparisons as nested tests from left to right."""
    result: nodes.Expr = node.expr
    for operand in node.ops:
        test, is_positive = _COMPARISONS[operand.op]
        result = _test_node(test, result, operand.expr)
        result = result if is_positive else nodes.Not(result, lineno=node.lineno)
    return result


def _test_node(test: str, value: nodes.Node, *arguments: nodes.Expr) -> nodes.Test:
    return nodes.Test(value, test, list(arguments), [], None, None, lineno=value.lineno)
