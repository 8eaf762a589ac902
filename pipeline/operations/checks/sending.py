"""A provider's row in; whether it takes our credentials out. Nothing is sent."""

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
    """Log in, or make the cheapest request that needs the key."""
    if missing := configuration_problem(row):
        return [wrong(missing, "say it with `mailfold providers add`")]
    return await (_by_api if row.via == "api" else _by_smtp)(row, settings)


async def _by_smtp(row: Provider, settings: Settings) -> list[Finding]:
    where = f"{row.host}:{row.port}"
    greeted = await probe_server(row, settings.mail_domain, settings.smtp_timeout)
    if greeted.refusal is not None:
        said = f"{greeted.refusal.code} {greeted.refusal.text}" if greeted.refusal.code else greeted.refusal.text
        stage = SmtpStage(greeted.refusal.stage)
        return [wrong(f"{where} does not let us in, at {stage.value}: {said}", _TODO[stage])]
    how = "over TLS" if greeted.secured else "in the clear"
    who = f"as {row.username}" if row.username else "without a password"
    found = [right(f"{where} greets us {how} and takes mail {who}")]
    if not greeted.secured and row.tls != "off":
        found.append(note("what is sent there can be read on the way", "ask for --tls required, if the server can"))
    if row.kind == "smtp" and "dsn" not in greeted.extensions:
        found.append(note("it offers no DSN (RFC 3461): a delivery is not reported, a bounce may be"))
    return found


async def _by_api(row: Provider, settings: Settings) -> list[Finding]:
    api = APIS[row.kind]
    line = ApiSession(row, settings.smtp_timeout)
    try:
        problem = api.credential_problem(await line.request(api.check_request(row, wall_clock())))
    except NoApiResponse as error:
        return [wrong(f"{row.kind} does not answer: {error}", "is --api-url right, does a firewall let us out?")]
    finally:
        await line.close()
        await asyncio.sleep(0)
    if problem:
        return [wrong(f"the API of {row.kind} refuses us: {problem}", "give the key again: `mailfold providers add`")]
    return [right(f"the API of {row.kind} takes our credential")]
