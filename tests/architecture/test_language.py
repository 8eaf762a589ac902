"""The language rules that a machine can hold."""

import pytest

from tests.architecture.measures import ARCHAIC, NO_VERBS, RIDDLES, function_docstrings, measure, sources
from tests.architecture.repository import ROOT

FILES = [str(path.relative_to(ROOT)) for path in sources()]


def test_no_class_name_stands_twice() -> None:
    assert measure(sources()).repeated_class_names == {}


@pytest.mark.parametrize("name", FILES)
def test_function_docstrings_begin_with_a_verb(name: str) -> None:
    found = {
        place: docstring.splitlines()[0]
        for place, docstring in function_docstrings(ROOT / name)
        if docstring.split(maxsplit=1)[0].strip(",.:;") in NO_VERBS or not docstring[0].isupper()
    }
    assert found == {}


def test_few_docstrings_open_with_a_question_word() -> None:
    assert measure(sources()).riddling_docstrings <= 0.01


def test_archaic_words_are_rare() -> None:
    assert measure(sources()).archaic_per_1000_words <= 0.5


@pytest.mark.parametrize("opening", sorted(RIDDLES))
def test_each_question_word_is_no_verb(opening: str) -> None:
    assert opening in NO_VERBS


def test_archaic_words_are_found_whole_and_in_any_case() -> None:
    text = "Whoever asks anew, thus; a lesson is not meant."
    assert [word.lower() for word in ARCHAIC.findall(text)] == ["whoever", "anew", "thus"]
