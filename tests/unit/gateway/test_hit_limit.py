"""Unit tests of the limit on recorded opens and clicks of one link."""

from pipeline.gateway import hit_limit
from pipeline.gateway.hit_limit import MAX_HITS_PER_WINDOW, WINDOW_MS, HitLimit
from topics.record import EmailId

ONE, OTHER = EmailId("1"), EmailId("2")


def test_hits_of_one_link_are_recorded_up_to_the_limit() -> None:
    limit = HitLimit(lambda: 5)
    assert [limit.admit("pixel", ONE) for _ in range(MAX_HITS_PER_WINDOW)] == [True] * MAX_HITS_PER_WINDOW
    assert not limit.admit("pixel", ONE)
    assert limit.admit("pixel", OTHER)
    assert limit.admit("click", ONE, "https://a.example/")
    assert limit.admit("click", ONE, "https://b.example/")


def test_hits_are_recorded_again_in_the_next_window() -> None:
    now = 0
    limit = HitLimit(lambda: now)
    while limit.admit("pixel", ONE):
        pass
    now = WINDOW_MS
    assert limit.admit("pixel", ONE)


def test_number_of_counted_links_is_bounded(monkeypatch: object) -> None:
    limit = HitLimit(lambda: 0)
    monkeypatch.setattr(hit_limit, "MAX_COUNTED_LINKS", 10)  # type: ignore[attr-defined]
    for number in range(50):
        limit.admit("pixel", EmailId(str(number)))
    assert len(limit._hits) == 10
