"""Each golden request, posted to a gateway on real Kafka: the answer and the records are what its pair says.

Only what a clock or a log gives is left out. MAILFOLD_GOLDEN=write writes the pairs anew, to be read before they
are committed. Each case has a tenant of its own, so that no case's ids meet another's.
"""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline import admin
from pipeline.content.chunks import unpack_content
from pipeline.settings import Settings
from tests.support.dialects import BRAND, SURFACES, Surface
from tests.support.gateway import Gateway, gateway
from tests.support.seeing import records
from tests.support.templates import put
from topics.contents import ContentChunk
from topics.registry import MESSAGE_CONTENTS, SEND_REQUESTS
from topics.requests import SendRequest
from topics.templates import TemplateSyntax

GOLDEN = Path(__file__).parents[1] / "golden"
MINE = [surface for surface in SURFACES if surface.name != "extrahorizon"]
TIMELESS = ("recorded_at", "content")


@pytest.mark.parametrize("surface", MINE, ids=lambda surface: surface.name)
async def test_golden_requests_have_their_expected_responses_and_records(settings: Settings, surface: Surface) -> None:
    paths = sorted((GOLDEN / surface.name).glob("*.body.json"))
    async with gateway(settings) as served:
        answers = {path: await _ask(served, surface, _tenant(path), path.read_bytes()) for path in paths}
    requests: list[SendRequest] = [record for *_, record in await records(settings, SEND_REQUESTS)]
    chunks: list[ContentChunk] = [record for *_, record in await records(settings, MESSAGE_CONTENTS)]
    for path, answered in answers.items():
        mine = sorted((one for one in requests if one.tenant == _tenant(path)), key=lambda one: one.recipient)
        answered["requests"] = [_timeless(one) for one in mine]
        answered["contents"] = _contents(mine, chunks)
        golden = path.with_name(path.name.replace(".body.", ".expected."))
        if os.environ.get("MAILFOLD_GOLDEN") == "write":
            golden.write_text(json.dumps(answered, indent=2, ensure_ascii=False) + "\n")
        assert json.loads(json.dumps(answered)) == json.loads(golden.read_text()), path.name
    assert len(paths) >= 7


async def _ask(served: Gateway, surface: Surface, tenant: str, body: bytes) -> dict[str, Any]:
    await admin.add_tenant(served.rt.pool, admin.Tenant(tenant))
    for kind in ("token", "group", "tokenAndGroup"):
        words = "{% if NumPhotos == -1 %}unlimited{% else %}{{ NumPhotos }}{% endif %}" if kind != "group" else "group"
        await put(
            served.rt, f"{BRAND}.{kind}", tenant=tenant, subject=f"Your {kind}", html=f"<p>{words} for {{{{ To }}}}</p>"
        )
    await put(served.rt, "welcome", tenant=tenant, syntax=TemplateSyntax.FRESHMAIL, subject="-", html="<p>$$name$$</p>")
    headers = {"X-Api-Key": await admin.add_key(served.rt.pool, tenant), "Idempotency-Key": "golden"}
    answer = await served.http.post(surface.path, content=body, headers=headers)
    return {"status": answer.status_code, "answer": answer.json()}


def _tenant(path: Path) -> str:
    return path.name.partition(".")[0].replace("_", "-")


def _timeless(request: SendRequest) -> dict[str, Any]:
    fields = json.loads(msgspec.json.encode(request))
    return {name: value for name, value in fields.items() if name not in TIMELESS}


def _contents(requests: list[SendRequest], chunks: list[ContentChunk]) -> list[Any]:
    pointers = dict.fromkeys((one.content.content_id, one.content.sha256) for one in requests if one.content)
    return [
        msgspec.to_builtins(unpack_content([chunk for chunk in chunks if chunk.content_id == content_id], sha256))
        for content_id, sha256 in pointers
    ]
