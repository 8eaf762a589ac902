"""What a user of FreshMail's official Python client does, against the gateway that HOST names; one JSON object out."""

import base64
import json
import os
from typing import Any

from freshmail.exceptions import ClientException
from freshmail.messaging.email.attachment import Base64Attachment
from freshmail.messaging.email.mailbag import MailBag
from freshmail.sender.sender import FreshmailSender
from freshmail.transport.api.email import EmailApiTransport


def sender(token: str) -> FreshmailSender:
    transport = EmailApiTransport(bearer_token=token)
    # The client knows one host; nothing else of it is changed.
    executor = transport._EmailApiTransport__request_executor
    executor._RequestExecutor__scheme = "http"
    executor._RequestExecutor__host = os.environ["HOST"]
    return FreshmailSender(transport=transport)


def mail(*recipients: dict[str, Any], **changed: Any) -> MailBag:
    given: dict[str, Any] = {
        "tos": list(recipients),
        "from_": {"name": "Office", "email": "office@example.com"},
        "subject": "Hello $$first_name$$",
        "contents": {"html": "<b>Your code: $$code$$</b>", "text": "Your code: $$code$$"},
        "headers": {"X-Campaign": "spring"},
        "attachments": [Base64Attachment(name="a.txt", content=base64.b64encode(b"file"))],
    }
    return MailBag(**{**given, **changed})


def refused(token: str, message: MailBag) -> object:
    try:
        sender(token).send(message)
    except ClientException as error:
        return error.args[0]
    return None


token = os.environ["TOKEN"]
anna: dict[str, Any] = {"email": "anna@example.com", "personalization": {"first_name": "Anna", "code": "A1"}}
ben: dict[str, Any] = {
    "email": "ben@example.com",
    "personalization": {"first_name": "Ben"},
    "headers": {"X-Campaign": "ben"},
}
sent = sender(token).send(mail(anna, ben))
told = {
    "success": sent.is_success(),
    "data": sent.get_data(),
    "invalid": refused(token, mail(anna, {"email": "nobody"}, subject="")),
    "login": refused("wrong", mail(anna)),
}
print(json.dumps(told))
