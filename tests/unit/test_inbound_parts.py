"""Whose mail is taken, what is made of it, and how many may come at once."""

import os
from pathlib import Path

import pytest

from pipeline.errors import BadSettings
from pipeline.inbound.doors import PER_HOST, Doors
from pipeline.inbound.envelope import KEPT, is_ours, record
from pipeline.inbound.listener import Certificate
from pipeline.settings import Settings
from tests.support.inbound import DOMAIN, unsubscribe, verp
from tests.support.smtp_receiver import certificate


def test_return_paths_unsubscribe_addresses_and_roles_of_our_domain_are_ours() -> None:
    local = verp().partition("@")[0]
    for address in (verp(), unsubscribe(), f"<{verp()}>", verp().upper(), f"Postmaster@{DOMAIN}", f"fbl@{DOMAIN}"):
        assert is_ours(address, DOMAIN)
    for address in (
        "",
        "@",
        local,
        f"{local}@other.example",
        f"{local}@sub.{DOMAIN}",
        f"{local}@{DOMAIN}.example",
        f"x{local}@{DOMAIN}",
        f"{local}x@{DOMAIN}",
        f"a@b@{DOMAIN}",
        f"anna@{DOMAIN}",
        f"postmaster+x@{DOMAIN}",
    ):
        assert not is_ours(address, DOMAIN), address


def test_a_record_names_its_message_and_can_hold_no_second_header() -> None:
    once, again = record(b"x", 1, to="a@b\r\nx-truncated: 9", sender="<>"), record(b"x", 2, to="a@bx-truncated:9")
    assert dict(once.headers) == {"x-envelope-to": "a@bx-truncated:9", "x-envelope-from": "<>"}
    assert once.webhook_id == again.webhook_id != record(b"y", 1).webhook_id
    cut = record(b"x" * (KEPT + 1), 1, size=5_000_000)
    assert (len(cut.body), dict(cut.headers)) == (KEPT, {"x-truncated": "5000000"})
    assert record(b"x" * KEPT, 1).headers == ()


def test_one_sender_leaves_room_for_others_and_an_ipv6_network_is_one() -> None:
    doors = Doors(PER_HOST + 2, 0, lambda: 0.0)
    assert [doors.enter("192.0.2.1") for _ in range(PER_HOST + 1)] == [True] * PER_HOST + [False]
    assert doors.enter("192.0.2.2")
    assert doors.enter("2001:db8::1")
    assert not doors.enter("192.0.2.3")
    doors.leave("192.0.2.1")
    assert doors.inside == PER_HOST + 1
    many = Doors(1_000, 0, lambda: 0.0)
    assert [many.enter(f"2001:db8::{n:x}") for n in range(PER_HOST + 1)].count(True) == PER_HOST


def test_a_sender_that_writes_too_much_waits_while_others_do_not() -> None:
    now = 0.0
    doors = Doors(9, 2.0, lambda: now)
    assert [doors.message("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert doors.message("192.0.2.2")
    now = 0.5
    assert [doors.message("192.0.2.1") for _ in range(2)] == [True, False]


def test_a_renewed_certificate_is_used_and_a_broken_one_is_not(tmp_path: Path) -> None:
    certificate(tmp_path)
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    files = Certificate(Settings(inbound_certificate=str(pem), inbound_certificate_key=str(key)))
    first = files.context()
    assert first is files.context() is not None
    certificate(tmp_path)
    os.utime(pem, (1, 1))
    second = files.context()
    assert second is not first
    pem.write_text("half of it")
    os.utime(pem, (2, 2))
    assert files.context() is second
    with pytest.raises(BadSettings, match="INBOUND_CERTIFICATE"):
        Certificate(Settings(inbound_certificate=str(pem)))
    assert Certificate(Settings()).context() is None
