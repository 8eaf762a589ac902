"""`operator-actions`: what operators decided, by commands or by API; appended before the change takes effect."""

import msgspec

from topics.record import EmailId, Millis, Record


class OperatorAction(Record, tag="operator-action/1", frozen=True, kw_only=True):
    """A change by an operator: who made it, what it was and why. It contains no secret and no address."""

    action_id: str
    """A UUIDv7; the record of a change that was not made has the id of the one that announced it."""
    recorded_at: Millis
    actor: str
    """Its maker: ``cli`` with the user and the host, or ``api`` with the key's name in `mailfold keys list`."""
    what: str
    """The command or route, such as ``keys.revoke``."""
    target: str
    """The name of the thing that was changed, or an address's hash."""
    tenant: str = ""
    email_id: EmailId = EmailId("")
    """The email that it touched; empty where it touched none or many."""
    reason: str = ""
    """Why, in the operator's words."""
    before: msgspec.Raw = msgspec.Raw(b"null")
    """The stored values before, as JSON; null where there was nothing or it is not known."""
    after: msgspec.Raw = msgspec.Raw(b"null")
    """The wanted values, as JSON."""
    failure: str = ""
    """The class of the error by which the change was not made after all; empty on the record that announces it."""
