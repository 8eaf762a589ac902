"""JSON is held to its limits before anything is built of it: in linear time, with no memory beside a copy."""

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
def test_depth_needs_less_memory_than_the_text_is_long(text: bytes, ended: bytes) -> None:
    raw = b'{"a":[' + b"[]," * 40 + b'"' + text + ended + b"]}"
    assert peak_memory(lambda: nesting_depth(raw, 32)) < 1.2 * len(raw)


@pytest.mark.parametrize("body", [b"[" + b"[]," * 400_000 + b"1]", b'{"":' + b'[{"":[' * 200_000, b"," * 2_000_000])
def test_too_many_values_or_levels_are_refused_without_memory(body: bytes) -> None:
    def refused() -> None:
        with pytest.raises(Refused, match="more than"):
            check_limits(body, max_depth=64, max_values=300_000)

    assert peak_memory(refused) < 500_000


@given(JSON, BLANK)
def test_the_values_of_an_object_are_cut_out_as_they_stand(value: Any, blank: str) -> None:
    whole = {"a": value, "b": [value], "": {"c": value}}
    body = f"{blank}{json.dumps(whole, separators=(blank + ',' + blank, blank + ':' + blank))}{blank}".encode()
    assert [json.loads(one) for one in member_values(body, 3)] == list(whole.values())


def test_an_object_of_more_members_than_allowed_is_refused() -> None:
    with pytest.raises(Refused, match="more than 2 members"):
        member_values(b'{"a": 1, "b": [2], "c": 3}', 2)


@given(JSON)
def test_whole_texts_need_no_mending(value: Any) -> None:
    for ascii_only in (True, False):
        raw = json.dumps(value, ensure_ascii=ascii_only).encode()
        assert replace_lone_surrogates(raw) == raw


@given(st.lists(st.sampled_from(["\ud83d", "\ude00", "\\", "u", "a", '"', "😀"])))
def test_mending_moves_no_byte_and_leaves_no_half(parts: list[str]) -> None:
    text = "".join(parts)
    raw = json.dumps(text).encode()
    whole = replace_lone_surrogates(raw)
    assert len(whole) == len(raw)
    # Two halves that stand side by side are a pair in JSON; Python keeps them apart until they are encoded.
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert len(json.loads(whole)) == len(expected)
    json.loads(whole).encode()


def test_a_value_beside_half_a_pair_is_found_and_one_that_holds_it_is_not() -> None:
    for value, expected in (("a😀", "a😀"), ("\ufffd", "\ufffd"), ("\ud800", None), ("a\udc00", None)):
        raw = json.dumps([value, "\ud800"]).encode()
        assert read_despite_lone_surrogate(lambda whole: str(json.loads(whole)[0]), raw) == expected


def test_broken_items_among_millions_of_brackets_take_no_memory_of_their_own() -> None:
    body = b'["\\ud800",' + b"[[" + b"[]," * 300_000 + b"1]]]"
    assert peak_memory(lambda: split_array(body)) < 6 * len(body)
