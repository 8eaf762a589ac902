"""Build messages as Fast Track sends them."""

from typing import Any


def activity(**changed: Any) -> dict[str, Any]:
    """Return an activity of brand 12."""
    fields = {
        "id": "an-id",
        "brand_id": 12,
        "user_id": "987654",
        "internal_user_id": 4711,
        "activity_id": 31337,
        "action_group_id": 205,
        "trigger_hash": "b1946ac9",
        "action_id": 8,
    }
    return {**fields, **changed}


def message(identity: str = "an-id", /, **changed: Any) -> dict[str, Any]:
    """Return a message to anna@example.com."""
    fields = {
        "activity": activity(id=identity),
        "subject": "Welcome",
        "content": "<p>Hello</p>",
        "email": "anna@example.com",
        "sender_name": "Example",
        "sender_address": "news@example.com",
        "replyto_address": "support@example.com",
    }
    return {**fields, **changed}
