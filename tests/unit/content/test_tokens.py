"""Tests of the signed tokens in a message."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.content import tokens
from pipeline.errors import InvalidSignatureError
from pipeline.runtime.secrets.signing import Signer
from tests.conftest import RING
from topics.record import EmailId

SIGNER, OTHER = Signer(RING, "track"), Signer(RING, "verp")
EMAIL_ID = EmailId("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
email_ids = st.uuids().map(lambda value: EmailId(str(value)))
urls = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)

READERS: list[tuple[str, Callable[[Signer, str], Any]]] = [
    (tokens.pixel_token(SIGNER, EMAIL_ID), tokens.read_pixel_token),
    (tokens.click_token(SIGNER, EMAIL_ID, 3, "https://example.test/?a=1"), tokens.read_click_token),
    (tokens.verp_address(SIGNER, EMAIL_ID, "m.test"), tokens.read_verp_address),
    (tokens.message_id_header(SIGNER, EMAIL_ID, "m.test"), tokens.read_message_id),
    (tokens.trap_token(SIGNER, EMAIL_ID), tokens.read_trap_token),
    (tokens.unsubscribe_token(SIGNER, EMAIL_ID), tokens.read_unsubscribe_token),
    (tokens.unsubscribe_address(SIGNER, EMAIL_ID, "m.test"), tokens.read_unsubscribe_address),
]
NAMES = ["pixel", "click", "verp", "message-id", "trap", "unsubscribe", "unsubscribe-address"]


@given(email_ids, st.integers(0, 65_535), urls)
def test_tokens_are_read_back(email_id: EmailId, link: int, url: str) -> None:
    assert tokens.read_pixel_token(SIGNER, tokens.pixel_token(SIGNER, email_id)) == email_id
    click = tokens.click_token(SIGNER, email_id, link, url)
    assert tokens.read_click_token(SIGNER, click) == (email_id, link, url)
    assert tokens.read_verp_address(SIGNER, tokens.verp_address(SIGNER, email_id, "m.test")) == email_id
    assert tokens.read_message_id(SIGNER, tokens.message_id_header(SIGNER, email_id, "m.test")) == email_id
    assert tokens.read_trap_token(SIGNER, tokens.trap_token(SIGNER, email_id)) == email_id
    assert tokens.read_unsubscribe_token(SIGNER, tokens.unsubscribe_token(SIGNER, email_id)) == email_id
    written = tokens.unsubscribe_address(SIGNER, email_id, "m.test")
    assert tokens.read_unsubscribe_address(SIGNER, written) == email_id


@pytest.mark.parametrize(("token", "read"), READERS, ids=NAMES)
def test_key_of_another_purpose_is_refused(token: str, read: Callable[[Signer, str], Any]) -> None:
    with pytest.raises(InvalidSignatureError):
        read(OTHER, token)


@pytest.mark.parametrize(("token", "read"), READERS, ids=NAMES)
@pytest.mark.parametrize("kind", range(len(READERS)), ids=NAMES)
def test_token_of_another_kind_is_refused(token: str, read: Callable[[Signer, str], Any], kind: int) -> None:
    if READERS[kind][1] is not read:
        with pytest.raises(InvalidSignatureError):
            READERS[kind][1](SIGNER, token)


@pytest.mark.parametrize(("token", "read"), READERS, ids=NAMES)
@given(data=st.data())
def test_changed_token_is_refused(token: str, read: Callable[[Signer, str], Any], data: st.DataObject) -> None:
    # The last character of unpadded base64 or base32 has unused bits, so it isn't changed.
    end = min(40, token.find("@") - 1 if "@" in token else len(token) - 1)
    at = data.draw(st.integers(1, end - 1))
    other = data.draw(st.sampled_from("abcdefgh234567").filter(lambda char: char.lower() != token[at].lower()))
    with pytest.raises(InvalidSignatureError):
        read(SIGNER, token[:at] + other + token[at + 1 :])


@pytest.mark.parametrize("read", [read for _, read in READERS], ids=NAMES)
@given(garbage=st.text(max_size=80))
def test_any_other_text_is_refused(read: Callable[[Signer, str], Any], garbage: str) -> None:
    with pytest.raises(InvalidSignatureError):
        read(SIGNER, garbage)


def test_addresses_in_capitals_and_brackets_are_read() -> None:
    assert tokens.read_verp_address(SIGNER, f"<{tokens.verp_address(SIGNER, EMAIL_ID, 'M.test').upper()}>") == EMAIL_ID
    assert tokens.read_message_id(SIGNER, tokens.message_id_header(SIGNER, EMAIL_ID, "m.test").upper()) == EMAIL_ID


def test_return_path_fits_into_a_local_part() -> None:
    local = tokens.verp_address(SIGNER, EMAIL_ID, "m.test").partition("@")[0]
    assert len(local) <= 64


def test_tokens_contain_neither_address_nor_guessable_id() -> None:
    assert tokens.pixel_token(SIGNER, EMAIL_ID) != tokens.pixel_token(SIGNER, EmailId(str(uuid.UUID(int=0))))
