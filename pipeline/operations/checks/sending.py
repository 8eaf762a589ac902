"""Check whether a provider accepts our credentials, without sending mail; `mailfold providers check` calls it."""

import asyncio

from pipeline.admin import Provider
from pipeline.dispatch.transports.http_client import ApiSession, NoApiResponse
from pipeline.dispatch.transports.registry import APIS, configuration_problem
from pipeline.dispatch.transports.smtp import probe_server
from pipeline.dispatch.transports.smtp_replies import SmtpStage
from pipeline.operations.checks.finding import Finding, note, right, wrong
from pipeline.runtime.bootstrap import wall_clock
from pipeline.settings import Settings

_TODO = {
    SmtpStage.CONNECT: "are host and port right, and does a firewall let us out?",
    SmtpStage.SECURE: "does --tls fit the port (465: implicit, 587: required), and the certificate the host's name?",
    SmtpStage.LOGIN: "give user and password again: `mailfold providers add`",
}


async def check(row: Provider, settings: Settings) -> list[Finding]:
    """Log in by SMTP, or make the API's cheapest request that needs the key; return the findings."""
    if missing := configuration_problem(row):
        return [wrong(missing, "say it with `mailfold providers add`")]
    return await (_check_api if row.via == "api" else _check_smtp)(row, settings)


async def _check_smtp(row: Provider, settings: Settings) -> list[Finding]:
    server = f"{row.host}:{row.port}"
    probe = await probe_server(row, settings.mail_domain, settings.smtp_timeout)
    if probe.refusal is not None:
        reply = f"{probe.refusal.code} {probe.refusal.text}" if probe.refusal.code else probe.refusal.text
        stage = SmtpStage(probe.refusal.stage)
        return [wrong(f"{server} does not let us in, at {stage.value}: {reply}", _TODO[stage])]
    how = "over TLS" if probe.secured else "in the clear"
    who = f"as {row.username}" if row.username else "without a password"
    findings = [right(f"{server} greets us {how} and takes mail {who}")]
    if not probe.secured and row.tls != "off":
        findings.append(note("what is sent there can be read on the way", "ask for --tls required, if the server can"))
    if row.kind == "smtp" and "dsn" not in probe.extensions:
        findings.append(note("it offers no DSN (RFC 3461): a delivery is not reported, a bounce may be"))
    return findings


async def _check_api(row: Provider, settings: Settings) -> list[Finding]:
    api = APIS[row.kind]
    session = ApiSession(row, settings.smtp_timeout)
    try:
        problem = api.credential_problem(await session.request(api.check_request(row, wall_clock())))
    except NoApiResponse as error:
        return [wrong(f"{row.kind} does not answer: {error}", "is --api-url right, does a firewall let us out?")]
    finally:
        await session.close()
        await asyncio.sleep(0)
    if problem:
        return [wrong(f"the API of {row.kind} refuses us: {problem}", "give the key again: `mailfold providers add`")]
    return [right(f"the API of {row.kind} takes our credential")]
