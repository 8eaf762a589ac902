"""Tests of the checks of JSON before it is decoded: linear time and little memory."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dialects.raw_json import (
    check_limits,
    member_values,
    nesting_depth,
    read_despite_lone_surrogate,
    replace_lone_surrogates,
    split_array,
)
from pipeline.errors import Refused

BLANK = st.sampled_from(["", " ", "\n\t"])
WHOLE = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ['"', "\\", "[{,:]}", '\\"', "\\ud800", "😀"]
)
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | WHOLE,
    lambda inner: st.lists(inner) | st.dictionaries(WHOLE, inner),
    max_leaves=15,
)


def peak_memory(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", [b"x" * 2_000_000, b'\\"' * 1_000_000, b"\\\\" * 1_000_000, b"[{,:" * 500_000])
@pytest.mark.parametrize("ended", [b'"', b"", b"\\"])
def test_depth_needs_less_memory_than_the_text(text: bytes, ended: bytes) -> None:
    raw = b'{"a":[' + b"[]," * 40 + b'"' + text + ended + b"]}"
    assert peak_memory(lambda: nesting_depth(raw, 32)) < 1.2 * len(raw)


@pytest.mark.parametrize("body", [b"[" + b"[]," * 400_000 + b"1]", b'{"":' + b'[{"":[' * 200_000, b"," * 2_000_000])
def test_too_many_values_or_levels_are_refused_without_memory(body: bytes) -> None:
    def refused() -> None:
        with pytest.raises(Refused, match="more than"):
            check_limits(body, max_depth=64, max_values=300_000)

    assert peak_memory(refused) < 500_000


@given(JSON, BLANK)
def test_values_of_an_object_are_returned_unchanged(value: Any, blank: str) -> None:
    members = {"a": value, "b": [value], "": {"c": value}}
    body = f"{blank}{json.dumps(members, separators=(blank + ',' + blank, blank + ':' + blank))}{blank}".encode()
    assert [json.loads(raw) for raw in member_values(body, 3)] == list(members.values())


def test_object_with_too_many_members_is_refused() -> None:
    with pytest.raises(Refused, match="more than 2 members"):
        member_values(b'{"a": 1, "b": [2], "c": 3}', 2)


@given(JSON)
def test_texts_without_lone_surrogates_are_unchanged(value: Any) -> None:
    for ascii_only in (True, False):
        raw = json.dumps(value, ensure_ascii=ascii_only).encode()
        assert replace_lone_surrogates(raw) == raw


@given(st.lists(st.sampled_from(["\ud83d", "\ude00", "\\", "u", "a", '"', "😀"])))
def test_replacing_lone_surrogates_keeps_positions_and_leaves_none(parts: list[str]) -> None:
    text = "".join(parts)
    raw = json.dumps(text).encode()
    replaced = replace_lone_surrogates(raw)
    assert len(replaced) == len(raw)
    # Two adjacent halves are a pair in JSON; Python joins them only when they are encoded.
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert len(json.loads(replaced)) == len(expected)
    json.loads(replaced).encode()


def test_value_beside_half_a_pair_is_read_and_one_that_contains_it_is_not() -> None:
    for value, expected in (("a😀", "a😀"), ("\ufffd", "\ufffd"), ("\ud800", None), ("a\udc00", None)):
        raw = json.dumps([value, "\ud800"]).encode()
        assert read_despite_lone_surrogate(lambda body: str(json.loads(body)[0]), raw) == expected


def test_lone_surrogate_among_millions_of_brackets_takes_little_memory() -> None:
    body = b'["\\ud800",' + b"[[" + b"[]," * 300_000 + b"1]]]"
    assert peak_memory(lambda: split_array(body)) < 6 * len(body)
