"""Let the sandbox receive mail for months, and see that its memory stops growing."""

import gc
import tracemalloc

from pipeline.devstack.sandbox.mailbox import SandboxMailbox, SandboxMessage

KEPT = 40
DAYS = 30
MESSAGES = 40
"""Messages of a simulated day; each is opened and clicked."""
RAW = b"From: Shop <news@shop.example>\r\nSubject: An offer\r\n\r\n" + b"x" * 2000
MAX_GROWTH = 1.1


def pass_day(mailbox: SandboxMailbox) -> None:
    for _ in range(MESSAGES):
        number = mailbox.next_number()
        message = SandboxMessage(
            number, f"q{number}", number, "a@b.example", ("c@d.example",), False, RAW + b"%d" % number
        )
        mailbox.add(message)
        for event in ("delivered", "open", "click"):
            message.record(number, f"{event} posted", event)
        assert message.subject() == "An offer"


def test_memory_of_the_sandbox_reaches_a_plateau() -> None:
    mailbox = SandboxMailbox(KEPT)
    measured = []
    tracemalloc.start()
    try:
        for _ in range(DAYS):
            pass_day(mailbox)
            gc.collect()
            measured.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert mailbox.count == KEPT
    assert mailbox.received == DAYS * MESSAGES
    settled = measured[DAYS // 10 :]
    print(f"{settled[0]:,} bytes after {DAYS // 10} days, {settled[-1]:,} after {DAYS}")
    assert max(settled) <= settled[0] * MAX_GROWTH
