"""Names of headers that a caller may add to a message, and those that would steer whoever carries it. Pure.

Sending services take orders from headers: which account pays, who else gets a copy, whether the message is sent at
all. They are Mailfold's to give; a caller who gives them acts in another tenant's name.
"""

import re
from typing import Final

NAME_MAX_CHARS: Final = 60
# RFC 9110 §5.6.2: narrower than RFC 5322's field names, so that every service and server takes it.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_STEERING: Final = re.compile(
    r"x-("
    r"smtpapi|sendgrid|sg|twilio"  # SendGrid
    r"|ses|amz|amzn|aws"  # Amazon SES
    r"|mailgun|pm|postmark|msys|sparkpost|resend|postal"
    r"|mailjet|mj"  # Mailjet
    r"|sib|sendinblue|brevo|mailin"  # Brevo
    r"|mc|mandrill|mailchimp"  # Mandrill
    r"|mt|mailtrap|mailersend"
    r"|elasticemail|smtp2go|socketlabs|xsmailingid|xsmessageid"
    r"|virtual-?mta"  # PowerMTA
    r"|ms-exchange|forefront|microsoft-antispam|google|gmail|gm"  # what mailbox providers write themselves
    r"|mailfold"
    r")(?![a-z0-9])",
    re.IGNORECASE,
)


def is_custom_name(name: str) -> bool:
    """Return whether a name is `X-` and any token after it (RFC 9110)."""
    return name[:2].lower() == "x-" and _TOKEN.fullmatch(name, 2) is not None


def is_steering(name: str) -> bool:
    """Return whether a header of this name is an order to a sending service, or not a caller's to write."""
    return _STEERING.match(name) is not None
