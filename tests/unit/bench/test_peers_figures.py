"""The figures of the peers: rates computed from samples, and states that must be equal."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from bench.peers import report
from bench.peers.__main__ import options
from bench.peers.contest import Entrant, Result
from bench.peers.engines import ENGINES
from bench.peers.measure import Pace, Sample, pace
from bench.peers.states import Different, compare

BEGAN = Sample(at=0.0, done=0, cpu=0.0)


def test_start_up_is_not_measured() -> None:
    seen = [Sample(9.0, 0, 8.0), Sample(10.0, 1_000, 9.0), Sample(12.0, 5_000, 10.0), Sample(13.0, 5_000, 11.0)]
    assert pace(BEGAN, seen) == Pace(per_second=2_000, cpu_micros=250)


def test_what_one_did_before_the_other_came_is_not_measured() -> None:
    single, both = Sample(1.0, 1_000, 1.0, together=False), Sample(2.0, 2_000, 2.0)
    assert pace(BEGAN, [single, both, Sample(3.0, 6_000, 4.0)]) == Pace(per_second=4_000, cpu_micros=500)


def test_a_run_that_is_over_at_once_is_measured_from_its_beginning() -> None:
    assert pace(BEGAN, [Sample(1.0, 0, 1.0), Sample(2.0, 500, 1.0)]) == Pace(per_second=250, cpu_micros=2_000)


def test_equal_states_are_let_pass() -> None:
    compare("it", {b"a": b"1"}, {b"a": b"1"})


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({b"a": b"1"}, "1 missing, 0 wrong; 0 too many"),
        ({b"a": b"1", b"b": b"3"}, "0 missing, 1 wrong; 0 too many"),
        ({b"a": b"1", b"b": b"2", b"c": b"3"}, "0 missing, 0 wrong; 1 too many"),
        ({}, "2 missing"),
    ],
)
def test_a_state_that_is_missing_wrong_or_too_much_is_told(found: dict[bytes, bytes], words: str) -> None:
    with pytest.raises(Different, match=words):
        compare("it", found, {b"a": b"1", b"b": b"2"})


def _results(**paces: float) -> Iterator[Result]:
    for name, per_second in paces.items():
        engine, _, processes = name.partition("_")
        entrant = Entrant(ENGINES[engine], int(processes or 1))
        yield Result(entrant, Pace(per_second, 10.0), 100.0, 5.0 if not processes else None, 250_000)


def test_each_goal_is_held_against_its_peer_of_the_same_run() -> None:
    results = list(_results(quix=50_000, streams=50_000, textbook=4_000, ours=70_000, ours_2=100_000))
    assert {goal.what: (round(goal.found, 2), goal.met) for goal in report.goals(results)} == {
        "events/s per core": (70_000, True),
        "× Quix Streams": (1.4, False),
        "× Kafka Streams": (1.4, True),
        "× Faust, textbook": (17.5, True),
        "two workers, × one": (1.43, False),
        "states/s recovered (a million in 20 s)": (50_000, True),
    }


def test_a_ratio_is_to_ours_with_as_many_processes() -> None:
    results = list(_results(quix=40_000, quix_2=50_000, ours=80_000, ours_2=150_000))
    assert [report.ratio(result, results) for result in results] == [2.0, 3.0, 1.0, 1.0]
    assert report.ratio(results[0], results[:2]) is None


def test_of_several_rounds_the_middle_run_counts_and_nothing_that_went_wrong_is_forgotten() -> None:
    number = itertools.count()

    def run(name: str, per_second: float, **more: Any) -> Result:
        figures = {"peak_mb": 100.0, "recovery_s": None, "states": 5, **more}
        return Result(Entrant(ENGINES[name], 1, next(number)), Pace(per_second, 1e6 / per_second), **figures)

    rounds = [
        *(run("quix", 40_000, recovery_s=9.0, trouble="2 wrong"), run("ours", 70_000, recovery_s=4.0)),
        *(run("quix", 30_000), run("ours", 40_000, peak_mb=120.0)),
        *(run("quix", 35_000), run("ours", 60_000)),
    ]
    quix, ours = report.medians(rounds)
    assert (quix.pace.per_second, quix.trouble, quix.recovery_s) == (35_000, "2 wrong", 9.0)
    assert ours.pace == Pace(60_000, 1e6 / 60_000)
    assert (ours.peak_mb, ours.recovery_s, ours.spread) == (120.0, 4.0, (40_000, 70_000))
    assert report.medians(rounds[:4])[1].pace.per_second == 40_000  # of two the slower
    assert report.medians(rounds[:2]) == rounds[:2]
    assert len({result.entrant.run for result in rounds}) == len(rounds)  # nobody goes on where another round ended


def test_everybody_runs_unless_some_are_named() -> None:
    assert {entrant.run for entrant in options([]).entrants} >= {
        "textbook-1",
        "quix-1",
        "streams-1",
        "ours-1",
        "ours-2",
    }
    assert [entrant.run for entrant in options(["ours:2", "quix"]).entrants] == ["ours-2", "quix-1"]


@pytest.mark.parametrize("name", ["spark", "ours:", "ours:x", "ours:0", "ours:-1"])
def test_an_engine_that_there_is_not_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options([name])
    assert name.partition(":")[0] in capsys.readouterr().err


def test_a_quarter_as_many_emails_as_events_unless_told() -> None:
    assert options(["--events", "5000"]).emails == 1_250
    assert options(["--events", "5000", "--emails", "10"]).emails == 10
