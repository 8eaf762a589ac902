"""Post each golden request to a gateway on real Kafka, and compare its response and records with the expected file.

Fields that the clock or the log determines are left out. MAILFOLD_GOLDEN=write writes the expected files again; read
them before you commit them. Each case has its own tenant, so that its ids differ from those of other cases.
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
DIALECTS = [surface for surface in SURFACES if surface.name != "extrahorizon"]
UNCOMPARED_FIELDS = ("recorded_at", "content")


@pytest.mark.parametrize("surface", DIALECTS, ids=lambda surface: surface.name)
async def test_golden_requests_have_their_expected_responses_and_records(settings: Settings, surface: Surface) -> None:
    paths = sorted((GOLDEN / surface.name).glob("*.body.json"))
    async with gateway(settings) as served:
        answers = {path: await _post(served, surface, _tenant(path), path.read_bytes()) for path in paths}
    requests: list[SendRequest] = [record for *_, record in await records(settings, SEND_REQUESTS)]
    chunks: list[ContentChunk] = [record for *_, record in await records(settings, MESSAGE_CONTENTS)]
    for path, actual in answers.items():
        of_case = sorted(
            (request for request in requests if request.tenant == _tenant(path)), key=lambda request: request.recipient
        )
        actual["requests"] = [_compared_fields(request) for request in of_case]
        actual["contents"] = _contents(of_case, chunks)
        expected = path.with_name(path.name.replace(".body.", ".expected."))
        if os.environ.get("MAILFOLD_GOLDEN") == "write":
            expected.write_text(json.dumps(actual, indent=2, ensure_ascii=False) + "\n")
        assert json.loads(json.dumps(actual)) == json.loads(expected.read_text()), path.name
    assert len(paths) >= 7


async def _post(served: Gateway, surface: Surface, tenant: str, body: bytes) -> dict[str, Any]:
    """Post a request as a new tenant that has the templates it needs; return its status and response."""
    await admin.add_tenant(served.rt.pool, admin.Tenant(tenant))
    for kind in ("token", "group", "tokenAndGroup"):
        text = "{% if NumPhotos == -1 %}unlimited{% else %}{{ NumPhotos }}{% endif %}" if kind != "group" else "group"
        await put(
            served.rt, f"{BRAND}.{kind}", tenant=tenant, subject=f"Your {kind}", html=f"<p>{text} for {{{{ To }}}}</p>"
        )
    await put(served.rt, "welcome", tenant=tenant, syntax=TemplateSyntax.FRESHMAIL, subject="-", html="<p>$$name$$</p>")
    headers = {"X-Api-Key": await admin.add_key(served.rt.pool, tenant), "Idempotency-Key": "golden"}
    answer = await served.http.post(surface.path, content=body, headers=headers)
    return {"status": answer.status_code, "answer": answer.json()}


def _tenant(path: Path) -> str:
    return path.name.partition(".")[0].replace("_", "-")


def _compared_fields(request: SendRequest) -> dict[str, Any]:
    fields = json.loads(msgspec.json.encode(request))
    return {name: value for name, value in fields.items() if name not in UNCOMPARED_FIELDS}


def _contents(requests: list[SendRequest], chunks: list[ContentChunk]) -> list[Any]:
    pointers = dict.fromkeys(
        (request.content.content_id, request.content.sha256) for request in requests if request.content
    )
    return [
        msgspec.to_builtins(unpack_content([chunk for chunk in chunks if chunk.content_id == content_id], sha256))
        for content_id, sha256 in pointers
    ]
