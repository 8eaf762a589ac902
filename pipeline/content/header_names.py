"""Check names of headers that a caller adds to a message. Pure; the dialects and the MIME writer call it.

Sending services read instructions from headers: which account pays, who else gets a copy, whether the message is sent
at all. Only Mailfold may give them: the account is shared, so a caller's instruction could act for another tenant.
"""

import re
from typing import Final

NAME_MAX_CHARS: Final = 60
# RFC 9110 §5.6.2: narrower than RFC 5322's field names, so that every service and server accepts it.
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
    r"|ms-exchange|forefront|microsoft-antispam|google|gmail|gm"  # written by mailbox providers
    r"|mailfold"
    r")(?![a-z0-9])",
    re.IGNORECASE,
)


def is_custom_name(name: str) -> bool:
    """Return whether a name is `X-` and any token after it (RFC 9110)."""
    return name[:2].lower() == "x-" and _TOKEN.fullmatch(name, 2) is not None


def is_steering(name: str) -> bool:
    """Return whether a header of this name instructs a sending service, or is written by servers or Mailfold only."""
    return _STEERING.match(name) is not None
