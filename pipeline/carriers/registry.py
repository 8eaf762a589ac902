"""A provider's kind in, the API that carries its mail out."""

from collections.abc import Mapping
from typing import Final

from pipeline.admin import Provider
from pipeline.carriers import mailgun, postmark, resend, sendgrid, ses
from pipeline.carriers.calls import Api, Many

APIS: Final[Mapping[str, Api]] = {
    "ses": ses,
    "sendgrid": sendgrid,
    "mailgun": mailgun,
    "postmark": postmark,
    "resend": resend,
}
MANY: Final[Mapping[str, Many]] = {"postmark": postmark, "resend": resend}
"""Those that take many independent mails with one request."""


def lacking(provider: Provider) -> str:
    """Why mail can't go to a provider as its row says; empty: it can."""
    if provider.via == "smtp":
        return "" if provider.host else f"provider {provider.provider}: SMTP needs a host"
    api = APIS.get(provider.kind)
    if api is None:
        return f"{provider.kind}: mail goes there by SMTP; by an API to {', '.join(APIS)}"
    if missing := api.missing(provider):
        return f"provider {provider.provider}: {provider.kind} needs {missing}"
    unknown = [name for name, _ in provider.options if name not in api.OPTIONS]
    known = ", ".join(api.OPTIONS) or "none"
    return f"{provider.kind} knows no option {unknown[0]}; it has: {known}" if unknown else ""
