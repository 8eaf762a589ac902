"""A request's headers -> who asks, and whether ahead of a person. Nothing of it is stored but the user agent's words.

Whoever connects is who asks, unless it is a proxy that the settings name: then it says for whom,
and so may the proxy behind it. What stands further left in `X-Forwarded-For` anybody may have written.
"""

import ipaddress
from collections.abc import Iterable
from typing import Any, Final

import msgspec

USER_AGENT_MAX_BYTES: Final = 500
IPV6_SITE_BITS: Final = 64
"""One site has as many IPv6 addresses as it likes; all of them count as one."""
# What browsers say when they fetch what nobody has asked for yet. https://wicg.github.io/nav-speculation/prefetch.html
# and, before it had one name, https://lionralfs.dev/blog/exploring-the-usage-of-prefetch-headers/
_PREFETCH_HEADERS: Final = frozenset({b"sec-purpose", b"purpose", b"x-purpose", b"x-moz"})
_PREFETCH_PURPOSES: Final = (b"prefetch", b"preview", b"prerender")

RawHeaders = Iterable[tuple[bytes, bytes]]


class ClientInfo(msgspec.Struct, frozen=True):
    """Who asks."""

    user_agent: str
    address: str
    is_prefetch: bool
    """It is a prefetch: no person has asked for it yet, and none may ever."""


class ClientInfoReader:
    """Reads requests; ``trusted`` are the networks of our own proxies."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._trusted = [ipaddress.ip_network(network) for network in trusted]

    def __call__(self, scope: Any) -> ClientInfo:
        """Who sent this request (an ASGI scope)."""
        agent, ahead, forwarded = b"", False, []
        for name, value in scope["headers"]:
            if name == b"user-agent":
                agent = value
            elif name in _PREFETCH_HEADERS:
                ahead = ahead or value.strip().lower().startswith(_PREFETCH_PURPOSES)
            elif name == b"x-forwarded-for":
                forwarded.append(value)
        peer = scope["client"][0] if scope.get("client") else ""
        return ClientInfo(agent[:USER_AGENT_MAX_BYTES].decode("latin-1"), self._address(peer, forwarded), ahead)

    def is_trusted(self, peer: str) -> bool:
        """Return whether whoever connects from here is a proxy of ours, which speaks for others."""
        return self._ours(peer)

    def address(self, scope: Any) -> str:
        """Return the address that a request (an ASGI scope) comes from."""
        forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return self._address(scope["client"][0] if scope.get("client") else "", forwarded)

    def site(self, scope: Any) -> str:
        """Return what a request is counted by: its address, or its network where that is IPv6."""
        return site_of(self.address(scope))

    def _address(self, peer: str, forwarded: list[bytes]) -> str:
        if not self._trusted or not forwarded:
            return peer
        hops = b",".join(forwarded).decode("latin-1").split(",")
        for hop in reversed(hops):
            if not self._ours(peer):
                break
            if (address := _parsed(hop)) is None:
                break
            peer = address
        return peer

    def _ours(self, address: str) -> bool:
        try:
            where = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(where in network for network in self._trusted)


def site_of(address: str) -> str:
    """Return what an address is counted by: itself, or its network where it is IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), IPV6_SITE_BITS), strict=False))


def _parsed(hop: str) -> str | None:
    """An address with or without port and brackets; None for `unknown`, names and nonsense."""
    text = hop.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        # The zone of a link-local address (RFC 6874) may have any length and means nothing here.
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
