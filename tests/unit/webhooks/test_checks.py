"""What a webhook key must look like, and the mark by which a gateway of ours is known."""

import pytest

from pipeline.gateway.webhook_record import kept_headers
from pipeline.operations.checks.webhook_keys import webhook_key_problem
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.webhooks import self_check
from pipeline.webhooks.providers.registry import ADAPTERS
from tests.conftest import RING
from tests.support.posting import KINDS, key

NOW = 1_750_000_000_000
BY = self_check.signer(RING)


@pytest.mark.parametrize("kind", KINDS)
def test_valid_key_is_accepted(kind: str) -> None:
    assert webhook_key_problem(kind, key(kind).entered) == ""


def test_topics_of_all_amazon_partitions_are_accepted() -> None:
    for cloud in ("aws", "aws-cn", "aws-us-gov"):
        assert webhook_key_problem("ses", f"arn:{cloud}:sns:eu-west-1:123456789012:mail") == ""


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("sendgrid", "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE"),
        ("sendgrid", key("postal").entered),
        ("postal", key("sendgrid").entered),
        ("postal", "-----BEGIN PUBLIC KEY-----"),
        ("ses", "arn:aws:sqs:eu-west-1:123456789012:mail"),
        ("ses", "arn:aws:sns:eu-west-1:123456789012:mail "),
        ("resend", "whsec_"),
        ("resend", "re_123"),
        ("postmark", "user:"),
        ("postmark", "a-token"),
        ("mailjet", "a-token"),
        ("brevo", ":password"),
        *((kind, " ") for kind in ADAPTERS),
    ],
)
def test_unusable_key_is_refused(kind: str, wrong: str) -> None:
    assert webhook_key_problem(kind, wrong)


def test_check_header_is_valid_for_a_minute_and_for_one_provider() -> None:
    mark = self_check.request_header(BY, "mine", NOW)
    assert self_check.is_check_request(BY, "mine", mark, NOW + 59_000)
    assert not self_check.is_check_request(BY, "mine", mark, NOW + 61_000)
    assert not self_check.is_check_request(BY, "another", mark, NOW)
    assert not self_check.is_check_request(self_check.signer(SecretRing.of("another secret")), "mine", mark, NOW)
    for forged in ("", ".", f"{NOW}.", f"{NOW}.zz", f"-1.{mark[14:]}", "²." + mark[14:], mark + "0", "1" * 5_000):
        assert not self_check.is_check_request(BY, "mine", forged, NOW)


def test_response_header_depends_on_the_secret() -> None:
    mark = self_check.request_header(BY, "mine", NOW)
    assert self_check.response_header(BY, mark) != mark.partition(".")[2]
    assert self_check.response_header(BY, mark) != self_check.response_header(
        self_check.signer(SecretRing.of("another")), mark
    )


def test_kept_headers_contain_no_credential_and_no_address() -> None:
    kept_names = ["content-type", "svix-id", "webhook-id", "x-postal-signature-kid", "x-amz-sns-topic-arn", "signature"]
    gone = [
        "authorization",
        "cookie",
        "x-api-key",
        "x-auth-token",
        "x-forwarded-for",
        "x-real-ip",
        "host",
        "user-agent",
    ]
    gone += ["proxy-authorization", "x-webhook-secret", "mailfold-part", "set-cookie", "x-csrf-token", "forwarded"]
    assert [name for name, _ in kept_headers([(name, "v") for name in kept_names + gone])] == kept_names
    assert sum(len(name) + len(value) for name, value in kept_headers([("x-long", "v" * 900)] * 50)) <= 16_000
