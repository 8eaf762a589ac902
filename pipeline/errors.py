"""Errors that packages raise for each other to handle.

MailfoldError
├── RoleStopped                 SIGTERM or SIGINT came before something was done
├── RecoverableError            trying again later may help, and nothing is lost
│   ├── LogUnavailable          Kafka did not confirm in time
│   │   ├── ClientRefused          Kafka answers, but does not let this client in
│   │   └── ActionNotRecorded      an operator's change was not recorded, and therefore not made
│   ├── DatabaseUnavailable
│   ├── DatabaseReplaced        another Postgres server answers than before; it may lag behind
│   ├── LookupCancelled         a batch of lookups was cancelled and has no result
│   ├── LeaseLost               another worker may hold the job now
│   ├── PartitionNotAssigned    the partition was assigned to another worker
│   ├── OffsetLost              a fetched record never reached its agent
│   └── Fenced                  another worker took over; nothing that we write is read any more
└── PermanentError              trying again does not help
    ├── InvalidSettings
    ├── TopicMismatch
    ├── SchemaMismatch          the database is not migrated, or belongs to a newer version
    ├── LogTooShort             the log ends before what was read from it
    ├── NotFound
    ├── Refused                 the caller's input is wrong; says what and where
    │   └── MissingLocalization    a template uses a text that does not exist
    ├── InvalidSignatureError   a signature or token is not valid or too old
    │   └── AuthenticationFailed   user and password are missing or wrong
    ├── Unrecognised            the bytes cannot be parsed; they become a dead letter
    │   └── Unproven            mail without a signature of ours; it is stored, but has no effect
    ├── Uncorrelated            an event that names no email of ours; it becomes a dead letter
    └── TooManyDeadLetters      most records become dead letters, so that something upstream must be wrong

The docstring of each class is its default message.
"""


class MailfoldError(Exception):
    """Something went wrong in Mailfold."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class RoleStopped(MailfoldError):
    """The role was told to stop."""


class RecoverableError(MailfoldError):
    """The operation failed; it may succeed later."""


class PartitionNotAssigned(RecoverableError):
    """The partition belongs to another worker now."""


class OffsetLost(RecoverableError):
    """A fetched record never reached its agent; a restart fetches it again."""


class Fenced(RecoverableError):
    """Another worker has taken over this partition; what this worker still writes to it has no effect."""


class PermanentError(MailfoldError):
    """The operation failed; trying again does not help."""


class LogUnavailable(RecoverableError):
    """Kafka did not confirm in time. The record may or may not have been written; repeat the request."""


class ClientRefused(LogUnavailable):
    """Kafka does not let this client in: a login, a certificate or a right is wrong."""


class ActionNotRecorded(LogUnavailable):
    """The change was not made, because the log did not confirm its record."""


class DatabaseUnavailable(RecoverableError):
    """Postgres does not answer."""


class DatabaseReplaced(RecoverableError):
    """Another Postgres server answers than before, or it was started again; it may lack what was written last."""


class LookupCancelled(RecoverableError):
    """A batch of lookups was cancelled before it had a result."""


class LeaseLost(RecoverableError):
    """The lease ran out and another worker may hold the job."""


class InvalidSettings(PermanentError):
    """A setting is missing or wrong."""


class TopicMismatch(PermanentError):
    """A topic on the cluster is not as the registry says."""


class SchemaMismatch(PermanentError):
    """The schema of the database is not as this version needs it."""


class LogTooShort(PermanentError):
    """The log ends before what was read from it: another cluster, one restored to an older moment, or a new topic."""


class NotFound(PermanentError):
    """There is no such thing."""


class Refused(PermanentError):
    """The input is wrong."""

    def __init__(self, message: str = "", where: str = "") -> None:
        super().__init__(message)
        self.where = where
        """The path of the wrong value in the input, such as ``[3].activity.id``."""


class MissingLocalization(Refused):
    """There is no such localization."""


class InvalidSignatureError(PermanentError):
    """The signature or token is not valid, or too old."""


class AuthenticationFailed(InvalidSignatureError):
    """A user name and a password are required (RFC 7617)."""


class Unrecognised(PermanentError):
    """The bytes cannot be parsed."""


class Unproven(Unrecognised):
    """The mail carries no signature of ours, so that anybody could have written it."""


class Uncorrelated(PermanentError):
    """The event names no email of ours."""


class TooManyDeadLetters(PermanentError):
    """Most records cannot be parsed; something upstream is wrong."""
