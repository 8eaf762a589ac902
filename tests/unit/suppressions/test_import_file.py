"""Unit tests of the import of address files: providers' formats, and lines that are rejected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Refused
from pipeline.suppressions.import_file import ImportedAddress, RejectedLine, parse_file
from topics.suppressions import SuppressionReason

HARD, COMPLAINT, UNSUBSCRIBE, MANUAL = (
    SuppressionReason.HARD_BOUNCE,
    SuppressionReason.COMPLAINT,
    SuppressionReason.UNSUBSCRIBE,
    SuppressionReason.MANUAL,
)
A, B = "anna@example.com", "bo@example.com"
HASHED = "0f" * 32

FILES = {
    "sendgrid bounces": (
        f'status,reason,email,created\n5.1.1,"550 5.1.1 no\nuser, sorry",{A},1443651125\n4.2.2,full,{B},1443651126\n',
        [(A, HARD), (B, SuppressionReason.SOFT_BOUNCE)],
    ),
    "sendgrid spam reports": (f"email,ip,created\n{A},10.0.0.1,1443651141\n", [(A, None)]),
    "sendgrid, as its API answers": (
        f'[{{"created":1443651125,"email":"{A}","reason":"550 5.1.1 unknown","status":"5.1.1"}}]',
        [(A, HARD)],
    ),
    "mailgun bounces": (
        f"address,code,error,created_at\n{A},550,No such mailbox,Fri 21 Oct 2011 11:02:55 GMT\n",
        [(A, HARD)],
    ),
    "mailgun complaints": (f"address,created_at\n{A},Fri 21 Oct 2011 11:02:55 GMT\n", [(A, None)]),
    "mailgun unsubscribes": (f"address,tags,created_at\n{A},*,Fri 21 Oct 2011 11:02:55 GMT\n", [(A, UNSUBSCRIBE)]),
    "mailgun, as its API answers": (
        f'{{"items":[{{"address":"{A}","code":"550","error":"gone","created_at":"…"}}],"paging":{{"next":"…"}}}}',
        [(A, HARD)],
    ),
    "amazon ses, without a heading": (f"{A},BOUNCE\n{B}, COMPLAINT\n", [(A, HARD), (B, COMPLAINT)]),
    "amazon ses, JSON lines": (
        f'{{"emailAddress": "{A}", "reason": "BOUNCE"}}\n\n{{"emailAddress":"{B}","reason":"COMPLAINT"}}\n',
        [(A, HARD), (B, COMPLAINT)],
    ),
    "amazon ses, as its API answers": (
        f'{{"NextToken":"x","SuppressedDestinationSummaries":[{{"EmailAddress":"{A}","Reason":"COMPLAINT",'
        '"LastUpdateTime":"2020-04-10T21:03:05Z"}]}',
        [(A, COMPLAINT)],
    ),
    "postmark": (
        f'{{"Suppressions":[{{"EmailAddress":"{A}","SuppressionReason":"ManualSuppression","Origin":"Recipient"}},'
        f'{{"EmailAddress":"{B}","SuppressionReason":"ManualSuppression","Origin":"Customer"}},'
        f'{{"EmailAddress":"{B}","SuppressionReason":"SpamComplaint","Origin":"Recipient"}}]}}',
        [(A, UNSUBSCRIBE), (B, MANUAL), (B, COMPLAINT)],
    ),
    "postmark, as a table": (
        f"Email Address;Suppression Reason;Origin;Created At\r\n{A};HardBounce;Recipient;2019-12-17\r\n",
        [(A, HARD)],
    ),
    "a list": (f"{A}\n{B}\n", [(A, None), (B, None)]),
    "a list with a mark at its beginning and blank lines": (f"\ufeff\n\n{A}\r\n\r\n", [(A, None)]),
    "our own export": (
        f"address_hash,brand,reason,since,email_id,event_id\n{HASHED},7,soft bounce,2026-01-01,x,y\n",
        [(HASHED, SuppressionReason.SOFT_BOUNCE)],
    ),
    "one line of JSON": (f'{{"email":"{A}"}}', [(A, None)]),
    "a JSON list of addresses": (f'["{A}","{B}"]', [(A, None), (B, None)]),
}


@pytest.mark.parametrize("name", FILES)
def test_exports_of_providers_are_parsed(name: str) -> None:
    text, expected = FILES[name]
    lines = list(parse_file(text.encode()))
    assert [(line.name, line.reason) for line in lines if isinstance(line, ImportedAddress)] == expected
    assert len(lines) == len(expected)


def test_brand_is_read_from_our_own_export() -> None:
    [line] = parse_file(f"address_hash,brand\n{HASHED},7\n".encode())
    assert isinstance(line, ImportedAddress)
    assert line.brand == "7"


def test_rejected_lines_have_a_number_and_an_error_without_the_address() -> None:
    lines = list(parse_file(b'email,note\nanna@example.com,"two\nlines"\nnot-an-address,x\n,x\n@,\n'))
    assert [type(line) for line in lines] == [ImportedAddress, RejectedLine, RejectedLine, RejectedLine]
    assert [(line.line, line.error) for line in lines if isinstance(line, RejectedLine)] == [
        (4, "not an email address"),
        (5, "no address"),
        (6, "not an email address"),
    ]
    lines = list(parse_file(b'{"email":"anna@example.com"}\nnonsense\n{"email":17}\n3\n'))
    assert [(line.line, line.error) for line in lines if isinstance(line, RejectedLine)] == [
        (2, "not JSON"),
        (3, "no address"),
        (4, "neither an object nor an address"),
    ]


def test_file_in_another_encoding_is_refused() -> None:
    with pytest.raises(Refused, match="not UTF-8 at byte 2"):
        list(parse_file("zö@example.com".encode("latin-1").replace(b"z", b"zz")))


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_file_is_parsed_or_refused(body: bytes) -> None:
    try:
        for line in parse_file(body):
            assert isinstance(line, ImportedAddress | RejectedLine)
    except Refused:
        pass


@given(st.text(alphabet='"\n\r,;\t@.a{}[]:', max_size=60))
def test_any_punctuation_is_parsed(text: str) -> None:
    for line in parse_file(text.encode()):
        assert line.line >= 0
