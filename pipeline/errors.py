"""Every error we raise across a room's border.

MailfoldError
├── Recoverable            try again later, nothing is lost
│   ├── LogUnavailable     Kafka didn't confirm in time
│   ├── DatabaseUnavailable
│   ├── LeaseLost          another worker holds the job now
│   ├── NotOurs            the partition went to another worker
│   ├── Vanished           a fetched record never reached its agent
│   └── Fenced             another worker was let in; nothing of ours is written any more
└── Permanent              trying again changes nothing
    ├── BadSettings
    ├── TopicMismatch
    ├── NotFound
    ├── Refused            the caller's input is wrong; carries what and where
    │   └── MissingLocalization  a template names a text that nobody has pushed
    ├── Forged             a signature or token that isn't ours or is stale
    │   └── NotLoggedIn    no user and password, or not the ones that are asked for
    ├── Unrecognised       bytes that can't be understood; they go to the dead letters
    │   └── Unproven       mail that bears no signature of ours: kept, and counts for nothing
    ├── Uncorrelated       an event that names no email of ours; to the dead letters, too
    └── TooManyDead        most records go to the dead letters: something upstream is wrong

Each class's docstring is its default message.
"""


class MailfoldError(Exception):
    """Something went wrong in Mailfold."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class RecoverableError(MailfoldError):
    """Not now; it may work later."""


class PartitionNotAssigned(RecoverableError):
    """The partition belongs to another worker now."""


class OffsetLost(RecoverableError):
    """A fetched record never reached its agent; a restart fetches it again."""


class Fenced(RecoverableError):
    """Another worker holds this partition now: nothing that we still write to it is ever read."""


class PermanentError(MailfoldError):
    """Trying again changes nothing."""


class LogUnavailable(RecoverableError):
    """The log did not confirm in time: it may or may not have been written, so repeat it."""


class DatabaseUnavailable(RecoverableError):
    """Postgres does not answer."""


class LeaseLost(RecoverableError):
    """The lease ran out and another worker may hold the job."""


class InvalidSettings(PermanentError):
    """A setting is missing or wrong."""


class TopicMismatch(PermanentError):
    """A topic on the cluster is not as the registry says."""


class NotFound(PermanentError):
    """There is no such thing."""


class Refused(PermanentError):
    """The input is wrong."""

    def __init__(self, message: str = "", where: str = "") -> None:
        super().__init__(message)
        self.where = where
        """A path into the input, such as ``[3].activity.id``."""


class MissingLocalization(Refused):
    """There is no such localization."""


class InvalidSignatureError(PermanentError):
    """The signature or token is not ours, or stale."""


class AuthenticationFailed(InvalidSignatureError):
    """A user and a password are asked for (RFC 7617)."""


class Unrecognised(PermanentError):
    """These bytes can't be understood."""


class Unproven(Unrecognised):
    """It bears no signature of ours; anybody could have written it."""


class Uncorrelated(PermanentError):
    """The event names no email of ours."""


class TooManyDeadLetters(PermanentError):
    """Most records can't be understood: something upstream is wrong."""
