"""What a request says of itself -> why its open or click is a machine's, or "" for a human's. Pure.

Only what is intrinsic to the request decides here, and with it a conversion. Seconds after the
delivery, every link at once: such signs change counts alone (:mod:`pipeline.operations.engagement`).
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

# User agents that are known to the letter.
_EXACTLY: Final = {
    # Every mail client and browser sends one.
    "": UNNAMED,
    # Apple's Mail Privacy Protection fetches every mail, read or not, and says exactly this.
    # https://github.com/ua-parser/uap-core/issues/509
    "Mozilla/5.0": PRIVACY_PROXY,
    # Gmail fetches images of mail that arrives while the app is open, before anybody looks; an open by a person comes
    # through GoogleImageProxy. https://bird.com/en-gb/blog/gmail-prefetching-images
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 "
    "Safari/537.36 Edge/12.246 Mozilla/5.0": GMAIL_PREFETCH,
}

# These fetch because a person is looking, at that moment; the name hides who, not that.
# - Gmail's proxy: https://developers.google.com/workspace/gmail/markup/reference  "via ggpht.com GoogleImageProxy"
# - Yahoo's proxy: https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html
# - CUBOT is a telephone.
_HUMAN: Final = re.compile(r"GoogleImageProxy|YahooMailProxy|\bCUBOT\b", re.IGNORECASE)

_MACHINES: Final = (
    # Security gateways that follow every link before the mail is shown, where they say who they are.
    (
        SCANNER,
        r"barracuda|proofpoint|mimecast|messagelabs|symantec|trend ?micro|fortimail|ironport|sophos|zscaler"
        r"|forcepoint|trustwave|cloudmark|safelinks|urldefense|virustotal|urlscan|bitdefender|kaspersky|clamav",
    ),
    # A link pasted into a chat is fetched to draw its preview; nobody clicked.
    (
        "preview",
        r"facebookexternalhit|facebot|slack(?:bot|-imgproxy)|discordbot|telegrambot|whatsapp/|linkedinbot|twitterbot"
        r"|skypeuripreview|bingpreview|microsoftpreview|google-pagerenderer|iframely|embedly|vkshare|redditbot",
    ),
    # Browsers without a person before them.
    ("automated-browser", r"headless|phantomjs|puppeteer|playwright|selenium|webdriver|lighthouse"),
    # Programs that don't hide.
    (
        "program",
        r"^(?:curl|wget|python|go-http-client|java|okhttp|libwww|ruby|perl|php|axios|node|undici|aiohttp|httpx"
        r"|apache-httpclient|winhttp|dart|reqwest|guzzlehttp|powershell)\b|python-requests|python-httpx",
    ),
    ("crawler", r"bot\b|bots\b|crawl|spider|slurp|archiver|monitor(?:ing)?\b|uptime|pingdom|scanner|fetcher"),
)
_TABLE: Final = tuple((reason, re.compile(pattern, re.IGNORECASE)) for reason, pattern in _MACHINES)

# Networks that only filter mail: no person reads their mail from there. Published by their owners, unchanged for years.
# - Exchange Online Protection, endpoint sets 9 and 10:
#   https://learn.microsoft.com/en-us/microsoft-365/enterprise/urls-and-ip-address-ranges#exchange-online
# - Barracuda Email Gateway Defense: https://campus.barracuda.com/product/emailgatewaydefense/doc/96023004/
# Left out on purpose, because people come from there, too:
# - Apple's proxies leave where iCloud Private Relay's browsers leave:
#   https://wordtothewise.com/2021/09/apple-mpp-reporting-and-geolocation/
# - Google's proxy fetches for a person who looks. Exchange Online itself fetches images for Outlook on the web.
# - Proofpoint's and Mimecast's browser isolation opens a person's click in their own cloud.
# - Amazon's, Azure's and Google's clouds are full of virtual desktops and VPNs.
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
"""An IPv6 address has 45 at most; what follows a % may be of any length."""


def _ranges(networks: tuple[str, ...]) -> dict[int, list[tuple[int, int]]]:
    """By version: first and last address of each, in order."""
    found: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for network in map(ipaddress.ip_network, networks):
        found[network.version].append((int(network.network_address), int(network.broadcast_address)))
    return {version: sorted(spans) for version, spans in found.items()}


_SPANS: Final = _ranges(_SCANNER_NETWORKS)


def machine_reason(user_agent: str) -> str:
    """Return why this user agent is a machine; empty for a human's, and for what can't be told.

    Its beginning decides: names come first, and what is longer is somebody's attempt to fill the memory.
    """
    return _machine_reason(user_agent[:MAX_AGENT_CHARS].strip())


@functools.lru_cache(maxsize=4096)
def _machine_reason(agent: str) -> str:
    if agent in _EXACTLY:
        return _EXACTLY[agent]
    if _HUMAN.search(agent):
        return ""
    return next((reason for reason, pattern in _TABLE if pattern.search(agent)), "")


def network_reason(address: str) -> str:
    """Return why whoever asks from this address is a machine; empty for what can't be told. It is kept nowhere."""
    return _network_reason(address) if len(address) <= MAX_ADDRESS_CHARS else ""


@functools.lru_cache(maxsize=4096)
def _network_reason(address: str) -> str:
    try:
        where = ipaddress.ip_address(address)
    except ValueError:
        return ""
    spans, number = _SPANS[where.version], int(where)
    nearest = bisect_right(spans, (number, 1 << 128)) - 1
    return SCANNER if nearest >= 0 and number <= spans[nearest][1] else ""


def label_machine(event: DeliveryEvent) -> DeliveryEvent:
    """A provider's open or click, labelled by its user agent where the provider itself told no machine.

    A provider that tells no user agent says nothing by that.
    """
    if event.kind not in (EventKind.OPENED, EventKind.CLICKED) or event.machine or not event.user_agent:
        return event
    reason = machine_reason(event.user_agent)
    return msgspec.structs.replace(event, machine=reason) if reason else event
