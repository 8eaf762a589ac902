"""Logging: JSON lines with fields outside a terminal, text in one."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from pipeline.runtime.observing.logs import configure_logging, get_logger
from pipeline.settings import Settings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.contextvars.clear_contextvars()


def logged(settings: Settings, stream: io.StringIO, role: str = "") -> Any:
    configure_logging(settings, role, stream)
    return get_logger("mailfold.test")


def only_line(stream: io.StringIO) -> dict[str, Any]:
    [line] = stream.getvalue().splitlines()
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_line_is_json_with_its_fields_outside_a_terminal() -> None:
    stream = io.StringIO()
    logged(Settings(), stream, "project").warning("projection halted", partition=3, offset=17)
    line = only_line(stream)
    assert list(line)[:4] == ["time", "level", "role", "event"]
    assert line["time"].endswith("Z")
    assert {key: line[key] for key in ("level", "role", "event", "partition", "offset", "logger")} == {
        "level": "warning",
        "role": "project",
        "event": "projection halted",
        "partition": 3,
        "offset": 17,
        "logger": "mailfold.test",
    }


def test_library_line_has_the_same_shape() -> None:
    stream = io.StringIO()
    configure_logging(Settings(), "emit", stream)
    logging.getLogger("aiokafka").warning("lost %s of %d", "one", 2, extra={"address": "anna@example.com"})
    line = only_line(stream)
    assert (line["event"], line["level"], line["role"]) == ("lost one of 2", "warning", "emit")
    assert "anna@example.com" not in stream.getvalue()


def test_bound_context_is_in_each_line_and_ends_with_its_block() -> None:
    stream = io.StringIO()
    log = logged(Settings(), stream)
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        log.info("inside")
    log.info("outside")
    inside, outside = map(json.loads, stream.getvalue().splitlines())
    assert inside["request_id"] == "r-1"
    assert "request_id" not in outside


def test_exception_is_one_line_of_json_with_its_traceback() -> None:
    stream = io.StringIO()
    log = logged(Settings(), stream)
    try:
        raise ValueError("bad\nline")
    except ValueError:
        log.exception("failed")
    line = only_line(stream)
    assert line["exception"].startswith("Traceback (most recent call last)")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_exception_shows_no_local_variables(log_format: Any) -> None:
    stream = io.StringIO()
    log = logged(Settings(log_format=log_format), stream)
    address = "anna@example.com"
    try:
        raise ValueError(len(address))
    except ValueError:
        log.exception("failed")
    assert "ValueError: 16" in stream.getvalue()
    assert address not in stream.getvalue()


def test_text_with_half_a_surrogate_pair_is_written() -> None:
    stream = io.StringIO()
    logged(Settings(), stream).error("lane broken", error="550 gesperrt f\udcfcr")
    assert only_line(stream)["error"] == "550 gesperrt f\udcfcr"


def test_value_that_json_does_not_know_is_written_as_text() -> None:
    stream = io.StringIO()
    logged(Settings(), stream).info("state", value=ValueError("why"), more={1: object})
    assert only_line(stream)["value"] == "why"


@pytest.mark.parametrize(
    ("log_format", "stream", "is_json"),
    [("auto", Terminal(), False), ("json", Terminal(), True), ("text", io.StringIO(), False)],
)
def test_format_follows_the_setting_and_else_the_terminal(log_format: Any, stream: io.StringIO, is_json: bool) -> None:
    logged(Settings(log_format=log_format), stream).info("ready", partitions=2)
    assert stream.getvalue().startswith("{") == is_json
    assert "ready" in stream.getvalue()


def test_lines_below_the_level_and_chatter_of_libraries_are_left_out() -> None:
    stream = io.StringIO()
    log = logged(Settings(log_level="INFO"), stream)
    log.debug("detail")
    logging.getLogger("aiokafka.consumer").info("chatter")
    assert stream.getvalue() == ""
