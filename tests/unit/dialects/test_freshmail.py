"""Tests of FreshMail's requests: limits, headers and reported problems."""

import json
import tracemalloc
from typing import Any

import pytest

from pipeline.content.header_names import is_custom_name, is_steering
from pipeline.content.mime import custom_headers
from pipeline.dialects import freshmail, freshmail_render
from pipeline.dialects.freshmail import InvalidFreshMailRequest
from pipeline.dialects.freshmail_render import FreshMailSendCommand
from tests.support.dialects import freshmail as request
from topics.contents import MessageContent


def commands(**changed: Any) -> list[FreshMailSendCommand]:
    recipients = changed.pop("recipients", [{"email": "anna@example.com"}])
    return freshmail_render.render_commands(
        freshmail.parse_request(json.dumps(request(*recipients, **changed)).encode()), None, 0
    )


def errors(**changed: Any) -> Any:
    with pytest.raises(InvalidFreshMailRequest) as invalid:
        commands(**changed)
    return invalid.value.errors


def html(body: str) -> list[dict[str, str]]:
    return [{"type": "text/html", "body": body}]


def amplified(recipients: int) -> dict[str, Any]:
    """Return a small request that renders 3 MB for each of its recipients."""
    listed = [
        {"email": f"r{nth}@example.com", "personalization": {"a": f"{nth:03}" + "x" * 30_000}}
        for nth in range(recipients)
    ]
    return {"recipients": listed, "contents": html("$$a$$" * 100)}


def test_too_large_contents_are_refused_before_the_rest_is_rendered() -> None:
    tracemalloc.start()
    try:
        assert errors(**amplified(100)) == {"Recipients": "Their contents are more than 64000000 bytes together."}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * freshmail_render.CONTENTS_MAX_BYTES


def test_contents_below_the_budget_are_accepted() -> None:
    assert len({id(command.content) for command in commands(**amplified(20))}) == 20


def test_equal_contents_are_kept_once_but_their_rendering_is_limited() -> None:
    many = [{"email": f"r{nth}@example.com"} for nth in range(100)]
    same = html("{% if a is not defined %}" + "x" * 1_000_000 + "{% endif %}")
    assert len({id(command.content) for command in commands(recipients=many, contents=same)}) == 1
    large = html("{% if a is not defined %}" + "x" * 1_900_000 + "{% endif %}{{ a|default('') }}" + "x" * 90_000)
    both = [*large, {"type": "text/plain", "body": large[0]["body"]}]
    assert "rendered" in errors(recipients=many, contents=both)["Recipients"]


def test_contents_without_marks_are_not_rendered_for_each_recipient() -> None:
    many = [{"email": f"r{nth}@example.com"} for nth in range(100)]
    assert len({id(command.content) for command in commands(recipients=many, contents=html("x" * 2_000_000))}) == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"recipients": [' + b"{}," * 200_000 + b"{}]}",
        b'{"recipients": ' + b"[" * 65 + b"]" * 65 + b"}",
        b'{"a":' * 100_000,
    ],
)
def test_request_with_too_many_values_or_levels_is_refused_first(body: bytes) -> None:
    with pytest.raises(InvalidFreshMailRequest) as invalid:
        freshmail.parse_request(body)
    assert "more than" in str(invalid.value.errors)


STEERING = [
    *("X-SES-SOURCE-ARN", "X-SES-CONFIGURATION-SET", "X-SES-MESSAGE-TAGS", "X-MC-Subaccount", "X-MC-BccAddress"),
    *("X-Mailgun-Drop-Message", "X-Mailgun-Variables", "X-PM-Message-Stream", "X-PM-KeepID", "X-SMTPAPI", "x-smtpapi"),
    *("X-MSYS-API", "X-Mailjet-Campaign", "X-MJ-EventPayload", "X-Sib-Sandbox", "X-Mailin-custom", "X-MT-Category"),
    *("X-Postal-Tag", "X-MailerSend-Tags", "X-SG-EID", "X-Google-Original-From", "X-MS-Exchange-Organization-SCL"),
    *("X-Mailfold-Id", "X-Resend-Tag", "X-Brevo-Tag", "X-VirtualMTA"),
]


@pytest.mark.parametrize("name", STEERING)
def test_header_that_instructs_a_provider_is_refused_and_omitted_from_stored_contents(name: str) -> None:
    [(where, error)] = errors(headers={name: "1"}).items()
    assert where == f"Headers[{name}]"
    assert "sending service" in error
    recipient = {"email": "a@example.com", "headers": {name: "1"}}
    assert list(errors(recipients=[recipient])) == [f"Recipients[0].headers[{name}]"]
    assert custom_headers(MessageContent(headers=((name, "1"), ("X-Order", "4711")))) == [("X-Order", "4711")]


@pytest.mark.parametrize(
    "name",
    ["X-Order", "x-custom-header-1", "X-Mailer", "X-PMO", "X-Session", "X-Mcdonald", "X-A_b.c!", "X-1", "X-Mtb-1"],
)
def test_any_other_token_after_x_is_a_custom_header(name: str) -> None:
    assert is_custom_name(name)
    assert not is_steering(name)
    [command] = commands(headers={name: "1"})
    assert command.content.headers == ((name, "1"),)
    assert custom_headers(command.content) == [(name, "1")]


RESERVED = ["From", "To", "Bcc", "Received", "DKIM-Signature", "Return-Path", "Subject", "Reply-To", "Message-ID"]


@pytest.mark.parametrize("name", [*RESERVED, "", "X-", "X", "X- a", "X-a:", "X-a\r\nBcc", "X-ä", "X-" + "a" * 59])
def test_no_other_name_is_a_custom_header(name: str) -> None:
    assert list(errors(headers={name: "1"})) == [f"Headers[{name[:60]}]"]


@pytest.mark.parametrize("value", ["a\r\nBcc: b@example.com", "a\nb", "a\0", "=?utf-8?q?a=0D=0Ab?="])
def test_header_value_must_be_one_line(value: str) -> None:
    assert list(errors(headers={"X-A": value})) == ["Headers[X-A]"]


def test_all_missing_fields_are_reported_together() -> None:
    reported = errors(
        recipients=[{"name": "a"}, {"email": "b@example.com", "headers": {"X-A": 5}}], subject=5, contents=[{}]
    )
    assert reported == {
        "Recipients[0].email": "This field is missing.",
        "Recipients[1].headers[X-A]": "Expected str, got int.",
        "Subject": "Expected str, got int.",
        "Contents[0].type": "This field is missing.",
        "Contents[0].body": "This field is missing.",
    }


def test_other_problems_are_reported_beside_a_missing_field() -> None:
    assert errors(recipients=[{"email": "nobody"}], subject=5, contents=5, templateHash=5, headers={"Bcc": "a"}) == {
        "Subject": "Expected str, got int.",
        "TemplateHash": "Expected str | null, got int.",
        "Contents": "Expected array | null, got int.",
        "Recipients[0].email": "This value is not a valid email address.",
        "Headers[Bcc]": "The name of a custom header is X- and letters, digits or marks; at most 60.",
    }


def test_number_of_reported_problems_is_limited() -> None:
    assert len(errors(recipients=[{} for _ in range(2_000)])) == freshmail.MAX_ERRORS


@pytest.mark.parametrize("reply_to", [{"email": "r@example.com"}, {"email": "r@example.com", "name": "R"}])
def test_reply_to_of_the_official_client_is_accepted(reply_to: Any) -> None:
    post = freshmail.parse_request(json.dumps(request(replyTo=reply_to)).encode())
    assert post.reply_to is not None
    assert post.reply_to.email == "r@example.com"
    assert list(errors(replyTo={"email": "nobody"})) == ["ReplyTo.email"]


def test_integer_of_thousands_of_digits_is_reported_for_its_field() -> None:
    body = json.dumps(request({"email": "PLACE"})).encode().replace(b'"PLACE"', b"9" * 5_000)
    with pytest.raises(InvalidFreshMailRequest) as caught:
        freshmail.parse_request(body)
    assert list(caught.value.errors) == ["Recipients[0].email"]


def test_problem_of_a_repeated_name_is_reported() -> None:
    body = json.dumps(request()).encode().replace(b'{"recipients"', b'{"recipients": 1, "recipients"', 1)
    with pytest.raises(InvalidFreshMailRequest) as caught:
        freshmail.parse_request(body)
    assert list(caught.value.errors) == ["Recipients"]
