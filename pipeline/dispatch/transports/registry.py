"""The APIs by kind of provider, and checks of whether a provider can be used as it is configured."""

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
"""APIs that take many independent emails in one request."""


def address_problem(provider: Provider, mail: OutgoingEmail) -> str:
    """Return why the API of a provider cannot write to an address of this email; an empty string if it can."""
    api = APIS[provider.kind]
    request = mail.message.request
    addresses = (request.recipient, mail.message.sender.address, *request.reply_to)
    # A MIME message also contains the addresses of To and Cc; the envelope says whether any of them needs SMTPUTF8.
    if api.SUPPORTS_SMTPUTF8 or not (mail.envelope.utf8 if api.TAKES_MIME else needs_smtputf8(*addresses)):
        return ""
    return f"5.6.7 {provider.kind} takes no address whose local part is not ASCII (SMTPUTF8)"


def configuration_problem(provider: Provider) -> str:
    """Return why mail cannot be sent to a provider as its row is configured; an empty string if it can."""
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
