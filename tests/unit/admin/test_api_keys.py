"""The form of API keys and what their limits allow."""

import ipaddress
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.admin import BRAND_SCOPES, KEY_PATTERN, SCOPE_MEANINGS, ApiKey, KeyLimits, KeyScope, Tenant
from pipeline.admin.api_keys import check_limits, is_possible_key, key_hash, key_names, limited_hash, make_key
from pipeline.errors import Refused

SCOPES = st.sets(st.sampled_from(KeyScope))


def key_with(**limits: object) -> ApiKey:
    return ApiKey("a1b2c3d4e5f6", Tenant("acme"), KeyLimits(**limits))  # type: ignore[arg-type]  # as each test gives them


def test_key_is_found_by_the_documented_pattern_inside_other_text() -> None:
    key = make_key()
    assert re.findall(KEY_PATTERN, f'curl -H "X-Api-Key: {key}" # {key[:-1]}') == [key]
    assert is_possible_key(key)


def test_keys_differ_and_use_every_digit() -> None:
    keys = {make_key() for _ in range(200)}
    assert len(keys) == 200
    assert len(set("".join(key[4:-6] for key in keys))) == 62


@given(st.integers(4, 52), st.sampled_from("0aZ"))
def test_key_with_one_wrong_character_is_impossible(place: int, char: str) -> None:
    key = make_key()
    changed = key[:place] + char + key[place + 1 :]
    assert is_possible_key(changed) == (changed == key)


@pytest.mark.parametrize(
    "change", [lambda key: key[:-1], lambda key: key + "0", lambda key: key.replace("mfk_", "mfk_-")]
)
def test_key_that_is_cut_off_or_longer_is_impossible(change: object) -> None:
    assert not is_possible_key(change(make_key()))  # type: ignore[operator]  # one of the functions above


def test_keys_of_earlier_versions_are_possible() -> None:
    assert is_possible_key("mf_" + "A-_" * 14)


def test_key_with_limits_lies_under_a_hash_that_earlier_versions_do_not_look_for() -> None:
    key = make_key()
    assert limited_hash(key_hash(key)) != key_hash(key)
    assert key_names(key) == (key_hash(key).hex()[:12], limited_hash(key_hash(key)).hex()[:12])


def test_every_scope_has_a_meaning() -> None:
    assert list(SCOPE_MEANINGS) == list(KeyScope)


@given(SCOPES, st.lists(st.sampled_from(KeyScope), unique=True))
def test_key_lacks_exactly_the_scopes_that_it_was_not_given(
    given_scopes: set[KeyScope], needed: list[KeyScope]
) -> None:
    key = key_with(scopes=frozenset(given_scopes))
    assert key.missing_scopes(needed) == [scope for scope in needed if scope not in given_scopes]
    assert key_with(scopes=None).missing_scopes(needed) == []


@given(SCOPES)
def test_key_of_one_brand_can_only_have_scopes_that_concern_brands(scopes: set[KeyScope]) -> None:
    limits = KeyLimits(frozenset(scopes), brand="7")
    if scopes <= BRAND_SCOPES:
        check_limits(limits)
    else:
        with pytest.raises(Refused, match="concerns all brands"):
            check_limits(limits)


def test_unscoped_key_cannot_be_limited_to_a_brand() -> None:
    with pytest.raises(Refused, match="needs scopes"):
        check_limits(KeyLimits(brand="7"))


def test_key_is_for_its_brand_or_for_all() -> None:
    assert key_with(brand="7").may_use_brand("7")
    assert not key_with(brand="7").may_use_brand("*")
    assert not key_with(brand="7").may_use_brand("")
    assert key_with().may_use_brand("8")


@pytest.mark.parametrize(
    ("address", "is_inside"),
    [
        *(("203.0.113.9", True), ("203.0.114.1", False), ("::ffff:203.0.113.9", True), ("2001:db8::7", True)),
        *(("2001:db9::7", False), ("fe80::1%eth0", False), ("", False), ("unix:", False)),
    ],
)
def test_key_is_used_in_its_networks_only(address: str, is_inside: bool) -> None:
    networks = tuple(map(ipaddress.ip_network, ("203.0.113.0/24", "2001:db8::/32")))
    assert key_with(networks=networks).may_come_from(address) == is_inside
    assert key_with().may_come_from(address)


def test_key_ends_at_its_moment() -> None:
    end = datetime(2027, 1, 1, tzinfo=UTC)
    key = key_with(expires_at=end)
    assert not key.is_expired(end.timestamp() - 0.001)
    assert key.is_expired(end.timestamp())
    assert not key_with().is_expired(1e12)
