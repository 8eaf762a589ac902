"""The measure of how bounces are read: its scores, and that it reads the pinned archive."""

from collections import Counter
from pathlib import Path

import pytest

from bench import bounces
from tests.support.inbound import EMAIL_ID, bounce, verp


def test_scores_are_precision_and_recall_by_class() -> None:
    scores = bounces.scores(Counter({("hard", "hard"): 3, ("hard", "soft"): 1, ("soft", "soft"): 2}))
    assert scores["hard"] == {"samples": 4, "precision": 1.0, "recall": 0.75}
    assert scores["soft"] == {"samples": 2, "precision": 2 / 3, "recall": 1.0}


def test_another_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "samples.tar.gz"
    archive.write_bytes(b"another")
    with pytest.raises(ValueError, match="SHA-256"):
        list(bounces.samples(archive))


def test_sample_is_read_as_if_it_came_to_a_return_path() -> None:
    assert EMAIL_ID == bounces.SAMPLE_ID
    assert bounces.ours(bounce("list-owner@example.org")) == "hard"
    assert bounces.ours(b"From: a@example.net\r\n\r\nhello\r\n") == bounces.NO_BOUNCE
    assert bounces.theirs(bounce(verp())) == "bounce"
