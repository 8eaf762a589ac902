"""Cursors of the history API: opaque, signed, bound to tenant, question, moment and position."""

import base64

import msgspec
import pytest

from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import Signer
from projections import email_cursor
from projections.email_cursor import EmailQuestion, OtherListing
from projections.email_listing import ChangePosition, EmailFilter, EmailOrder, EmailPosition, EmailQuery
from projections.signed_cursor import TAG_BYTES, InvalidCursor
from tests.conftest import RING
from tests.support.changes import identified
from topics.readings import EmailStatus

SIGNER = Signer(RING, "cursor")
QUESTION = EmailQuestion(
    filter=EmailFilter(statuses=(EmailStatus.BOUNCED,), activity_id="7", accepted_from=5),
    as_of=50,
    order=EmailOrder.SENT,
    descending=False,
    limit=20,
    fields=("status",),
)
POSITION = EmailPosition(1_700_000_000_123, identified(1))


def encoded(question: EmailQuestion = QUESTION, tenant: str = "acme") -> str:
    return email_cursor.encode_email_cursor(SIGNER.tag, EmailQuery(tenant=tenant, as_of=42), question, POSITION)


def decoded(text: str, sent: EmailQuestion, tenant: str = "acme") -> tuple[EmailQuestion, int, EmailPosition]:
    return email_cursor.decode_email_cursor(SIGNER.verify, tenant, text, sent)


@pytest.mark.parametrize("sent", [QUESTION, EmailQuestion(), EmailQuestion(limit=20)])
def test_cursor_continues_with_or_without_repeated_parameters(sent: EmailQuestion) -> None:
    assert decoded(encoded(), sent) == (QUESTION, 42, POSITION)


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        (EmailQuestion(filter=EmailFilter(activity_id="8")), "activity_id"),
        (EmailQuestion(filter=EmailFilter(brand_uuid="x")), "brand_uuid"),
        (EmailQuestion(filter=EmailFilter(recipient="anna@example.com")), "recipient"),
        (EmailQuestion(as_of=51), "as_of"),
        (EmailQuestion(order=EmailOrder.UPDATED), "order"),
        (EmailQuestion(descending=True), "descending"),
        (EmailQuestion(limit=21), "limit"),
        (EmailQuestion(fields=("brand",)), "fields"),
    ],
)
def test_other_parameters_beside_a_cursor_raise(sent: EmailQuestion, named: str) -> None:
    with pytest.raises(OtherListing, match=named):
        decoded(encoded(), sent)


def test_an_address_is_not_in_its_cursor_and_must_come_with_it() -> None:
    question = EmailQuestion(filter=EmailFilter(recipient="anna@example.com"))
    text = encoded(question)
    assert b"anna" not in base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    assert decoded(text, question)[0] == question
    with pytest.raises(OtherListing, match="recipient"):
        decoded(text, EmailQuestion())


def test_nothing_in_a_cursor_can_be_computed_from_the_address_without_the_key() -> None:
    question = EmailQuestion(filter=EmailFilter(recipient="anna@example.com"))
    other = Signer(SecretRing.of("another secret of thirty-two bytes"), "cursor")
    query = EmailQuery(tenant="acme", as_of=42)
    texts = [email_cursor.encode_email_cursor(signer.tag, query, question, POSITION) for signer in (SIGNER, other)]
    payloads = [base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))[TAG_BYTES:] for text in texts]
    assert payloads[0] != payloads[1]


@pytest.mark.parametrize("change", ["tenant", "byte"])
def test_cursor_of_others_is_invalid(change: str) -> None:
    text = encoded(tenant="other" if change == "tenant" else "acme")
    if change == "byte":
        text = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
    with pytest.raises(InvalidCursor):
        decoded(text, EmailQuestion())


def test_token_of_the_feed_is_bound_to_its_tenant() -> None:
    position = ChangePosition(5, identified(1), 3)
    text = email_cursor.encode_change_cursor(SIGNER.tag, "acme", position)
    assert email_cursor.decode_change_cursor(SIGNER.verify, "acme", text) == position
    for tenant, token in (("other", text), ("acme", encoded())):
        with pytest.raises(InvalidCursor):
            email_cursor.decode_change_cursor(SIGNER.verify, tenant, token)


def test_every_part_of_a_question_is_in_its_cursor() -> None:
    """Guard for fields that somebody adds: decoding must return them."""
    question, _, _ = decoded(encoded(), EmailQuestion())
    assert msgspec.structs.asdict(question) == msgspec.structs.asdict(QUESTION)
