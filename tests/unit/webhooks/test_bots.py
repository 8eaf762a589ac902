"""Who opened: a person, or a machine, and why we say so."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.webhooks import bots
from pipeline.webhooks.bots import label_machine, machine_reason, network_reason
from tests.support.changes import T0, event
from topics.events import EventKind


@pytest.mark.parametrize(
    "agent",
    [
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Thunderbird/128.3.0",
        "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; WOW64; Trident/7.0; Microsoft Outlook 16.0; ms-office)",
        "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
        "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html",
        "Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/96.0 Mobile",
        "Mozilla/5.0 (Linux; Android 9; CUBOT) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/96.0 Mobile",
    ],
)
def test_user_agents_of_people_have_no_machine_reason(agent: str) -> None:
    assert machine_reason(agent) == ""


@pytest.mark.parametrize(
    ("agent", "reason"),
    [
        ("", "no-user-agent"),
        ("  ", "no-user-agent"),
        ("Mozilla/5.0", "apple-mail-privacy"),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 "
            "Safari/537.36 Edge/12.246 Mozilla/5.0",
            "gmail-prefetch",
        ),
        ("Barracuda Sentinel (EE)", "security-scanner"),
        ("Mozilla/5.0 (compatible; Proofpoint URL Defense)", "security-scanner"),
        ("facebookexternalhit/1.1", "preview"),
        ("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", "preview"),
        ("WhatsApp/2.23.20.0", "preview"),
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/130.0",
            "automated-browser",
        ),
        ("curl/8.5.0", "program"),
        ("python-requests/2.32", "program"),
        ("Go-http-client/2.0", "program"),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "crawler"),
        ("Pingdom.com_bot_version_1.4", "crawler"),
    ],
)
def test_user_agents_of_machines_have_a_reason(agent: str, reason: str) -> None:
    assert machine_reason(agent) == reason


@given(st.text())
def test_any_user_agent_is_classified(agent: str) -> None:
    machine_reason(agent)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("104.47.0.0", "security-scanner"),
        ("104.47.127.255", "security-scanner"),
        ("104.47.128.0", ""),
        ("40.91.255.255", ""),
        ("40.93.255.255", "security-scanner"),
        ("2a01:111:f400::1", "security-scanner"),
        ("2a01:111:f401::1", ""),
        ("192.0.2.1", ""),
        ("0.0.0.0", ""),
        ("::", ""),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""),
        ("unix", ""),
        ("", ""),
    ],
)
def test_addresses_of_mail_filters_have_a_reason(address: str, reason: str) -> None:
    assert network_reason(address) == reason


def test_a_provider_s_open_or_click_is_labelled_by_its_user_agent_once() -> None:
    robot = msgspec.structs.replace(event(1, EventKind.CLICKED, T0), user_agent="curl/8.5.0")
    labelled = label_machine(robot)
    assert labelled == msgspec.structs.replace(robot, machine="program")
    assert label_machine(labelled) is labelled


def test_label_or_missing_user_agent_of_the_provider_is_unchanged() -> None:
    flagged = msgspec.structs.replace(
        event(1, EventKind.OPENED, T0), user_agent="curl/8.5.0", machine="sg_machine_open"
    )
    silent = event(1, EventKind.OPENED, T0)
    unsubscribed = msgspec.structs.replace(event(1, EventKind.UNSUBSCRIBED, T0), user_agent="curl/8.5.0")
    for one in (flagged, silent, unsubscribed):
        assert label_machine(one) is one


def test_long_user_agents_and_addresses_are_not_kept() -> None:
    bots._machine_reason.cache_clear()
    for number in range(5):
        assert machine_reason(f"curl/8.{number} " + "x" * 100_000) == machine_reason(f"curl/8.{number}")
        assert network_reason("fe80::1%" + "x" * 100_000 + str(number)) == ""
    assert bots._machine_reason.cache_info().currsize <= 10
    before = bots._network_reason.cache_info().currsize
    network_reason("fe80::1%" + "y" * 100_000)
    assert bots._network_reason.cache_info().currsize == before
