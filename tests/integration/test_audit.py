"""The audit balances what was accepted, and tells of a row that is gone."""

import pytest

from pipeline.project import audit
from pipeline.project.audit import EmailAuditor
from pipeline.project.metrics import ProjectMetrics
from pipeline.settings import Settings
from tests.support.fasttrack import activity, message
from tests.support.logs import captured_log_lines
from tests.support.seeing import rows, until
from tests.support.whole import Whole, whole


class Books:
    """The audit of a running Mailfold, made when a test asks for it."""

    def __init__(self, world: Whole) -> None:
        self.metrics = ProjectMetrics()
        self._auditor = EmailAuditor(world.served.rt, self.metrics, lambda: True)

    async def numbers(self) -> dict[str, float]:
        await self._auditor.audit()
        [fates] = [metric for metric in self.metrics.registry.collect() if metric.name == "mailfold_audit_emails"]
        numbers = {sample.labels["fate"]: sample.value for sample in fates.samples}
        lost = self.metrics.registry.get_sample_value("mailfold_audit_unaccounted_emails")
        assert lost is not None
        return {fate: number for fate, number in numbers.items() if number} | ({"lost": lost} if lost else {})

    async def are(self, **numbers: int) -> None:
        async def balanced() -> bool:
            return await self.numbers() == numbers

        await until(balanced)


async def send(world: Whole, brand: int, *names: str) -> None:
    messages = [
        message(name, activity=activity(id=name, brand_id=brand), email=f"{name}@example.com") for name in names
    ]
    assert (await world.served.post(messages)).status_code == 200


async def test_accepted_emails_balance_until_a_row_is_deleted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "SETTLING_MS", 0)
    monkeypatch.setattr(audit, "SLICE_EMAILS", 2)
    monkeypatch.setattr(audit, "SLICE_PAUSE_S", 0)
    async with whole(settings) as world:
        rt = world.served.rt
        books = Books(world)
        await rows(
            rt, "insert into jobs.lanes (queue, lane, paused_at) values ('dispatch', 'acme/99', now()) returning 1"
        )
        await send(world, 12, "anna", "bert", "carl")
        await send(world, 99, "dora")
        await books.are(accepted=4, settled=3, in_flight=1)

        await rows(rt, "delete from jobs.jobs where queue = 'dispatch' and lane = 'acme/99' returning 1")
        await books.are(accepted=4, settled=3, lost=1)

        deleted = "delete from projections.history where recipient = 'anna@example.com' returning email_id::text"
        [(email_id,)] = await rows(rt, deleted)
        await send(world, 12, *(f"another{number}" for number in range(8)))  # the fold comes past the ack, everywhere
        await books.are(accepted=12, settled=10, lost=2)

        with captured_log_lines() as logged:
            await books.numbers()
            lines = logged()
        [line] = [each for each in lines if each["event"] == "accepted emails unaccounted for"]
        assert (line["emails"], email_id in line["email_ids"]) == (2, True)

        # The caller repeats the request of the one that was not sent.
        await send(world, 99, "dora")
        await books.are(accepted=12, settled=10, in_flight=1, lost=1)
