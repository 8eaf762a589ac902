"""Measure the product's language: `python -m tests.architecture.measures [FOLDER…]`.

The figures are those by which other code bases of the field were compared with this one: how many names are a single
word, how many class names stand twice, how docstrings open, how often words occur that nobody uses in technical
English, and how long commit subjects are. `test_language.py` holds the ones that have a limit.
"""

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.architecture.repository import ROOT

PRODUCT = ("pipeline", "topics", "projections")
RIDDLES = frozenset({"What", "Which", "Whether", "Who", "It"})
"""Openings of docstrings that describe a thing by a question about it."""
NO_VERBS = RIDDLES | frozenset(
    {"A", "All", "An", "And", "As", "At", "Both", "By", "Each", "Every", "For", "From", "How", "If", "In", "Its"}
    | {"No", "Nothing", "Of", "On", "One", "So", "That", "The", "Their", "This", "To", "Under", "When", "Where"}
    | {"Whom", "Whose", "Why", "With", "Without"}
)
"""Words with which no imperative sentence begins."""
ARCHAIC = re.compile(
    r"\b(?:anew|ere|hence|henceforth|herein|hitherto|lest|naught|ought|shall|thereby|thereof|thus|whereby|wherein|"
    r"whilst|whoever|whosoever|yonder)\b",
    re.IGNORECASE,
)
WORD = re.compile(r"[A-Za-z']+")
COMMITS = 100
"""The newest commits whose subjects count."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Documented = Definition | ast.Module


@dataclass(frozen=True)
class Measures:
    """What is measured of some source files; shares are between 0 and 1."""

    functions: int
    one_word_functions: float
    classes: int
    one_word_classes: float
    repeated_class_names: dict[str, int]
    docstrings: int
    riddling_docstrings: float
    function_docstrings: int
    function_docstrings_without_verb: float
    archaic_per_1000_words: float


def sources(folders: Iterable[str] = PRODUCT) -> Iterator[Path]:
    """Yield the Python files below ``folders`` of the repository."""
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def measure(paths: Iterable[Path]) -> Measures:
    """Return the measures of these files."""
    functions: list[str] = []
    classes: list[str] = []
    docstrings: list[str] = []
    of_functions: list[str] = []
    words = archaic = 0
    for path in paths:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                classes.append(node.name)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions.append(node.name)
            if isinstance(node, Documented) and (docstring := ast.get_docstring(node)):
                opening = docstring.split(maxsplit=1)[0].strip(",.:;")
                docstrings.append(opening)
                if not isinstance(node, ast.ClassDef | ast.Module):
                    of_functions.append(opening)
        prose = _prose(text)
        words += len(WORD.findall(prose))
        archaic += len(ARCHAIC.findall(prose))
    return Measures(
        functions=len(functions),
        one_word_functions=_share(functions, lambda name: "_" not in name.strip("_")),
        classes=len(classes),
        one_word_classes=_share(classes, lambda name: len(re.findall("[A-Z][a-z0-9]*", name)) <= 1),
        repeated_class_names={name: count for name, count in Counter(classes).items() if count > 1},
        docstrings=len(docstrings),
        riddling_docstrings=_share(docstrings, RIDDLES.__contains__),
        function_docstrings=len(of_functions),
        function_docstrings_without_verb=_share(of_functions, NO_VERBS.__contains__),
        archaic_per_1000_words=1000 * archaic / max(words, 1),
    )


def function_docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ``file:line name`` and the docstring of each documented function of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (docstring := ast.get_docstring(node)):
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", docstring


def subject_lengths() -> list[int]:
    """Return the lengths of the newest commits' subjects; merges are left out."""
    command = ["git", "log", "--no-merges", "--format=%s", f"-{COMMITS}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [len(subject) for subject in done.stdout.splitlines()]


def _prose(text: str) -> str:
    """Return the comments and docstrings of a source text, without its code."""
    comments = re.findall(r"#\s*(.*)", text)
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    strings = [node.value.value for node in nodes if isinstance(node.value, ast.Constant)]
    return "\n".join(comments + [string for string in strings if isinstance(string, str)])


def _share(names: list[str], counts: Callable[[str], bool]) -> float:
    return sum(map(counts, names)) / max(len(names), 1)


def main() -> None:
    """Print the measures of the folders that the command line names, or of the product."""
    found = measure(sources(sys.argv[1:] or PRODUCT))
    rows = {
        "one-word function names": f"{found.one_word_functions:.0%} of {found.functions}",
        "one-word class names": f"{found.one_word_classes:.0%} of {found.classes}",
        "class names used twice or more": f"{len(found.repeated_class_names)}",
        "docstrings that open with What, Which, …": f"{found.riddling_docstrings:.0%} of {found.docstrings}",
        "function docstrings without a verb": (
            f"{found.function_docstrings_without_verb:.0%} of {found.function_docstrings}"
        ),
        "archaic words per 1,000": f"{found.archaic_per_1000_words:.1f}",
        f"commit subject, median of {COMMITS}": f"{statistics.median(subject_lengths()):.0f} characters",
    }
    for name, value in rows.items():
        print(f"{name:42} {value}")


if __name__ == "__main__":
    main()
