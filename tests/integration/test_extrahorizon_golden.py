"""Post each golden request to a gateway on real Kafka, and compare its response and records with the expected file.

Fields that the clock or the log determines are left out. MAILFOLD_GOLDEN=write writes the expected files again; read
them before you commit them.
"""

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from pipeline.content.chunks import unpack_content
from pipeline.settings import Settings
from tests.support.projecting import gateway_and_projector
from tests.support.seeing import records
from topics.contents import ContentChunk
from topics.registry import MESSAGE_CONTENTS, SEND_REQUESTS

GOLDEN = Path(__file__).parents[1] / "golden" / "extrahorizon"
WELCOME = {"texts": {"en": {"subject": "Hi", "html": "<p>{{ first_name|default('you') }}</p>"}}}
UNCOMPARED_FIELDS = ("creation_timestamp", "update_timestamp", "recorded_at", "content")


async def test_golden_requests_have_their_expected_responses_and_records(settings: Settings) -> None:
    answers: dict[str, Any] = {}
    async with gateway_and_projector(settings) as served:
        headers = {"X-Api-Key": served.key}
        assert (await served.http.put("/templates/welcome", json=WELCOME, headers=headers)).status_code == 200
        for path in sorted(GOLDEN.glob("*.body.json")):
            name = path.name.removesuffix(".body.json")
            answer = await served.http.post(
                "/mail/v1/", content=path.read_bytes(), headers=headers | {"Idempotency-Key": name}
            )
            answers[name] = {"status": answer.status_code, "answer": _compared_fields(answer.json(), "content")}
    chunks: list[ContentChunk] = [record for *_, record in await records(settings, MESSAGE_CONTENTS)]
    requests = [record for *_, record in await records(settings, SEND_REQUESTS)]
    for name, actual in answers.items():
        of_case = sorted(
            (request for request in requests if request.identity == name), key=lambda request: str(request.recipient)
        )
        actual["requests"] = [_compared_fields(json.loads(msgspec.json.encode(request))) for request in of_case]
        actual["contents"] = [
            msgspec.to_builtins(unpack_content([chunk for chunk in chunks if chunk.content_id == pointer], sha256))
            for pointer, sha256 in dict.fromkeys(
                (request.content.content_id, request.content.sha256) for request in of_case
            )
        ]
        expected = GOLDEN / f"{name}.expected.json"
        if os.environ.get("MAILFOLD_GOLDEN") == "write":
            expected.write_text(json.dumps(actual, indent=2, ensure_ascii=False) + "\n")
        assert json.loads(json.dumps(actual)) == json.loads(expected.read_text()), name
    assert len(answers) == len(list(GOLDEN.glob("*.expected.json"))) >= 14


def _compared_fields(value: Any, *kept: str) -> Any:
    """Return a JSON value without its uncompared fields, on every level; those in `kept` stay on the first."""
    if not isinstance(value, dict):
        return value
    return {
        name: _compared_fields(field) for name, field in value.items() if name not in UNCOMPARED_FIELDS or name in kept
    }
