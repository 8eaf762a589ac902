"""The projector's Prometheus metrics, beside those that every role has.

The projector sees every change with its facts and their times, so that it alone measures how long an email takes from
one stage to the next, whichever processes had it in hand.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from pipeline.runtime.observing.role_metrics import DELAY_BUCKETS_S, ReaderMetrics, RoleMetrics
from topics.acks import Acked
from topics.changes import EmailChange, Fact
from topics.conversions import ConversionOutcome, ConversionResult
from topics.events import DeliveryEvent, EventKind
from topics.readings import mark_name
from topics.record import Millis
from topics.states import EmailState, Mark

FINAL_KINDS: Final = frozenset({EventKind.DELIVERED, EventKind.BOUNCED, EventKind.DROPPED, EventKind.FAILED})
"""Events that follow a send without a person's doing."""


class ProjectMetrics(RoleMetrics):
    """One projector's metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.readers = ReaderMetrics(self)
        self.project_seconds = self.transaction_seconds("project")
        self.rebalances = self.counter("rebalances", "How often partitions were assigned to this process.")
        self.partitions = self.gauge("partitions", "Partitions that this process has now.")
        self.halted = self.gauge(
            "projection_halted", "1 while a partition is not projected because of what is on the log.", "partition"
        )
        self.halted_topics = self.gauge(
            "compacted_topic_halted",
            "1 while `templates` or `suppressions` is not projected because of what is on it.",
            "topic",
        )
        self.projected_through = self.gauge(
            "projected_through_timestamp_seconds", "Time up to which every partition is projected; 0 if none is."
        )
        self._add_audit_metrics()
        self._stages = self.histogram(
            "stage_seconds",
            "Time of an email from one stage to the next, by the stage that it reached: sent (since accepted), event "
            "(delivered, bounced, dropped or failed; since sent), conversion (since the event), projected (since the "
            "change was recorded).",
            "stage",
            buckets=DELAY_BUCKETS_S,
        )

    def _add_audit_metrics(self) -> None:
        self._audited = self.gauge(
            "audit_emails",
            "Emails accepted in the last day, by what became of them as the last audit found: accepted (all of them), "
            "settled (sent, or refused for good), in_flight, dead, dropped. Of the projector that has partition 0.",
            "fate",
        )
        self._unaccounted = self.gauge(
            "audit_unaccounted_emails", "Accepted emails that are none of settled, in flight, dead and dropped: lost."
        )
        self._shown_unaccounted = 0
        self._audited_at = self.gauge("audit_finished_timestamp_seconds", "Time of the last audit's end; 0 if none.")

    def raise_unaccounted(self, emails: int) -> None:
        """Show so many unaccounted emails, unless more are shown already."""
        self._unaccounted.set(max(emails, self._shown_unaccounted))

    def show_audit(self, fates: Mapping[str, int], unaccounted: int, now: Millis) -> None:
        """Show the result of a finished audit."""
        self._audited.labels("accepted").set(sum(fates.values()) + unaccounted)
        for fate, emails in fates.items():
            self._audited.labels(fate).set(emails)
        self._shown_unaccounted = unaccounted
        self._unaccounted.set(unaccounted)
        self._audited_at.set(now / 1000)

    def clear_audit(self) -> None:
        """Show no audit: another projector audits."""
        self._audited.clear()
        self._shown_unaccounted = 0
        self._unaccounted.set(0)
        self._audited_at.set(0)

    def observe_change(self, change: EmailChange, now: Millis) -> None:
        """Observe the stages that a projected change shows."""
        self._stages.labels("projected").observe(max(0, now - change.recorded_at) / 1000)
        for applied in change.facts:
            for stage, milliseconds in stage_durations(change.state, applied.fact):
                self._stages.labels(stage).observe(max(0, milliseconds) / 1000)


def stage_durations(state: EmailState, fact: Fact) -> Iterator[tuple[str, Millis]]:
    """Yield the stage that an email reached with this fact and the milliseconds since the one before.

    A repeat, or a fact whose stage before is not known, shows nothing.
    """
    if isinstance(fact, Acked):
        if _is_first(state.sent, fact.recorded_at) and state.accepted is not None:
            yield "sent", fact.recorded_at - state.accepted.recorded
    elif isinstance(fact, DeliveryEvent):
        mark = getattr(state, fact.kind.value, None) if fact.kind in FINAL_KINDS else None
        if _is_first(mark, fact.recorded_at) and state.sent is not None:
            yield "event", fact.recorded_at - state.sent.recorded
    elif isinstance(fact, ConversionResult) and fact.outcome is ConversionOutcome.DELIVERED:
        event = getattr(state, mark_name(fact.word))
        if event is not None:
            yield "conversion", fact.recorded_at - event.recorded


def _is_first(mark: Mark | None, recorded_at: Millis) -> bool:
    return mark is not None and mark.recorded == recorded_at
