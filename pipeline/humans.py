"""A user agent -> why its open or click is a machine's, or "" for a human's. Pure.

Only what is intrinsic to the request decides here. Seconds after the delivery, every link at
once: such signs change counts elsewhere, never a conversion.
"""

import re
from typing import Final

UNNAMED: Final = "no-user-agent"
PRIVACY_PROXY: Final = "apple-mail-privacy"

# These fetch because a person is looking, at that moment; the name hides who, not that.
# - Gmail's proxy: https://developers.google.com/workspace/gmail/markup/reference  "via ggpht.com GoogleImageProxy"
# - Yahoo's proxy: https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html
# - CUBOT is a telephone.
_HUMAN: Final = re.compile(r"GoogleImageProxy|YahooMailProxy|\bCUBOT\b", re.IGNORECASE)

_MACHINES: Final = (
    # Security gateways that follow every link before the mail is shown, where they say who they are.
    (
        "security-scanner",
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


def machine_reason(user_agent: str) -> str:
    """Why this user agent is a machine; empty for a human's, and for what can't be told."""
    agent = user_agent.strip()
    if not agent:
        # Every mail client and browser sends one.
        return UNNAMED
    if agent == "Mozilla/5.0":
        # Apple's Mail Privacy Protection fetches every mail, read or not, and says exactly this.
        return PRIVACY_PROXY
    if _HUMAN.search(agent):
        return ""
    return next((reason for reason, pattern in _TABLE if pattern.search(agent)), "")
