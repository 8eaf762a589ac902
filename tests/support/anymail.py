"""What django-anymail, the field's most used mapping, makes of the same requests; without a project around it."""

import datetime as dt
import importlib
from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings
from django.test import RequestFactory

from tests.support.golden import Case

VIEWS: Final = {
    "brevo": "brevo.BrevoTrackingWebhookView",
    "mailersend": "mailersend.MailerSendTrackingWebhookView",
    "mailgun": "mailgun.MailgunTrackingWebhookView",
    "mailjet": "mailjet.MailjetTrackingWebhookView",
    "mailtrap": "mailtrap.MailtrapTrackingWebhookView",
    "mandrill": "mandrill.MandrillCombinedWebhookView",
    "postal": "postal.PostalTrackingWebhookView",
    "postmark": "postmark.PostmarkTrackingWebhookView",
    "resend": "resend.ResendTrackingWebhookView",
    "sendgrid": "sendgrid.SendGridTrackingWebhookView",
    "ses": "amazon_ses.AmazonSESTrackingWebhookView",
    "sparkpost": "sparkpost.SparkPostTrackingWebhookView",
}
"""Its views of the providers that both of us know."""

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["testserver"], SECRET_KEY="not secret", USE_TZ=True)


def parsed(case: Case, headers: Mapping[str, str]) -> list[Any]:
    """Its events of a case's request. Raises whatever it raises."""
    module, _, name = VIEWS[case.kind].partition(".")
    view = getattr(importlib.import_module(f"anymail.webhooks.{module}"), name)
    form = "application/x-www-form-urlencoded" if case.kind == "mandrill" else "application/json"
    request = RequestFactory().post("/", data=case.body, content_type=form, headers=dict(headers))
    # Without __init__, which wants keys, and boto3 for one of them: parsing needs neither.
    return list(view.__new__(view).parse_events(request))


def milliseconds(time: dt.datetime | None) -> int | None:
    """Its times as ours."""
    return None if time is None else round(time.timestamp() * 1000)
