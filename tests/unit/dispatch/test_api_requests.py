"""Requests of the provider APIs, compared with those of the vendors' own libraries, and the outcome of each reply."""

import base64
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sendgrid.helpers.mail import Mail as TheirMail

from pipeline.admin import Provider
from pipeline.content import mime
from pipeline.dispatch.transports import mailgun, postmark, resend, sendgrid, ses
from pipeline.dispatch.transports.api_base import ApiRequest, ApiResponse, retry_after_seconds
from pipeline.dispatch.transports.base import SendOutcome
from pipeline.dispatch.transports.correlation_headers import correlation_headers
from pipeline.dispatch.transports.registry import APIS, BATCH_APIS, configuration_problem
from pipeline.dispatch.transports.sigv4 import AwsCredential, signed_request
from pipeline.errors import Refused
from pipeline.webhooks.base import EMAIL_TAG_KEY
from pipeline.webhooks.fields import embedded_echo
from tests.support.api_servers import KEY, KEY_ID, form, signature_is_botocores
from tests.support.letters import FULL, NOW, TAG, mail
from topics.contents import Attachment, MessageContent
from topics.record import EmailId
from topics.requests import Mailbox

ID = EmailId("0191d5a0-0000-7000-8000-000000000001")
ROWS = {
    "ses": Provider("p", kind="ses", via="api", username=KEY_ID, password=KEY, region="eu-west-1"),
    "sendgrid": Provider("p", kind="sendgrid", via="api", password=KEY),
    "mailgun": Provider("p", kind="mailgun", via="api", username="mail.example", password=KEY),
    "postmark": Provider("p", kind="postmark", via="api", password=KEY),
    "resend": Provider("p", kind="resend", via="api", password=KEY),
}


def reply(status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> ApiResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ApiResponse(status, {name.lower(): value for name, value in (headers or {}).items()}, raw)


# --------------------------------------------------------------------------- requests
def test_sendgrid_library_makes_same_request() -> None:
    email = mail(content=FULL, recipient_name="Anna", reply_to=("a@shop.example", "b@shop.example"))
    ours = json.loads(sendgrid.message_request(ROWS["sendgrid"], email, NOW).body)
    theirs = TheirMail(
        from_email=("news@shop.example", "Shop, the"),
        to_emails=("anna@example.com", "Anna"),
        subject="Grüße, Anna",
        plain_text_content="Grüße",
        html_content="<p>Grüße</p>",
        amp_html_content=FULL.amp,
    )
    theirs.reply_to_list = _reply_to("a@shop.example", "b@shop.example")
    theirs.attachment = _attachment(FULL.attachments[0])
    their_json = theirs.get()
    for name in ("from", "subject", "content", "attachments", "reply_to_list"):
        assert ours[name] == their_json[name], name
    assert ours["personalizations"][0]["to"] == their_json["personalizations"][0]["to"]


def _reply_to(*addresses: str) -> list[Any]:
    from sendgrid.helpers.mail import ReplyTo

    return [ReplyTo(address) for address in addresses]


def _attachment(attachment: Attachment) -> Any:
    from sendgrid.helpers.mail import Attachment as Theirs

    content = base64.b64encode(attachment.data).decode()
    return Theirs(
        file_content=content, file_name=attachment.filename, file_type=attachment.media_type, disposition="attachment"
    )


@pytest.mark.parametrize("kind", ["sendgrid", "postmark", "resend"])
def test_our_headers_are_added_and_caller_headers_are_kept(kind: str) -> None:
    email = mail(content=FULL)
    request_json = json.loads(APIS[kind].message_request(ROWS[kind], email, NOW).body)
    headers = request_json.get("headers") or {header["Name"]: header["Value"] for header in request_json["Headers"]}
    assert headers["Message-ID"] == email.message.message_id
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert headers["X-Campaign"] == "spring"
    assert headers["X-Note"] == "=?utf-8?b?R3LDvMOfZQ==?="
    assert not {name.lower() for name in headers} & {"subject", "from", "to", "content-type"}


@pytest.mark.parametrize("kind", list(APIS))
def test_control_characters_cannot_inject_header_or_address(kind: str) -> None:
    evil = MessageContent(text="x", headers=(("X-A", "1\r\nBcc: evil@example.com"), ("X-B\r\nBcc", "evil@example.com")))
    email = mail(content=evil, subject="1\r\nBcc: evil@example.com", recipient_name='a"\r\n, <evil@example.com> "')
    request = APIS[kind].message_request(ROWS[kind], email, NOW)
    texts = _strings(request)
    assert not any("\r" in text or "\n" in text for text in texts)


def _strings(request: ApiRequest) -> list[str]:
    """Every value of a JSON request but the bodies; of a form, its fields but the message."""
    if not request.body.startswith(b"{"):
        return [
            value.decode()
            for name, value in form(request.headers["Content-Type"], request.body).items()
            if name != "message"
        ]
    return list(_walk(json.loads(request.body)))


def _walk(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _walk(item)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("kind", ["ses", "mailgun"])
def test_mime_message_is_sent_byte_for_byte(kind: str) -> None:
    email = mail(content=FULL)
    request = APIS[kind].message_request(ROWS[kind], email, NOW)
    if kind == "ses":
        sent = base64.b64decode(json.loads(request.body)["Content"]["Raw"]["Data"])
    else:
        boundary = request.headers["Content-Type"].partition("boundary=")[2].encode()
        sent = request.body.partition(b"message/rfc822\r\n\r\n")[2].removesuffix(b"\r\n--" + boundary + b"--\r\n")
    assert sent == mime.encode_message(email.message)


def test_message_that_api_cannot_carry_is_refused_without_request() -> None:
    huge = MessageContent(text="x", attachments=(Attachment(filename="a", media_type="a/b", data=b"x" * 45_000_000),))
    for kind, api in APIS.items():
        with pytest.raises(Refused, match="takes"):
            api.message_request(ROWS[kind], mail(content=huge), NOW)
    for kind in ("sendgrid", "postmark", "resend"):
        with pytest.raises(Refused, match="no body"):
            APIS[kind].message_request(ROWS[kind], mail(content=MessageContent()), NOW)
    with pytest.raises(Refused, match="subject"):
        sendgrid.message_request(ROWS["sendgrid"], mail(subject=" "), NOW)


def test_sendgrid_names_with_commas_are_quoted_and_domains_are_ascii() -> None:
    email = mail("anna@bücher.example", recipient_name="Öst; Åsa")
    email = dataclasses.replace(
        email, message=dataclasses.replace(email.message, sender=Mailbox(address="a@b.example"))
    )
    request_json = json.loads(sendgrid.message_request(ROWS["sendgrid"], email, NOW).body)
    assert request_json["personalizations"][0]["to"] == [{"email": "anna@xn--bcher-kva.example", "name": '"Öst; Åsa"'}]
    assert request_json["from"] == {"email": "a@b.example"}
    request_json = json.loads(resend.message_request(ROWS["resend"], mail(recipient_name='Å "Q" \\'), NOW).body)
    assert request_json["to"] == ['"Å \\"Q\\" \\\\" <anna@example.com>']


def test_regions_and_options_appear_in_request() -> None:
    eu = dataclasses.replace(ROWS["mailgun"], region="eu")
    assert mailgun.message_request(eu, mail(), NOW).url == "https://api.eu.mailgun.net/v3/mail.example/messages.mime"
    eu = dataclasses.replace(ROWS["sendgrid"], region="eu", options=(("ip_pool", "news"),))
    request = sendgrid.message_request(eu, mail(), NOW)
    assert (request.url, json.loads(request.body)["ip_pool_name"]) == (
        "https://api.eu.sendgrid.com/v3/mail/send",
        "news",
    )
    china = dataclasses.replace(ROWS["ses"], region="cn-north-1", options=(("configuration_set", "mailfold"),))
    request = ses.message_request(china, mail(), NOW)
    assert request.url == "https://email.cn-north-1.amazonaws.com.cn/v2/email/outbound-emails"
    assert json.loads(request.body)["ConfigurationSetName"] == "mailfold"
    stream = dataclasses.replace(ROWS["postmark"], options=(("message_stream", "broadcast"),))
    assert json.loads(postmark.message_request(stream, mail(), NOW).body)["MessageStream"] == "broadcast"


def test_configuration_problem_names_missing_setting() -> None:
    assert {kind: configuration_problem(row) for kind, row in ROWS.items()} == dict.fromkeys(ROWS, "")
    assert "a region, an access key id" in configuration_problem(Provider("p", kind="ses", via="api", password=KEY))
    assert "by SMTP" in configuration_problem(Provider("p", kind="brevo", via="api", password=KEY))
    assert "us or eu" in configuration_problem(dataclasses.replace(ROWS["mailgun"], region="mars"))
    assert "configuration_set" in configuration_problem(dataclasses.replace(ROWS["ses"], options=(("set", "x"),)))
    assert "host" in configuration_problem(Provider("p"))


@pytest.mark.parametrize("kind", list(APIS))
def test_repr_of_request_hides_credential(kind: str) -> None:
    assert KEY not in repr(APIS[kind].message_request(ROWS[kind], mail(), NOW)) + repr(
        APIS[kind].check_request(ROWS[kind], NOW)
    )


@pytest.mark.parametrize("url", ["https://h.example/", "https://h.example/a%20b/c?b=2&a=%20x&a=1&empty="])
@pytest.mark.parametrize("body", [b"", b'{"a": "\xc3\xbc"}'])
def test_signature_equals_botocore(url: str, body: bytes) -> None:
    unsigned = ApiRequest(
        "POST" if body else "GET", url, {"Content-Type": "application/json", "X-Spaced": "a   b"}, body
    )
    signed = signed_request(unsigned, AwsCredential(KEY_ID, KEY, "eu-west-1", "ses"), NOW)
    assert signature_is_botocores(signed.method, signed.url, signed.headers, signed.body)
    assert not signature_is_botocores(signed.method, signed.url, signed.headers, signed.body + b" ")


# ---------------------------------------------------------------------------- answers
OURS, NOT_NOW, OPEN = SendOutcome.MISCONFIGURED, SendOutcome.LATER, SendOutcome.UNKNOWN
TAKEN, REFUSED, DROPPED = SendOutcome.TAKEN, SendOutcome.REFUSED, SendOutcome.DROPPED


def aws(name: str, status: int, message: str = "") -> ApiResponse:
    return reply(status, {"message": message}, {"x-amzn-ErrorType": f"{name}:http://internal.amazon.com/x"})


def sg(status: int, message: str = "no") -> ApiResponse:
    return reply(status, {"errors": [{"message": message, "field": None, "help": None}]})


def pm(code: int, status: int = 422) -> ApiResponse:
    return reply(status, {"ErrorCode": code, "Message": "m"})


def rs(name: str, status: int) -> ApiResponse:
    return reply(status, {"statusCode": status, "name": name, "message": "m"})


ANSWERS: list[tuple[str, ApiResponse, SendOutcome]] = [
    ("ses", reply(200, {"MessageId": "0102-x"}), TAKEN),
    ("ses", aws("MessageRejected", 400, "virus"), REFUSED),
    ("ses", aws("MessageRejected", 400, "Email address is not verified. … a@b.example"), OURS),
    ("ses", aws("BadRequestException", 400), REFUSED),
    ("ses", aws("MailFromDomainNotVerifiedException", 400), OURS),
    ("ses", aws("AccountSuspendedException", 400), OURS),
    ("ses", aws("SendingPausedException", 400), OURS),
    ("ses", aws("NotFoundException", 404), OURS),
    ("ses", aws("TooManyRequestsException", 429), NOT_NOW),
    ("ses", aws("LimitExceededException", 400), NOT_NOW),
    ("ses", aws("InvalidSignatureException", 403), OURS),
    ("ses", aws("AccessDeniedException", 403), OURS),
    ("ses", reply(400, {"__type": "com.amazonaws.sesv2#MessageRejected", "message": "x"}), REFUSED),
    ("ses", reply(500, b"<html>"), OPEN),
    ("ses", reply(503, b""), NOT_NOW),
    ("sendgrid", reply(202, b"", {"X-Message-Id": "abc"}), TAKEN),
    ("sendgrid", sg(400), REFUSED),
    ("sendgrid", sg(401), OURS),
    ("sendgrid", sg(403), OURS),
    ("sendgrid", sg(404), OURS),
    ("sendgrid", sg(405), OURS),
    ("sendgrid", sg(413), REFUSED),
    ("sendgrid", sg(429), NOT_NOW),
    ("sendgrid", sg(500), OPEN),
    ("sendgrid", reply(502, b"<html>"), OPEN),
    ("sendgrid", sg(503), NOT_NOW),
    ("mailgun", reply(200, {"id": "<a@b>", "message": "Queued."}), TAKEN),
    ("mailgun", reply(400, {"message": "to parameter is not a valid address. please check documentation"}), REFUSED),
    ("mailgun", reply(400, {"message": "Sandbox subdomains are for test purposes only … authorized recipients"}), OURS),
    ("mailgun", reply(401, b"Forbidden"), OURS),
    ("mailgun", reply(403, {"message": "Domain mail.example is not allowed to send"}), OURS),
    ("mailgun", reply(404, {"message": "Domain not found"}), OURS),
    ("mailgun", reply(413, b""), REFUSED),
    ("mailgun", reply(420, b""), NOT_NOW),
    ("mailgun", reply(429, b""), NOT_NOW),
    ("mailgun", reply(500, b""), OPEN),
    ("mailgun", reply(504, b""), OPEN),
    ("postmark", reply(200, {"ErrorCode": 0, "Message": "OK", "MessageID": "m-1"}), TAKEN),
    ("postmark", pm(10, 401), OURS),
    ("postmark", pm(100, 503), NOT_NOW),
    ("postmark", pm(300), REFUSED),
    ("postmark", pm(400), OURS),
    ("postmark", pm(401), OURS),
    ("postmark", pm(402), REFUSED),
    ("postmark", pm(405), OURS),
    ("postmark", pm(406), DROPPED),
    ("postmark", pm(411), REFUSED),
    ("postmark", pm(412), OURS),
    ("postmark", pm(413), OURS),
    ("postmark", pm(429, 429), NOT_NOW),
    ("postmark", pm(1235), OURS),
    ("postmark", pm(99_999), REFUSED),
    ("postmark", reply(403, b"<html>403 Forbidden</html>"), OURS),
    ("postmark", reply(200, b"<html>a captive portal</html>"), OPEN),
    ("postmark", reply(500, {"ErrorCode": 0, "Message": "Internal Server Error"}), OPEN),
    ("resend", reply(200, {"id": "r-1"}), TAKEN),
    ("resend", rs("validation_error", 400), REFUSED),
    ("resend", rs("validation_error", 422), REFUSED),
    ("resend", rs("validation_error", 403), OURS),
    ("resend", rs("missing_api_key", 401), OURS),
    ("resend", rs("invalid_api_key", 403), OURS),
    ("resend", rs("not_found", 404), OURS),
    ("resend", rs("invalid_idempotent_request", 409), TAKEN),
    ("resend", rs("concurrent_idempotent_requests", 409), OPEN),
    ("resend", rs("invalid_attachment", 422), REFUSED),
    ("resend", rs("rate_limit_exceeded", 429), NOT_NOW),
    ("resend", rs("daily_quota_exceeded", 429), NOT_NOW),
    ("resend", rs("security_error", 451), REFUSED),
    ("resend", rs("internal_server_error", 500), OPEN),
    *[(kind, reply(302, b"", {"Location": "https://elsewhere.example"}), OURS) for kind in APIS],
]


@pytest.mark.parametrize(("kind", "api_reply", "meaning"), ANSWERS)
def test_reply_has_expected_outcome(kind: str, api_reply: ApiResponse, meaning: SendOutcome) -> None:
    answer = APIS[kind].message_result(api_reply)
    assert answer.outcome is meaning
    assert answer.code == api_reply.status
    assert answer.text


@pytest.mark.parametrize(("kind", "message_id"), [("ses", "0102-x"), ("sendgrid", "abc"), ("mailgun", "a@b")])
def test_provider_message_id_is_read_as_events_spell_it(kind: str, message_id: str) -> None:
    accepted_reply = next(api_reply for name, api_reply, meaning in ANSWERS if name == kind and meaning is TAKEN)
    assert APIS[kind].message_result(accepted_reply).provider_message_id == message_id


def test_retry_after_in_seconds_is_respected_up_to_a_day() -> None:
    values = {"7": 7.0, "0": 0.0, "": 0.0, "soon": 0.0, "999999999": 86_400.0, "٣": 0.0}
    assert {header: retry_after_seconds(reply(429, b"", {"Retry-After": header})) for header in values} == values


# ---------------------------------------------------------------------------- batches
def test_each_message_of_postmark_batch_has_its_own_result() -> None:
    api_reply = reply(
        200, [{"ErrorCode": 0, "Message": "OK", "MessageID": "1"}, {"ErrorCode": 406, "Message": "inactive"}]
    )
    answers = postmark.batch_results(api_reply, 2)
    assert answers is not None
    assert [answer.outcome for answer in answers] == [TAKEN, DROPPED]
    assert answers[0].provider_message_id == "1"


def test_resend_batch_maps_errors_to_their_messages() -> None:
    api_reply = reply(200, {"data": [{"id": "a"}, {"id": "c"}], "errors": [{"index": 1, "message": "no"}]})
    answers = resend.batch_results(api_reply, 3)
    assert answers is not None
    assert [(answer.outcome, answer.provider_message_id) for answer in answers] == [
        (TAKEN, "a"),
        (REFUSED, ""),
        (TAKEN, "c"),
    ]


@pytest.mark.parametrize("kind", list(BATCH_APIS))
def test_batch_with_unclear_reply_has_unknown_outcome(kind: str) -> None:
    unclear = [reply(200, b"<html>"), reply(200, []), reply(200, {"data": []}), reply(500, b"")]
    for api_reply in unclear:
        answers = BATCH_APIS[kind].batch_results(api_reply, 2)
        assert answers is not None
        assert [answer.outcome for answer in answers] == [OPEN, OPEN], api_reply


@pytest.mark.parametrize(("kind", "api_reply"), [("postmark", pm(300)), ("resend", rs("validation_error", 422))])
def test_batch_refused_as_a_whole_has_no_results(kind: str, api_reply: ApiResponse) -> None:
    assert BATCH_APIS[kind].batch_results(api_reply, 3) is None


def test_batch_key_depends_on_its_emails_only() -> None:
    first, second = mail(), mail()
    keys = [
        resend.batch_request(ROWS["resend"], mails).headers["Idempotency-Key"]
        for mails in ([first, second], [first, second], [first])
    ]
    assert keys[0] == keys[1] != keys[2]


# -------------------------------------------------------------------------------- echo
@pytest.mark.parametrize(
    "kind", ["brevo", "mailjet", "mailersend", "mailtrap", "mandrill", "postal", "sparkpost", "ses"]
)
def test_repeated_header_is_what_webhook_adapters_read(kind: str) -> None:
    [(_, value)] = correlation_headers(kind, ID, TAG)
    echo = embedded_echo(value)
    assert echo.email_id == ID
    assert echo.tag == TAG or f'{EMAIL_TAG_KEY}": "{TAG}"' in value or f"{EMAIL_TAG_KEY}={TAG}" in value


def test_plain_smtp_has_no_correlation_header() -> None:
    assert correlation_headers("smtp", ID, TAG) == ()


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sun, 06 Nov 1994 08:49:00 GMT", 0.0),
        ("Sun, 06 Nov 2094 08:49:00 GMT", 86_400.0),
    ],
)
def test_retry_after_date_counts_from_time_of_reply(date: str, seconds: float) -> None:
    came_at = 784_111_777_000  # RFC 9110's example: Sun, 06 Nov 1994 08:49:37 GMT
    assert retry_after_seconds(ApiResponse(429, {"retry-after": date}, b"", received_at=came_at)) == seconds
