"""What `mailfold doctor` makes of DNS records, asked of a DNS server of the test's own."""

from collections.abc import Awaitable, Callable

import pytest

from pipeline.content.dkim import DkimKey, dns_record, new_key
from pipeline.operations.doctor.dns_records import DomainChecker
from pipeline.operations.doctor.finding import DoctorFinding
from pipeline.operations.doctor.mail_dns import check_dns
from pipeline.settings import Settings
from tests.support.dns_server import Zone, dns_server

KEY = DkimKey("shop.com", "mf1", new_key(ed25519=True))
RSA_KEY = DkimKey("shop.com", "mf2", new_key())
RECORD = dns_record(KEY).partition(" IN TXT ")[2]
RSA_RECORD = dns_record(RSA_KEY).partition(" IN TXT ")[2]
KEY_NAME, RSA_NAME = "mf1._domainkey.shop.com", "mf2._domainkey.shop.com"


async def verdict(zone: Zone, check: Callable[[DomainChecker], Awaitable[DoctorFinding]]) -> DoctorFinding:
    async with dns_server(zone) as resolver:
        checker = DomainChecker(resolver)
        return await checker.bounded("shop.com", check(checker))


@pytest.mark.parametrize(
    ("zone", "expected", "words"),
    [
        ({"shop.com": {"MX": ["20 b.shop.com.", "10 a.shop.com."]}}, "ok", "a.shop.com, b.shop.com"),
        ({"shop.com": {"MX": ["0 ."]}}, "fail", "takes no mail"),
        ({"shop.com": {"A": ["192.0.2.1"]}}, "warn", "no MX"),
        ({"shop.com": {"AAAA": ["2001:db8::1"]}}, "warn", "no MX"),
        ({"shop.com": {}}, "fail", "neither MX nor address"),
        ({}, "fail", "neither MX nor address"),
    ],
)
async def test_mail_domain_needs_a_way_for_bounces(zone: Zone, expected: str, words: str) -> None:
    finding = await verdict(zone, lambda checker: checker.check_bounces("shop.com"))
    assert (finding.verdict, words in finding.text) == (expected, True), finding


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ({"shop.com": {"MX": ["10 a.shop.com."]}}, "ok"),
        ({"shop.com": {"A": ["192.0.2.1"]}}, "ok"),
        ({"shop.com": {"MX": ["0 ."]}}, "warn"),
        ({}, "fail"),
    ],
)
async def test_sender_domain_must_take_mail(zone: Zone, expected: str) -> None:
    assert (await verdict(zone, lambda checker: checker.check_replies("shop.com"))).verdict == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (['"v=spf1 include:_spf.example.net -all"', '"google-site-verification=x"'], "ok"),
        (['"v=spf1 include:_spf." "example.net ~all"'], "ok"),
        (['"v=spf10 -all"'], "warn"),
        ([], "warn"),
        (['"v=spf1 a +all"'], "warn"),
        (['"v=spf1 a all"'], "warn"),
        (['"v=spf1 -all"', '"v=spf1 a -all"'], "fail"),
    ],
)
async def test_one_spf_record_that_names_hosts_is_right(texts: list[str], expected: str) -> None:
    zone = {"shop.com": {"TXT": texts}}
    assert (await verdict(zone, lambda checker: checker.check_spf("shop.com"))).verdict == expected


@pytest.mark.parametrize(
    ("zone", "expected", "words"),
    [
        ({"_dmarc.news.shop.com": {"TXT": ['"v=DMARC1; p=reject"']}}, "ok", "reject of _dmarc.news.shop.com"),
        ({"_dmarc.shop.com": {"TXT": ['"v=DMARC1;p=none; sp=reject"']}}, "ok", "none of _dmarc.shop.com"),
        ({"_dmarc.com": {"TXT": ['"v=DMARC1; p=none"']}}, "warn", "no DMARC record"),
        ({}, "warn", "no DMARC record"),
        ({"_dmarc.news.shop.com": {"TXT": ['"v=DMARC1; p=none"', '"v=DMARC1; p=reject"']}}, "fail", "2 records"),
    ],
)
async def test_dmarc_policy_may_be_the_parents_and_must_be_one(zone: Zone, expected: str, words: str) -> None:
    finding = await verdict(zone, lambda checker: checker.check_dmarc("news.shop.com"))
    assert (finding.verdict, words in finding.text) == (expected, True), finding


@pytest.mark.parametrize(
    ("zone", "key", "expected", "words"),
    [
        ({KEY_NAME: {"TXT": [RECORD]}}, KEY, "ok", "that signs"),
        ({RSA_NAME: {"TXT": [RSA_RECORD]}}, RSA_KEY, "ok", "that signs"),
        ({KEY_NAME: {"TXT": [dns_record(RSA_KEY).partition(" IN TXT ")[2]]}}, KEY, "fail", "another DKIM key"),
        ({KEY_NAME: {"TXT": ['"v=DKIM1; k=ed25519; p="']}}, KEY, "fail", "revoked"),
        ({}, KEY, "fail", "no DKIM key"),
    ],
)
async def test_dns_must_publish_the_key_that_signs(zone: Zone, key: DkimKey, expected: str, words: str) -> None:
    finding = await verdict(zone, lambda checker: checker.check_key(key))
    assert (finding.verdict, words in finding.text) == (expected, True), finding
    assert expected == "ok" or dns_record(key) in finding.todo


@pytest.mark.parametrize(("domain", "words"), [("silent.com", "no answer within 0.5 s"), ("broken.com", "no answer")])
async def test_name_servers_without_an_answer_are_a_warning(domain: str, words: str) -> None:
    async with dns_server({}) as resolver:
        checker = DomainChecker(resolver)
        finding = await checker.bounded(domain, checker.check_spf(domain))
    assert (finding.verdict, words in finding.text) == ("warn", True), finding


async def test_strangers_record_can_not_control_the_terminal() -> None:
    zone = {"shop.com": {"TXT": ['"v=spf1 \\027[2J -all ' + "x" * 200 + '"']}}
    finding = await verdict(zone, lambda checker: checker.check_spf("shop.com"))
    assert finding.text.isprintable()
    assert len(finding.text) < 150


async def test_mail_domain_and_domains_that_are_named_are_looked_up_without_a_database() -> None:
    zone = {
        "m.shop.com": {"MX": ["10 mx.shop.com."], "TXT": ['"v=spf1 a -all"']},
        "_dmarc.shop.com": {"TXT": ['"v=DMARC1; p=none"']},
        "xn--bcher-kva.com": {"MX": ["10 mx.shop.com."]},
    }
    settings = Settings(mail_domain="M.shop.com.")
    async with dns_server(zone) as resolver:
        found = [
            (row.verdict, row.text)
            async for row in check_dns(settings, domains=["bücher.com", "x.localhost"], resolver=resolver)
        ]
    assert [verdict for verdict, _ in found[:3]] == ["ok", "ok", "ok"]
    assert found[3] == ("skip", "the domains of brands' senders are not checked without Postgres and its schema")
    assert [text for _, text in found[4:5]] == ["xn--bcher-kva.com takes mail"]
    assert len(found) == 7


async def test_domain_of_this_machine_only_is_not_looked_up() -> None:
    [local, _senders] = [row async for row in check_dns(Settings())]
    assert (local.verdict, "only this machine knows" in local.text) == ("skip", True)


async def test_text_that_is_no_domain_is_told() -> None:
    [finding] = [row async for row in check_dns(Settings(), domains=["no domain"])]
    assert (finding.verdict, "--domain" in finding.todo) == ("fail", True)
