"""One text, one result, wherever it is written to Postgres or looked up there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.jobs.store import MAX_ERROR_CHARS, storable_error
from pipeline.webhooks.provider_message_ids import match_key
from projections.text import storable_text


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("plain", "plain"),
        ("ąć 🙂", "ąć 🙂"),
        ("a\x00b", "a\ufffdb"),
        ("a\ud800b", "a\ufffdb"),
        ("ą\x00\udfff", "ą\ufffd\ufffd"),
    ],
)
def test_every_writer_replaces_what_postgres_cannot_hold(text: str, stored: str) -> None:
    assert storable_text(text) == stored
    assert storable_error(text) == stored
    assert match_key(text) == stored


@given(st.text(st.characters(codec=None)))
def test_storable_text_is_utf_8_without_nul_and_stays_itself(text: str) -> None:
    stored = storable_text(text)
    assert b"\x00" not in stored.encode()
    assert len(stored) == len(text)
    assert storable_text(stored) == stored


def test_error_is_cut_to_what_is_kept_of_it() -> None:
    assert storable_error("x" * 2 * MAX_ERROR_CHARS) == "x" * MAX_ERROR_CHARS
