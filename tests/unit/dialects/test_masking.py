"""Addresses are masked in whatever a listing shows to a key that may not see them."""

import json

import msgspec
import pytest

from pipeline.dialects import extrahorizon_listing, rql
from pipeline.dialects.masking import mask_address, mask_text, mask_value
from projections.listing_query import ListingQuery


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("anna@example.com", "***@example.com"),
        ("<a@b.example> Jane Doe", "***@b.example"),
        ("Anna Example <anna@example.com>", "***@example.com"),
        ('"odd @ name"@example.com', "***@example.com"),
        ("not an address", "***"),
        ("", "***"),
    ],
)
def test_address_keeps_its_domain_only(address: str, masked: str) -> None:
    assert mask_address(address) == masked


@pytest.mark.parametrize(
    "text",
    [
        "550 bounces+anna=example.com@news.example unknown",
        "550 bounces+anna=example.com unknown",
        "SRS0=HHH=TT=example.com=anna@relay.example x",
        "SRS0+HHH=TT=example.com=anna=relay.example x",
        "srs1=F=relay.example==HHH=TT=example.com=anna@x.example",
        "prvs=1234567890=anna@example.com",
        '"anna b"@example.com user unknown',
        '<"anna.b"@example.com>',
        "anna%example.com@relay.example",
        "user anna=example.com is not here",
        "anna@[192.0.2.1]",
        "anna (at) example.com",
        "anna[AT]example.com",
        "mailto:anna%40example.com",
    ],
)
def test_every_written_form_of_an_address_is_masked(text: str) -> None:
    masked = mask_text(text)
    assert "anna" not in masked.lower()
    assert "[address]" in masked


@pytest.mark.parametrize(
    "text", ["452 4.2.2 over quota", "status=5.1.1 size=1.5 charset=utf-8", "see https://x.example/?a=1&b=2", "a=b=c"]
)
def test_text_without_an_address_stays(text: str) -> None:
    assert mask_text(text) == text


def test_address_in_texts_lists_and_names_of_members_is_replaced() -> None:
    value = {"a": ["to anna@example.com", 5, None], "ben@example.com": {"x": "<cy@example.com>"}}
    assert "example.com" not in json.dumps(mask_value(value))


MAIL = {
    "id": "0e5a0f0c",
    "creator_id": "c2f1d1de",
    "aws_message_id": "0102@ses",
    "from": "News <news@shop.example>",
    "subject": "For anna@example.com",
    "recipients": {"to": ["Anna <anna@example.com>"], "cc": ["ben@example.com"], "bcc": ["cy@example.com"]},
    "reply_to": ["support@shop.example"],
    "body": "Dear anna@example.com",
    "content": {"owner": "anna@example.com", "list": ["ben@example.com"]},
    "views": 2,
}
QUEUED = {
    "id": "0e5a0f0c",
    "status": "queued",
    "to": ["anna@example.com"],
    "cc": ["ben@example.com"],
    "bcc": ["cy@example.com"],
    "text": "Dear anna@example.com",
    "template_data": {"content": {"owner": "anna@example.com"}},
}


@pytest.mark.parametrize("mail", [MAIL, QUEUED])
@pytest.mark.parametrize("select", [(), (("recipients", "to"), ("subject",), ("to",), ("content", "owner"))])
def test_masked_mail_shows_no_recipient(mail: dict[str, object], select: tuple[tuple[str, ...], ...]) -> None:
    page = extrahorizon_listing.encode_page([json.dumps(mail)], 1, ListingQuery(select=select), masks_addresses=True)
    for name in ("anna", "ben", "cy@"):
        assert name not in page.decode().casefold()
    [shown] = msgspec.json.decode(page)["data"]
    assert shown["id"] == mail["id"]
    if not select and "from" in mail:
        assert (shown["from"], shown["aws_message_id"]) == (mail["from"], mail["aws_message_id"])
        assert shown["recipients"]["to"] == ["***@example.com"]


@pytest.mark.parametrize(
    "query",
    [
        *("eq(recipients.to,anna@example.com)", "like(subject,anna)", "sort(recipients.to)", "sort(-subject)"),
        *("contains(recipients.to)", "contains(recipients,eq(to,x))", "excludes(recipients.to.2)", "gt(body,a)"),
        *("or(eq(id,1),like(content.owner,anna))", "and(limit(5),in(reply_to,a,b))", "ne(recipients.bcc,x)"),
    ],
)
def test_hidden_field_can_neither_be_filtered_nor_sorted_by(query: str) -> None:
    rql.parse(query, extrahorizon_listing.MAIL_FIELDS)
    with pytest.raises(rql.HiddenRqlField):
        rql.parse(query, extrahorizon_listing.MASKED_MAIL_FIELDS)


@pytest.mark.parametrize("field", sorted(extrahorizon_listing.MASKED_QUEUED_MAIL_FIELDS.hidden))
def test_hidden_field_of_queued_mails_can_be_selected_only(field: str) -> None:
    assert rql.parse(f"select({field})", extrahorizon_listing.MASKED_QUEUED_MAIL_FIELDS).select == ((field,),)
    with pytest.raises(rql.HiddenRqlField):
        rql.parse(f"like({field},anna)", extrahorizon_listing.MASKED_QUEUED_MAIL_FIELDS)


@pytest.mark.parametrize(
    "fields", [extrahorizon_listing.MASKED_MAIL_FIELDS, extrahorizon_listing.MASKED_QUEUED_MAIL_FIELDS]
)
def test_every_field_that_is_not_hidden_is_shown_as_it_is(fields: rql.RqlFields) -> None:
    names = {name.split(".")[0] for name in fields.texts | fields.numbers | fields.times | fields.open}
    assert names - fields.hidden <= extrahorizon_listing._CLEAR_FIELDS
