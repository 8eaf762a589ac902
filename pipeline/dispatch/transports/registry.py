"""A provider's kind in, the API that carries its mail out."""

from collections.abc import Mapping
from typing import Final

from pipeline.admin import Provider
from pipeline.content.mime import needs_smtputf8
from pipeline.dispatch.transports import mailgun, postmark, resend, sendgrid, ses
from pipeline.dispatch.transports.api_base import BatchApi, ProviderApi
from pipeline.dispatch.transports.base import OutgoingEmail

APIS: Final[Mapping[str, ProviderApi]] = {
    "ses": ses,
    "sendgrid": sendgrid,
    "mailgun": mailgun,
    "postmark": postmark,
    "resend": resend,
}
BATCH_APIS: Final[Mapping[str, BatchApi]] = {"postmark": postmark, "resend": resend}
"""Those that take many independent mails with one request."""


def address_problem(provider: Provider, mail: OutgoingEmail) -> str:
    """Return why a provider's API can't write to an address of this mail; empty: it can."""
    api = APIS[provider.kind]
    request = mail.letter.request
    named = (request.recipient, mail.letter.sender.address, *request.reply_to)
    # An API that takes the message as it is takes the addresses of its To and Cc, too.
    if api.SUPPORTS_SMTPUTF8 or not (mail.envelope.utf8 if api.TAKES_MIME else needs_smtputf8(*named)):
        return ""
    return f"5.6.7 {provider.kind} takes no address whose local part is not ASCII (SMTPUTF8)"


def configuration_problem(provider: Provider) -> str:
    """Why mail can't go to a provider as its row says; empty: it can."""
    if provider.via == "smtp":
        return "" if provider.host else f"provider {provider.provider}: SMTP needs a host"
    api = APIS.get(provider.kind)
    if api is None:
        return f"{provider.kind}: mail goes there by SMTP; by an API to {', '.join(APIS)}"
    if missing := api.missing_settings(provider):
        return f"provider {provider.provider}: {provider.kind} needs {missing}"
    unknown = [name for name, _ in provider.options if name not in api.OPTION_NAMES]
    known = ", ".join(api.OPTION_NAMES) or "none"
    return f"{provider.kind} knows no option {unknown[0]}; it has: {known}" if unknown else ""
