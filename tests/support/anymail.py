"""Run django-anymail, the most used mapping of webhooks, on the same requests, without a Django project."""

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
"""Anymail's views of the providers that both of us support."""

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["testserver"], SECRET_KEY="not secret", USE_TZ=True)


def parsed(case: Case, headers: Mapping[str, str]) -> list[Any]:
    """Return anymail's events of a case's request. Raise what anymail raises."""
    module, _, name = VIEWS[case.kind].partition(".")
    view = getattr(importlib.import_module(f"anymail.webhooks.{module}"), name)
    form = "application/x-www-form-urlencoded" if case.kind == "mandrill" else "application/json"
    request = RequestFactory().post("/", data=case.body, content_type=form, headers=dict(headers))
    # Not with __init__, which requires keys, and for one view boto3; parsing needs neither.
    return list(view.__new__(view).parse_events(request))


def milliseconds(time: dt.datetime | None) -> int | None:
    """Return a time of anymail in milliseconds since the epoch, as ours are."""
    return None if time is None else round(time.timestamp() * 1000)
