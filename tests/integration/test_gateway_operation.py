"""Test the gateway's health, metrics, OpenAPI document, start and shutdown."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
import jsonschema
import pytest

from pipeline.dialects import fasttrack
from pipeline.errors import InvalidSettings
from pipeline.gateway.main import run
from pipeline.gateway.openapi import common
from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.fair_threads import CURRENT_CALLER
from pipeline.runtime.kafka.clients import create_admin, start_client
from pipeline.settings import Settings
from tests.support.fasttrack import message
from tests.support.gateway import Gateway, gateway
from tests.support.logs import captured_log_lines
from tests.support.seeing import until
from topics.registry import SEND_REQUESTS


async def test_health_and_readiness_are_ok(settings: Settings) -> None:
    async with gateway(settings) as served:
        assert (await served.http.get("/healthz")).json() == {"status": "ok"}
        answer = await served.http.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "problems": {}})


async def test_metrics_count_requests_messages_and_appends(settings: Settings) -> None:
    async with gateway(settings) as served:
        await served.post([message("one"), 5])
        await served.http.get("/nowhere")
        assert await served.metric('mailfold_http_requests_total{status="200",surface="batch"}') == 1
        assert await served.metric('mailfold_http_requests_total{status="404",surface="other"}') == 1
        assert await served.metric('mailfold_messages_total{outcome="successful"}') == 1
        assert await served.metric('mailfold_messages_total{outcome="failed"}') == 1
        assert await served.metric('mailfold_appends_total{result="confirmed",topic="send-requests"}') == 1
        assert await served.metric("mailfold_postgres_up") == 1
        assert await served.metric("mailfold_parked") == 0
        assert await served.metric("mailfold_oldest_parked_seconds") == 0


async def test_parsing_runs_in_the_tenants_fair_threads(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []
    parse_batch = fasttrack.parse_batch

    def observed(body: bytes) -> Any:
        calls.append((CURRENT_CALLER.get(), threading.current_thread().name[:8]))
        return parse_batch(body)

    monkeypatch.setattr(fasttrack, "parse_batch", observed)
    async with gateway(settings) as served:
        assert (await served.post([message("one")])).status_code == 200
    assert calls == [("acme", "fair_0")]


async def test_failed_request_is_logged_with_its_id_and_tenant(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_body: bytes) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(fasttrack, "parse_batch", fail)
    async with gateway(settings) as served:
        with captured_log_lines() as lines:
            answer = await served.post([message("one")], X_Request_Id="from-the-proxy")
            other = await served.http.get("/healthz")
        [line] = [line for line in lines() if "RuntimeError: broken" in line.get("exception", "")]
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "from-the-proxy")
    assert (line["request_id"], line["tenant"]) == ("from-the-proxy", "acme")
    assert other.headers["x-request-id"] != "from-the-proxy"


async def test_metrics_show_event_loop_lag(settings: Settings) -> None:
    async with gateway(settings) as served:
        lag_count = "mailfold_event_loop_lag_seconds_count"
        before = await served.metric(lag_count)
        time.sleep(0.5)  # noqa: ASYNC251  blocks the event loop, which the test shares with the gateway

        async def is_measured_again() -> bool:
            return await served.metric(lag_count) > before

        await until(is_measured_again)
        assert await served.metric("mailfold_event_loop_stalls_total") >= 1
        assert await served.metric("mailfold_event_loop_lag_seconds_sum") > 0.3


async def test_metrics_count_unknown_events_of_the_last_day(settings: Settings) -> None:
    async with gateway(settings) as served:
        async with served.rt.pool.connection() as connection:
            await connection.execute(
                "insert into projections.timeline (email_id, event_id, kind, occurred_at, recorded_at, places, fact) "
                "select gen_random_uuid(), id, kind, 0, extract(epoch from now() - age) * 1000, '{}', '' from (values "
                "('sendgrid:1', 'unknown', interval '0'), ('sendgrid:2', 'unknown', '23 hours'), "
                "('sendgrid:3', 'unknown', '25 hours'), ('brevo:1', 'unknown', '0'), ('brevo:2', 'opened', '0')"
                ") as events (id, kind, age)"
            )
        assert await served.metric('mailfold_unknown_events{kind="sendgrid"}') == 2
        assert await served.metric('mailfold_unknown_events{kind="brevo"}') == 1


async def test_metrics_show_pending_dead_and_paused_jobs(settings: Settings) -> None:
    async with gateway(settings) as served:
        async with served.rt.pool.connection() as connection:
            await connection.execute(
                "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload, created_at) values "
                "('emit', gen_random_uuid(), 1, 'open', 'acme/12', 'pending', '', now() - interval '1 hour'), "
                "('emit', gen_random_uuid(), 1, 'open', 'acme/12', 'dead', '', now() - interval '1 day'), "
                "('dispatch', gen_random_uuid(), 0, 'send', 'acme/12', 'unknown', '', now())"
            )
            await connection.execute(
                "insert into jobs.lanes (queue, lane, paused_at) values ('emit', 'acme/12', now())"
            )
        assert await served.metric('mailfold_jobs{queue="emit",state="pending"}') == 1
        assert await served.metric('mailfold_jobs{queue="emit",state="dead"}') == 1
        assert await served.metric('mailfold_jobs{queue="dispatch",state="unknown"}') == 1
        assert 3_600 <= await served.metric('mailfold_oldest_job_seconds{queue="emit"}') < 7_200
        assert await served.metric('mailfold_lane_paused{lane="acme/12",queue="emit"}') == 1


async def test_metrics_show_jobs_by_class_of_tenant_and_name_no_tenant(settings: Settings) -> None:
    async with gateway(settings) as served:
        async with served.rt.pool.connection() as connection:
            await connection.execute(
                "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload) "
                "select 'dispatch', gen_random_uuid(), 0, 'send', lane, state, '' from (values "
                "('whale/1', 'pending', 600), ('whale/2', 'dead', 400), ('minnow/1', 'pending', 999), "
                "('', 'held', 2000), ('whale/1', 'done', 5000)) as jobs (lane, state, number), "
                "generate_series(1, number)"
            )
            await connection.execute(
                "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload) "
                "select 'emit', gen_random_uuid(), 1, 'open', 'whale/1', 'pending', ''"
            )
        shown = (await served.http.get("/metrics")).text.splitlines()
        assert sorted(line for line in shown if line.startswith("mailfold_tenant_jobs{")) == [
            'mailfold_tenant_jobs{queue="dispatch",state="dead",tenant_class="large"} 400.0',
            'mailfold_tenant_jobs{queue="dispatch",state="held",tenant_class="none"} 2000.0',
            'mailfold_tenant_jobs{queue="dispatch",state="pending",tenant_class="large"} 600.0',
            'mailfold_tenant_jobs{queue="dispatch",state="pending",tenant_class="small"} 999.0',
            'mailfold_tenant_jobs{queue="emit",state="pending",tenant_class="small"} 1.0',
        ]
        assert await served.metric('mailfold_jobs{queue="dispatch",state="pending"}') == 1599


async def test_metrics_need_the_key_or_a_local_connection(settings: Settings) -> None:
    async with gateway(settings) as served:
        proxied = await served.http.get("/metrics", headers={"X-Forwarded-For": "192.0.2.1"})
        assert proxied.status_code == 403
    async with gateway(settings, metrics_key=settings.secret) as served:
        assert (await served.http.get("/metrics")).status_code == 401
        assert (await served.http.get("/metrics", headers={"Authorization": "Bearer wrong"})).status_code == 401
        bearer = {"Authorization": f"Bearer {settings.secret.get_secret_value()}"}
        assert (await served.http.get("/metrics", headers=bearer)).status_code == 200


async def test_every_response_has_security_headers_and_no_server_name(settings: Settings) -> None:
    async with gateway(settings) as served:
        for path in ("/healthz", "/nowhere", "/docs", "/o/x.gif", "/c/x"):
            headers = (await served.http.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert "server" not in headers


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/channels/email/batch", 405)]
)
async def test_framework_errors_have_our_json_shape(settings: Settings, method: str, path: str, status: int) -> None:
    async with gateway(settings) as served:
        answer = await served.http.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()) - {"code"} == {"error", "where"}


async def test_openapi_describes_real_requests_and_responses(settings: Settings) -> None:
    async with gateway(settings) as served:
        document = (await served.http.get("/openapi.json")).json()
        operation = document["paths"]["/channels/email/batch"]["post"]
        request = operation["requestBody"]["content"]["application/json"]
        validate(document, request["schema"], request["example"])
        response = operation["responses"]["200"]["content"]["application/json"]
        validate(document, response["schema"], response["example"])
        real = await served.post(request["example"])
        assert len(real.json()["successful"]) == 1
        validate(document, response["schema"], real.json())
        problem = await served.post(b"{")
        schema = operation["responses"]["400"]["content"]["application/json"]["schema"]
        validate(document, schema, problem.json())


def validate(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


async def test_docs_page_shows_each_path_and_example_without_script(settings: Settings) -> None:
    async with gateway(settings) as served:
        page = (await served.http.get("/docs")).text
        for path in (await served.http.get("/openapi.json")).json()["paths"]:
            assert f"<code>{path}</code>" in page
        assert common.MESSAGE_EXAMPLE["activity"]["id"] in page
        assert "<script" not in page


async def test_used_port_is_a_clear_error(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with open_runtime(settings.model_copy(update={"port": port})) as rt:
            with pytest.raises(InvalidSettings, match=f"MAILFOLD_PORT: 127.0.0.1:{port}"):
                await run(rt)


async def test_stopped_producer_is_replaced(settings: Settings) -> None:
    async with gateway(settings, append_timeout=0.5) as served:
        assert (await served.post([message("before")])).status_code == 200
        stopped = served.rt.log._producers.current
        stopped._sender.sender_task.cancel()
        assert (await served.post([message("meanwhile")])).status_code == 503
        await until(lambda: served.rt.log._producers.current is not stopped)
        assert (await served.post([message("after")])).status_code == 200
        await until(lambda: _is_ready(served))


async def _is_ready(served: Gateway) -> bool:
    return (await served.http.get("/readyz")).status_code == 200


async def test_readiness_tells_that_a_topic_is_missing(settings: Settings) -> None:
    await _delete_topic(settings, SEND_REQUESTS.name)
    async with gateway(settings) as served:
        assert (await served.http.get("/readyz")).json()["problems"].keys() == {"kafka"}


async def _delete_topic(settings: Settings, name: str) -> None:
    admin = create_admin(settings)
    await start_client(admin, settings)
    try:
        await admin.delete_topics([settings.topic(name)])
    finally:
        await admin.close()


async def test_process_serves_and_ends_cleanly_on_sigterm(settings: Settings) -> None:
    environment = {
        "KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "MAILFOLD_SECRET": settings.secret.get_secret_value(),
        "MAILFOLD_TOPIC_PREFIX": settings.topic_prefix,
        "MAILFOLD_DATA_DIR": str(settings.data_dir),
        "MAILFOLD_PORT": "0",
        "PATH": "",
    }
    role = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pipeline", "gateway"), env=environment, stderr=subprocess.PIPE
    )
    try:
        port_file = settings.data_dir / "gateway.port"
        await until(lambda: port_file.exists() and port_file.read_text().endswith("\n"))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_file.read_text().strip()}") as http:
            assert (await http.get("/healthz")).status_code == 200
            _, idle = await asyncio.open_connection("127.0.0.1", int(port_file.read_text()))
            role.terminate()
            async with asyncio.timeout(10):
                assert await role.wait() == 0
            idle.close()
    finally:
        if role.returncode is None:
            role.kill()
    assert role.stderr is not None
    logged = (await role.stderr.read()).decode()
    assert '"event":"gateway listens","url":"http://127.0.0.1:' in logged
    assert "Traceback" not in logged
