"""Detect opens and clicks by machines, from the user agent and the network of a request.

The pixel and link routes and the webhook normalizer call it. Its answer decides whether a conversion is sent, so only
properties of the request itself count. Circumstances, such as a click seconds after the delivery, change only the
counts (:mod:`pipeline.operations.engagement`). Nothing here does I/O.
"""

import functools
import ipaddress
import re
from bisect import bisect_right
from typing import Final

import msgspec

from topics.events import DeliveryEvent, EventKind

UNNAMED: Final = "no-user-agent"
PRIVACY_PROXY: Final = "apple-mail-privacy"
GMAIL_PREFETCH: Final = "gmail-prefetch"
PREFETCH: Final = "prefetch"
TRAP: Final = "trap-link"
SCANNER: Final = "security-scanner"

# Complete user agents.
_EXACT_AGENTS: Final = {
    # Every mail client and browser sends a user agent.
    "": UNNAMED,
    # Apple's Mail Privacy Protection fetches the images of every mail, read or not, with exactly this user agent.
    # https://github.com/ua-parser/uap-core/issues/509
    "Mozilla/5.0": PRIVACY_PROXY,
    # Gmail fetches the images of mail that arrives while the app is open, before it is read; an open by a person
    # comes through GoogleImageProxy. https://bird.com/en-gb/blog/gmail-prefetching-images
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 "
    "Safari/537.36 Edge/12.246 Mozilla/5.0": GMAIL_PREFETCH,
}

# These proxies fetch when a person opens the mail: they hide who the person is, but the open is real.
# - Gmail's proxy: https://developers.google.com/workspace/gmail/markup/reference  "via ggpht.com GoogleImageProxy"
# - Yahoo's proxy: https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html
# - CUBOT is a brand of telephones.
_HUMAN: Final = re.compile(r"GoogleImageProxy|YahooMailProxy|\bCUBOT\b", re.IGNORECASE)

_MACHINES: Final = (
    # Security gateways that follow every link before the mail is shown, as far as they name themselves.
    (
        SCANNER,
        r"barracuda|proofpoint|mimecast|messagelabs|symantec|trend ?micro|fortimail|ironport|sophos|zscaler"
        r"|forcepoint|trustwave|cloudmark|safelinks|urldefense|virustotal|urlscan|bitdefender|kaspersky|clamav",
    ),
    # Chat programs fetch a pasted link to draw its preview; nobody clicked.
    (
        "preview",
        r"facebookexternalhit|facebot|slack(?:bot|-imgproxy)|discordbot|telegrambot|whatsapp/|linkedinbot|twitterbot"
        r"|skypeuripreview|bingpreview|microsoftpreview|google-pagerenderer|iframely|embedly|vkshare|redditbot",
    ),
    # Automated browsers.
    ("automated-browser", r"headless|phantomjs|puppeteer|playwright|selenium|webdriver|lighthouse"),
    # HTTP libraries and command line tools.
    (
        "program",
        r"^(?:curl|wget|python|go-http-client|java|okhttp|libwww|ruby|perl|php|axios|node|undici|aiohttp|httpx"
        r"|apache-httpclient|winhttp|dart|reqwest|guzzlehttp|powershell)\b|python-requests|python-httpx",
    ),
    ("crawler", r"bot\b|bots\b|crawl|spider|slurp|archiver|monitor(?:ing)?\b|uptime|pingdom|scanner|fetcher"),
)
_REASON_PATTERNS: Final = tuple((reason, re.compile(pattern, re.IGNORECASE)) for reason, pattern in _MACHINES)

# Networks that only filter mail: nobody reads mail there. Their owners publish them, and they rarely change.
# - Exchange Online Protection, endpoint sets 9 and 10:
#   https://learn.microsoft.com/en-us/microsoft-365/enterprise/urls-and-ip-address-ranges#exchange-online
# - Barracuda Email Gateway Defense: https://campus.barracuda.com/product/emailgatewaydefense/doc/96023004/
# Networks that are not listed, because people use them too:
# - Apple's proxies share their addresses with the browsers of iCloud Private Relay:
#   https://wordtothewise.com/2021/09/apple-mpp-reporting-and-geolocation/
# - Google's proxy fetches when a person opens the mail. Exchange Online fetches images for Outlook on the web.
# - Proofpoint's and Mimecast's browser isolation opens a person's click in their own cloud.
# - Amazon's, Azure's and Google's clouds host many virtual desktops and VPNs.
_SCANNER_NETWORKS: Final = (
    "40.92.0.0/15",
    "40.107.0.0/16",
    "52.100.0.0/14",
    "104.47.0.0/17",
    "2a01:111:f400::/48",
    "2a01:111:f403::/48",
    "209.222.80.0/21",
)


MAX_AGENT_CHARS: Final = 1_000
MAX_ADDRESS_CHARS: Final = 64
"""Longest address that is parsed: an IPv6 address has at most 45 characters, but its zone after `%` has no limit."""


def _address_ranges(networks: tuple[str, ...]) -> dict[int, list[tuple[int, int]]]:
    """Return, per IP version, the first and the last address of each network as integers, sorted."""
    ranges: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for network in map(ipaddress.ip_network, networks):
        ranges[network.version].append((int(network.network_address), int(network.broadcast_address)))
    return {version: sorted(pairs) for version, pairs in ranges.items()}


_SCANNER_RANGES: Final = _address_ranges(_SCANNER_NETWORKS)


def machine_reason(user_agent: str) -> str:
    """Return why this user agent belongs to a machine; empty for a person's and for one that cannot be classified.

    Only its first MAX_AGENT_CHARS count: names come first, and longer ones would fill the cache.
    """
    return _machine_reason(user_agent[:MAX_AGENT_CHARS].strip())


@functools.lru_cache(maxsize=4096)
def _machine_reason(agent: str) -> str:
    if agent in _EXACT_AGENTS:
        return _EXACT_AGENTS[agent]
    if _HUMAN.search(agent):
        return ""
    return next((reason for reason, pattern in _REASON_PATTERNS if pattern.search(agent)), "")


def network_reason(address: str) -> str:
    """Return why a request from this IP address is a machine's; empty if that is unknown.

    The address is not stored, except in this process's cache.
    """
    return _network_reason(address) if len(address) <= MAX_ADDRESS_CHARS else ""


@functools.lru_cache(maxsize=4096)
def _network_reason(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    ranges, number = _SCANNER_RANGES[parsed.version], int(parsed)
    nearest = bisect_right(ranges, (number, 1 << 128)) - 1
    return SCANNER if nearest >= 0 and number <= ranges[nearest][1] else ""


def label_machine(event: DeliveryEvent) -> DeliveryEvent:
    """Return the event, with `machine` set if its user agent is a machine's and the provider did not label it itself.

    An event without a user agent stays as it is: some providers never report one.
    """
    if event.kind not in (EventKind.OPENED, EventKind.CLICKED) or event.machine or not event.user_agent:
        return event
    reason = machine_reason(event.user_agent)
    return msgspec.structs.replace(event, machine=reason) if reason else event
