"""The page about retention names every topic with the registry's retention, and settings that exist.

A test on a real Postgres compares its tables (`tests/integration/test_retention.py`).
"""

import re

from pipeline.runtime.environment import environment_variable
from pipeline.settings import Settings
from tests.architecture.repository import section, table, text
from topics.registry import TOPICS

PAGE = "docs/reference/retention.md"
BOUNDING_SETTINGS = {
    *("quiet_days", "parked_days", "provider_id_days", "idempotency_days", "dead_job_days", "soft_bounce_days"),
    *("sandbox_keep", "webhook_max_age", "dispatch_schedule"),
}


def test_page_names_every_topic_with_its_retention_and_what_breaks() -> None:
    rows = [(name, kept, loss) for name, kept, loss in table(section(text(PAGE), "Topics"))]
    assert rows == [
        (topic.name, topic.retention_text, topic.loss.replace("`", "") or "nothing is deleted") for topic in TOPICS
    ]


def test_page_names_every_setting_that_bounds_something_and_no_other() -> None:
    named = set(re.findall(r"`(MAILFOLD_\w+)`", text(PAGE)))
    assert named <= {environment_variable(field) for field in Settings.model_fields}
    assert {environment_variable(field) for field in BOUNDING_SETTINGS} <= named
