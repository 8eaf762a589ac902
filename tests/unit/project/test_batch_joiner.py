"""Which batches share a transaction, and what each caller learns of it."""

import asyncio
from collections.abc import Sequence

import psycopg
import pytest

from pipeline.project.batch_joiner import JOINED_MAX_CHANGES, BatchJoiner
from projections.sink import ChangeBatch
from tests.support.changes import Log, request
from topics.changes import EmailChange


def change(number: int) -> EmailChange:
    return Log().fold(request(number)).changes[0]


def batch(partition: int, *emails: int) -> ChangeBatch:
    return ChangeBatch(partition, 0, len(emails), [change(number) for number in emails])


class Transactions:
    """Takes batches as Postgres would: each transaction whole or not at all, and as slowly as the test wants."""

    def __init__(self, failures: dict[int, Exception] | None = None) -> None:
        self._failures = failures or {}
        self.begun: list[list[int]] = []
        self.gate = asyncio.Event()

    async def write(self, batches: Sequence[ChangeBatch]) -> None:
        partitions = [each.partition for each in batches]
        self.begun.append(partitions)
        await self.gate.wait()
        for partition in partitions:
            if partition in self._failures:
                raise self._failures[partition]


async def write_during_first(
    transactions: Transactions, *batches: ChangeBatch
) -> tuple[BatchJoiner, list["asyncio.Task[None]"]]:
    """Begin to write the first batch, and hand over the others while its transaction is in progress."""
    joiner = BatchJoiner(transactions.write)
    tasks = []
    for each in batches:
        tasks.append(asyncio.create_task(joiner.write(each)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return joiner, tasks


async def test_batches_that_come_during_a_transaction_share_the_next() -> None:
    transactions = Transactions()
    _, tasks = await write_during_first(transactions, *(batch(number, number) for number in range(4)))
    assert transactions.begun == [[0]], "the first one waits for nothing"
    transactions.gate.set()
    await asyncio.gather(*tasks)
    assert transactions.begun == [[0], [1, 2, 3]]


async def test_batches_of_one_partition_or_one_email_do_not_share_a_transaction() -> None:
    transactions = Transactions()
    _, tasks = await write_during_first(transactions, batch(0, 1), batch(1, 2), batch(1, 3), batch(2, 2))
    transactions.gate.set()
    await asyncio.gather(*tasks)
    assert transactions.begun == [[0], [1], [1, 2]]


async def test_transaction_of_several_batches_is_limited() -> None:
    half = JOINED_MAX_CHANGES // 2
    transactions = Transactions()
    batches = [ChangeBatch(number, 0, half, [change(number)] * half) for number in range(5)]
    _, tasks = await write_during_first(transactions, *batches)
    transactions.gate.set()
    await asyncio.gather(*tasks)
    assert transactions.begun == [[0], [1, 2], [3, 4]]


async def test_large_batch_is_written_alone_beside_others() -> None:
    transactions = Transactions()
    large = ChangeBatch(7, 0, JOINED_MAX_CHANGES, [change(9)] * JOINED_MAX_CHANGES)
    _, tasks = await write_during_first(transactions, batch(0, 1), large)
    assert transactions.begun == [[0], [7]]
    transactions.gate.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("error", [psycopg.DataError(), psycopg.errors.LockNotAvailable(), ValueError()])
async def test_batch_that_fails_does_not_keep_others_from_being_written(error: Exception) -> None:
    transactions = Transactions({2: error})
    _, tasks = await write_during_first(transactions, *(batch(number, number) for number in range(4)))
    transactions.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results == [None, None, error, None]
    assert transactions.begun == [[0], [1, 2, 3], [1], [2], [3]]


async def test_outage_is_told_to_all_without_another_attempt() -> None:
    outage = psycopg.OperationalError()
    transactions = Transactions({2: outage})
    _, tasks = await write_during_first(transactions, *(batch(number, number) for number in range(4)))
    transactions.gate.set()
    assert await asyncio.gather(*tasks, return_exceptions=True) == [None, outage, outage, outage]
    assert transactions.begun == [[0], [1, 2, 3]]


async def test_batch_whose_caller_was_cancelled_is_not_written() -> None:
    transactions = Transactions()
    joiner, tasks = await write_during_first(transactions, *(batch(number, number) for number in range(3)))
    tasks[1].cancel()
    transactions.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert transactions.begun == [[0], [2]]
    await joiner.write(batch(5, 5))
    assert transactions.begun[-1] == [5]


async def test_closing_ends_the_transaction_in_progress() -> None:
    transactions = Transactions()
    joiner, tasks = await write_during_first(transactions, batch(0, 1))
    tasks[0].cancel()
    await joiner.close()
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "write joined batches"] == []
