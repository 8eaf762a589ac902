"""Each golden request, posted to a gateway on real Kafka: the answer and the records are what its pair says.

Only what a clock or a log gives is left out. MAILFOLD_GOLDEN=write writes the pairs anew, to be read before they
are committed.
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
CLOCK = ("creation_timestamp", "update_timestamp", "recorded_at", "content")


async def test_every_golden_request_is_answered_and_recorded_as_its_pair_says(settings: Settings) -> None:
    answers: dict[str, Any] = {}
    async with gateway_and_projector(settings) as served:
        headers = {"X-Api-Key": served.key}
        assert (await served.http.put("/templates/welcome", json=WELCOME, headers=headers)).status_code == 200
        for path in sorted(GOLDEN.glob("*.body.json")):
            name = path.name.removesuffix(".body.json")
            answer = await served.http.post(
                "/mail/v1/", content=path.read_bytes(), headers=headers | {"Idempotency-Key": name}
            )
            answers[name] = {"status": answer.status_code, "answer": _timeless(answer.json(), "content")}
    chunks: list[ContentChunk] = [record for *_, record in await records(settings, MESSAGE_CONTENTS)]
    requests = [record for *_, record in await records(settings, SEND_REQUESTS)]
    for name, answered in answers.items():
        mine = sorted((one for one in requests if one.identity == name), key=lambda one: str(one.recipient))
        answered["requests"] = [_timeless(json.loads(msgspec.json.encode(one))) for one in mine]
        answered["contents"] = [
            msgspec.to_builtins(unpack_content([chunk for chunk in chunks if chunk.content_id == pointer], sha256))
            for pointer, sha256 in dict.fromkeys((one.content.content_id, one.content.sha256) for one in mine)
        ]
        golden = GOLDEN / f"{name}.expected.json"
        if os.environ.get("MAILFOLD_GOLDEN") == "write":
            golden.write_text(json.dumps(answered, indent=2, ensure_ascii=False) + "\n")
        assert json.loads(json.dumps(answered)) == json.loads(golden.read_text()), name
    assert len(answers) == len(list(GOLDEN.glob("*.expected.json"))) >= 14


def _timeless(found: Any, *kept: str) -> Any:
    if not isinstance(found, dict):
        return found
    return {name: _timeless(value) for name, value in found.items() if name not in CLOCK or name in kept}
