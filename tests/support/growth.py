"""Measure how a call's CPU time grows when its input doubles, and find all regular expressions of the product."""

import ast
import contextlib
import importlib
import math
import pkgutil
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

MAX_GROWTH = 2.5
"""The largest allowed ratio of times when the input doubles: linear work takes 2 times as long, quadratic work 4."""
FLOOR_S = 0.0004
"""Seconds below which a first time is too short to compare, and not quadratic: two million steps take longer."""
SURELY_SLOW_S = 0.03
GIVE_UP_S = 0.3
COMPARED = 12
"""How many of a pattern's slowest attacks are also tried on twice the text; any that grows too fast is among them."""
CHARS = 2000
ROUNDS = 3


@dataclass(frozen=True)
class Found:
    """A compiled pattern, its place, and its methods that the source uses, where these are known."""

    where: str
    pattern: re.Pattern[Any]
    methods: tuple[str, ...] = ("finditer", "fullmatch")


class _Endless(Exception):
    """A call used more than GIVE_UP_S of CPU time."""


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the CPU time that the call takes; infinity where it takes more than GIVE_UP_S."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise _Endless

    # The timer of virtual time is free; pytest-timeout uses that of real time.
    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, GIVE_UP_S)
    began = time.thread_time()
    try:
        call()
        return time.thread_time() - began
    except _Endless:
        return math.inf
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def growth(call: Callable[[int], object], size: int) -> float:
    """Return how many times as long the call takes when its size doubles; the least of several measurements.

    Each measurement compares the least of several times, because other work of the machine makes times only longer.
    """
    least = math.inf
    for _ in range(ROUNDS):
        once = _least(lambda: call(size))
        twice = _least(lambda: call(2 * size))
        if math.isinf(twice):
            return math.inf
        least = min(least, twice / once)
        if least <= MAX_GROWTH:
            break
    return least


def _least(call: Callable[[], object]) -> float:
    """Return the least of three times; return the first at once where it is long."""
    first = cpu_seconds(call)
    return first if first > SURELY_SLOW_S else min(first, cpu_seconds(call), cpu_seconds(call))


FILL = (
    *(
        " ",
        "a",
        "0",
        ".",
        "-",
        "_",
        "<",
        '"',
        "'",
        ";",
        "=",
        "?",
        "@",
        "%",
        "\n",
        "\t",
        "&",
        "(",
        "/",
        "\\",
        "{",
        "[",
        ":",
    ),
    *("x ", "a.", "a=", "=?", "$$a", "%40", "5.1.1 ", "<a", "a@", ", ", "- ", "\n ", "--", "<!--", "\r\n", "a,", ' "'),
    *("<a ", "a:", "(a", "{{", "{#", "{%", "&#", "*/", "/*", "a\n", "=\n", "a-", "[a", "a:b,", "1 ", "=a="),
)


def worst_growth(found: Found) -> tuple[float, str]:
    """Attack a pattern with texts of its own literals; return the largest growth, and the attack."""
    slowest: list[tuple[float, str, Callable[[int], object]]] = []
    for start, fill in _attacks(found.pattern):
        for method in found.methods:
            call, how = _attack(found, method, start, fill), f"{method} of {start!r} + {fill!r} × n"
            if (took := _time(call)) > FLOOR_S:
                slowest.append((took, how, call))
            if took > SURELY_SLOW_S and (grown := growth(call, CHARS)) > MAX_GROWTH:
                return grown, how
    slowest.sort(key=lambda row: row[0], reverse=True)
    return max(((growth(call, CHARS), how) for _, how, call in slowest[:COMPARED]), default=(0.0, ""))


def _time(call: Callable[[int], object]) -> float:
    """Return the time of the call on the first size; repeat a long one, which other work may have slowed down."""
    first = cpu_seconds(lambda: call(CHARS))
    return first if first < FLOOR_S or math.isinf(first) else min(first, cpu_seconds(lambda: call(CHARS)))


def _attack(found: Found, method: str, start: str, fill: str) -> Callable[[int], object]:
    binary = isinstance(found.pattern.pattern, bytes)

    def text(size: int) -> Any:
        attack = start + fill * (size // len(fill)) + "\x01!"
        return attack.encode("latin-1") if binary else attack

    texts = {size: text(size) for size in (CHARS, 2 * CHARS)}
    run = getattr(found.pattern, method)
    return (lambda size: list(run(texts[size]))) if method == "finditer" else (lambda size: run(texts[size]))


def _attacks(pattern: re.Pattern[Any]) -> Iterator[tuple[str, str]]:
    shown = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    words = set(re.findall(r"[A-Za-z][A-Za-z @<]{1,30}", re.sub(r"\(\?[a-zA-Z:!=<P]+>?|\\[a-zA-Z]", "|", shown)))
    literals = sorted(words, key=lambda word: (len(word), word), reverse=True)[:16]
    for start in ("", *literals):
        yield from ((start, fill) for fill in FILL)
    for literal in literals:
        yield from (("", literal + between) for between in ("", " ", ": ", "="))
        yield literal, literal


def patterns(*packages: ModuleType) -> list[Found]:
    """Return every pattern that modules of these packages hold, in data, classes and calls of `re`."""
    by_pattern: dict[tuple[str | bytes, int, bool], Found] = {}
    for package in packages:
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.endswith("__main__"):
                continue
            module = importlib.import_module(info.name)
            held = list(_held(module))
            texts = {found.pattern.pattern for found in held}
            for found in (*held, *(called for called in _called(module) if called.pattern.pattern not in texts)):
                by_pattern.setdefault((found.pattern.pattern, found.pattern.flags, len(found.methods) == 1), found)
    return sorted(by_pattern.values(), key=lambda found: found.where)


def _held(module: ModuleType) -> Iterator[Found]:
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    for name, value in vars(module).items():
        if name.startswith("__"):
            continue
        if isinstance(value, re.Pattern) and name.startswith("_") and (methods := _anchored_methods(tree, name)):
            yield Found(f"{module.__name__}.{name}", value, methods)
            continue
        yield from _walk(value, f"{module.__name__}.{name}")
        if isinstance(value, type) and value.__module__ == module.__name__:
            for inner, held in vars(value).items():
                yield from _walk(held, f"{module.__name__}.{name}.{inner}")


def _anchored_methods(tree: ast.AST, name: str) -> tuple[str, ...]:
    """Return the methods of a private pattern that its module uses; none where one of them searches the text.

    `match` and `fullmatch` try one place of the text only, so that they can't be quadratic as a search can.
    """
    uses = sum(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load) for node in ast.walk(tree)
    )
    methods = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    ]
    is_anchored = len(methods) == uses and set(methods) <= {"match", "fullmatch"}
    return tuple(sorted(set(methods))) if is_anchored else ()


def _walk(value: Any, where: str, depth: int = 0) -> Iterator[Found]:
    if isinstance(value, re.Pattern):
        yield Found(where, value)
    elif depth < 4:
        inner = value.values() if isinstance(value, dict) else value
        if isinstance(inner, list | tuple | set | frozenset) or isinstance(value, dict):
            for number, item in enumerate(inner):
                yield from _walk(item, f"{where}[{number}]", depth + 1)


def _called(module: ModuleType) -> Iterator[Found]:
    """Yield the patterns in calls such as `re.sub("…", …)`, whose method is known."""
    path = Path(str(module.__file__))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="re"), attr=method),
                args=[ast.Constant(value=str() | bytes() as text), *_],
            ) if method != "escape":
                methods = (method,) if method in ("match", "fullmatch") else ("finditer", "fullmatch")
                with contextlib.suppress(re.error):
                    yield Found(f"{module.__name__}:{text!r}"[:90], re.compile(text), methods)
