"""Files of emails and timelines: safe cells, the same bytes each time."""

import csv
import gzip
import io
import json

import msgspec
import pytest

from pipeline.dialects.api_v1 import email_view, timeline_entry_view
from pipeline.exports import rows
from pipeline.exports.request import ExportFormat, ExportKind
from projections.email_listing import EmailPosition, EmailRow
from projections.timeline import TimelineFact
from tests.support.changes import T0, Log, acked, event, request
from topics.events import EventKind


def row(**changed: object) -> EmailRow:
    sent = msgspec.structs.replace(request(1, T0), **changed)
    state = Log().fold(sent, acked(1, T0 + 5), event(1, EventKind.OPENED, T0 + 9)).changes[-1].state
    return EmailRow(EmailPosition(T0, sent.email_id), state, 3, T0 + 11)


def cells(text: str) -> dict[str, str]:
    (line,) = csv.DictReader(io.StringIO(rows.header(ExportKind.EMAILS, ExportFormat.CSV) + text, newline=""))
    return line


@pytest.mark.parametrize("subject", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_no_cell_is_a_formula(subject: str) -> None:
    view = email_view(row(subject=subject), masks_addresses=False)
    assert cells(rows.email_rows([view], ExportFormat.CSV))["subject"] == "'" + subject


def test_csv_has_times_counts_and_activity() -> None:
    line = cells(rows.email_rows([email_view(row(), masks_addresses=False)], ExportFormat.CSV))
    assert (line["status"], line["opened_count"], line["delivered_count"]) == ("opened", "1", "0")
    assert line["accepted_at"] == "2023-11-14T22:13:20.000Z"
    assert line["user_id"] == "123456789012345678901234567890"
    assert json.loads(line["activity"])["id"] == "activity-1"


def test_every_row_has_all_columns() -> None:
    view = email_view(row(), masks_addresses=True)
    entry = timeline_entry_view(TimelineFact(acked(1, T0), ["provider-acks/0/1"]), masks_addresses=True)
    for kind, text in (
        (ExportKind.EMAILS, rows.email_rows([view], ExportFormat.CSV)),
        (ExportKind.TIMELINE, rows.timeline_rows([(view.email_id, [entry])], ExportFormat.CSV)),
    ):
        header, line = csv.reader(io.StringIO(rows.header(kind, ExportFormat.CSV) + text, newline=""))
        assert len(header) == len(line) == len(set(header))


def test_ndjson_is_the_json_of_the_api() -> None:
    view = email_view(row(), masks_addresses=True)
    text = rows.email_rows([view, view], ExportFormat.NDJSON)
    assert text == 2 * (msgspec.json.encode(view).decode() + "\n")
    entry = timeline_entry_view(TimelineFact(acked(1, T0), ["provider-acks/0/1"]), masks_addresses=True)
    (line,) = rows.timeline_rows([(view.email_id, [entry])], ExportFormat.NDJSON).splitlines()
    assert json.loads(line)["kind"] == "acked"
    assert rows.header(ExportKind.EMAILS, ExportFormat.NDJSON) == ""


def test_members_are_one_file_without_a_time() -> None:
    members = [rows.gzip_member(text) for text in ("a\n", "b\n")]
    assert gzip.decompress(b"".join(members)) == b"a\nb\n"
    assert members[0][4:8] == bytes(4), "the time of RFC 1952"
