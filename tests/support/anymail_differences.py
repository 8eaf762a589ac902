"""Where django-anymail and we say something else of the same payload, each with its reason.

A row is what differs, their answer and ours; `same` is ours. Rows of a type name their cases: a mapping is a decision,
and one decision doesn't make another.
"""

from typing import Final, NamedTuple

Difference = tuple[str, str, str]


class Why(NamedTuple):
    """The reason, and where it holds; wherever it shows if no case is named."""

    why: str
    cases: tuple[str, ...] = ()

    def covers(self, case: str) -> bool:
        return not self.cases or case in self.cases


_NO_ID: Final = Why("the event has none; ours is a hash of what makes it this event and no other")
_ONLY_OURS: Final = Why("it is found by what we embedded where they read no metadata: a tag, or our Message-ID")
_NO_SUBSCRIBING: Final = "we have no word for coming back to a list; kept as unknown"
_NOT_FINAL: Final = Why("what was not rejected for good has no reason of a rejection")

_BREVO: Final = {
    ("email", "False", "True"): _ONLY_OURS,
    ("event id", "none", "same"): _NO_ID,
    ("raises", "JSONDecodeError", ""): Why(
        "X-Mailin-custom is the caller's text and need not be JSON", ("by_tag", "of_nobody_we_know")
    ),
    ("time", "another", "same"): Why(
        "`ts_epoch` is seconds in this of Brevo's own examples, milliseconds in the others"
    ),
    ("time", "none", "same"): Why("without `ts_epoch`, as in these of Brevo's own examples, `ts_event` says when"),
    ("type", "subscribed", "unknown"): Why(_NO_SUBSCRIBING, ("list_addition",)),
    ("type", "unknown", "bounced"): Why(
        "Brevo spells the names of its events in two ways",
        ("invalid_as_it_is_enabled", "spelled_hardBounce", "spelled_invalidEmail", "spelled_softBounce"),
    ),
    ("type", "unknown", "opened"): Why(
        "Brevo spells the names of its events in two ways",
        ("spelled_proxyOpen", "spelled_uniqueOpened", "spelled_uniqueProxyOpen"),
    ),
    ("type", "unknown", "queued"): Why("`sent` is what the settings call `request`", ("sent",)),
    ("type", "unknown", "unsubscribed"): Why("Brevo spells it in two ways", ("unsubscribed",)),
}
_MAILERSEND: Final = {
    ("email", "False", "True"): _ONLY_OURS,
    ("raises", "AttributeError", ""): Why("they read version 1 of the webhooks only; these are version 2, and newer"),
    ("raises", "KeyError", ""): Why("events of the account, not of a mail; kept as unknown"),
}
_MAILGUN: Final = {
    ("email", "False", "True"): _ONLY_OURS,
    ("event id", "another", "same"): Why(
        "their id is the signature's token: the domain's and the account's webhook would tell one event as two; ours is"
        " the event's own id, unique within a day, with its time"
    ),
    ("reason", "other", ""): _NOT_FINAL,
    ("reason", "other", "hard"): Why("the code 5.1.1 or `hardfail` says that there is no such address"),
    ("type", "bounced", "rejected"): Why(
        "Mailgun did not send to an address on its suppression list: nobody bounced it",
        ("failed_permanent", "failed_suppressed_after_complaint", "failed_suppressed_after_unsubscribe"),
    ),
}
_MAILJET: Final = {
    ("email", "False", "True"): _ONLY_OURS,
    ("event id", "none", "same"): _NO_ID,
    ("message id", "another", "same"): Why(
        "Message_GUID, what Mailjet's SMTP server answers, stands before the number"
    ),
    ("reason", "other", ""): _NOT_FINAL,
    ("type", "bounced", "failed"): Why(
        "Mailjet could not send it: no server of the recipient's refused it",
        ("bounce_connection_issue", "bounce_protocol_issue", "bounce_system_issue_for_good"),
    ),
    ("type", "rejected", "failed"): Why(
        "it could not be sent as it was written; the address is on nobody's list",
        ("blocked_bad_or_empty_template", "blocked_error_in_template_language", "blocked_system_issue"),
    ),
}
_MAILTRAP: Final = {
    ("event id", "none", "same"): _NO_ID,
    ("raises", "AnymailConfigurationError", ""): Why("inbound mail is kept as unknown", ("inbound_message_received",)),
    ("raises", "KeyError", ""): Why("no event of a mail; kept as unknown", ("audit_log_login", "audit_log_updated")),
    ("reason", "other", ""): _NOT_FINAL,
}
_MANDRILL: Final = {
    ("event id", "none", "same"): _NO_ID,
    ("message id", "none", "same"): Why("it is inside `msg`, too"),
    ("type", "inbound", "unknown"): Why("inbound mail is kept as unknown", ("inbound",)),
    ("type", "unknown", "delivered"): Why("newer than their table", ("delivered",)),
}
_POSTAL: Final = {
    ("email", "False", "True"): _ONLY_OURS,
    ("event id", "none", "same"): _NO_ID,
    ("events", "0", "1"): Why("kept as unknown rather than dropped", ("of_mail_that_came_in",)),
    ("time", "another", "same"): Why("theirs is the webhook's time, cut to whole seconds; ours is the attempt's own"),
    ("type", "failed", "bounced"): Why("the recipient's server refused it", ("failed_for_good", "failed_for_policy")),
    ("type", "queued", "rejected"): Why("held for good: the address is on the suppression list", ("held_suppressed",)),
    ("type", "unknown", "opened"): Why("newer than their table", ("loaded",)),
}
_POSTMARK: Final = {
    ("event id", "none", "same"): _NO_ID,
    ("time", "none", "same"): Why(
        "when it came, where a new type names its time anew", ("new_type_with_a_time_of_its_own",)
    ),
    ("reason", "unsubscribed", ""): Why("the sender's own people put it on the list; nobody unsubscribed"),
    ("type", "complained", "bounced"): Why(
        "“blocked by the user, or classified as spam, bulk mail, or had rejected content” is a filter's word; a"
        " person's complaint is SpamComplaint",
        ("bounce_spam_notification",),
    ),
    ("type", "deferred", "unknown"): Why(
        "a test of the server, says Postmark, about no mail", ("bounce_open_relay_test",)
    ),
    ("type", "inbound_failed", "unknown"): Why("of inbound mail; kept as unknown", ("bounce_inbound_error",)),
    ("type", "rejected", "bounced"): Why(
        "“Blocked from this ISP”: the recipient's provider refused it, Postmark did send it", ("bounce_blocked",)
    ),
    ("type", "subscribed", "unknown"): Why(_NO_SUBSCRIBING, ("bounce_subscribe", "subscription_change_reactivated")),
    ("type", "unsubscribed", "unknown"): Why(
        "the sender's own people put it on the list; nobody unsubscribed", ("subscription_change_by_customer",)
    ),
}
_RESEND: Final = {
    ("email", "False", "True"): _ONLY_OURS,
    ("message id", "another", "same"): Why("the id of inbound mail is none of a mail that we sent"),
    ("message id", "none", "same"): Why("a suppression names the mail that it comes from"),
    ("type", "bounced", "rejected"): Why(
        "Resend's provider did not send to an address on a suppression list",
        ("bounced_on_account_suppression_list", "bounced_suppressed"),
    ),
    ("type", "unknown", "failed"): Why("newer than their table", ("failed",)),
    ("type", "unknown", "queued"): Why("newer than their table", ("scheduled",)),
    ("type", "unknown", "rejected"): Why("newer than their table", ("suppressed",)),
}
_SENDGRID: Final = {
    ("email", "False", "True"): _ONLY_OURS,
    ("event id", "none", "same"): _NO_ID,
    ("message id", "another", "same"): Why("theirs is the Message-ID header; SendGrid's own id is in every event"),
    ("message id", "none", "same"): Why("theirs is the Message-ID header; SendGrid's own id is in every event"),
    ("reason", "other", ""): Why("what could not be sent is no rejection of an address"),
    ("type", "rejected", "failed"): Why(
        "it could not be sent as it was; the address is on nobody's list",
        ("dropped_invalid_smtpapi_header", "dropped_over_quota", "dropped_spam_content"),
    ),
    ("type", "subscribed", "unknown"): Why(_NO_SUBSCRIBING, ("group_resubscribe",)),
}
_SES: Final = {
    ("email", "False", "True"): _ONLY_OURS,
    ("event id", "another", "same"): Why(
        "SNS's id is shared by all recipients of a notification; ours adds which it was"
    ),
    ("reason", "bounced", ""): Why("an automatic answer and a delay are no rejections"),
    ("reason", "spam", ""): Why("a report that says it is no spam is no complaint"),
    ("time", "another", "same"): Why("theirs is when SNS published it; ours, when it happened"),
    ("type", "bounced", "autoresponded"): Why(
        "Transient / General without any diagnostics is what SES makes of an out-of-office answer", ("auto_reply",)
    ),
    ("type", "bounced", "deferred"): Why("its DSN says for this recipient: delayed", ("bounce_of_several",)),
    ("type", "bounced", "rejected"): Why(
        "SES did not send to an address on a suppression list: nobody bounced it",
        ("bounce_on_account_suppression_list", "bounce_suppressed"),
    ),
    ("type", "complained", "rejected"): Why(
        "SES did not send to an address on the account's list: nobody complained of this mail",
        ("complaint_on_account_suppression_list",),
    ),
    ("type", "complained", "unknown"): Why(
        "RFC 5965: no complaints of a recipient's", ("complaint_auth_failure", "complaint_not_spam")
    ),
    ("type", "unknown", "deferred"): Why("newer than their table", ("delivery_delay",)),
    ("type", "unknown", "unsubscribed"): Why("newer than their table", ("subscription", "subscription_one_topic")),
}
_SPARKPOST: Final = {
    ("reason", "other", ""): _NOT_FINAL,
    ("time", "none", "same"): Why("some events bring their time in ISO 8601"),
    ("type", "bounced", "rejected"): Why(
        "“failed by SparkPost's configured policies”", ("bounce_class_25", "bounce_class_26")
    ),
    ("type", "subscribed", "unknown"): Why(_NO_SUBSCRIBING, ("bounce_class_80",)),
    ("type", "unknown", "opened"): Why(
        "theirs counts the first of an open's two pixels only where it is told to", ("amp_initial_open", "initial_open")
    ),
}

DIFFERENCES: Final[dict[str, dict[Difference, Why]]] = {
    "brevo": _BREVO,
    "mailersend": _MAILERSEND,
    "mailgun": _MAILGUN,
    "mailjet": _MAILJET,
    "mailtrap": _MAILTRAP,
    "mandrill": _MANDRILL,
    "postal": _POSTAL,
    "postmark": _POSTMARK,
    "resend": _RESEND,
    "sendgrid": _SENDGRID,
    "ses": _SES,
    "sparkpost": _SPARKPOST,
}
