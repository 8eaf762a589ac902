"""The client of a request: address, user agent, and whether it is a prefetch. Only the user agent is ever stored.

The client is the peer of the connection, unless that is a proxy that the settings trust: then `X-Forwarded-For` names
it. That header is read from the right, as far as its entries are trusted proxies; anybody may have written the rest.
"""

import ipaddress
from collections.abc import Iterable
from typing import Any, Final

import msgspec

USER_AGENT_MAX_BYTES: Final = 500
IPV6_SITE_BITS: Final = 64
"""Prefix of an IPv6 network whose addresses count as one client: one site may use any number of them."""
# Headers of browsers' speculative requests: https://wicg.github.io/nav-speculation/prefetch.html; older names of it:
# https://lionralfs.dev/blog/exploring-the-usage-of-prefetch-headers/
_PREFETCH_HEADERS: Final = frozenset({b"sec-purpose", b"purpose", b"x-purpose", b"x-moz"})
_PREFETCH_PURPOSES: Final = (b"prefetch", b"preview", b"prerender")


class ClientInfo(msgspec.Struct, frozen=True):
    """The client that sent a request."""

    user_agent: str
    address: str
    is_prefetch: bool
    """A browser fetched it in advance; no person has asked for it yet, and perhaps none will."""


class ClientInfoReader:
    """Reads the client of a request; ``trusted`` are the networks of our own proxies."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._trusted = [ipaddress.ip_network(network) for network in trusted]

    def __call__(self, scope: Any) -> ClientInfo:
        """Return the client that sent a request, given its ASGI scope."""
        user_agent, is_prefetch, forwarded = b"", False, []
        for name, value in scope["headers"]:
            if name == b"user-agent":
                user_agent = value
            elif name in _PREFETCH_HEADERS:
                is_prefetch = is_prefetch or value.strip().lower().startswith(_PREFETCH_PURPOSES)
            elif name == b"x-forwarded-for":
                forwarded.append(value)
        peer = scope["client"][0] if scope.get("client") else ""
        text = user_agent[:USER_AGENT_MAX_BYTES].decode("latin-1")
        return ClientInfo(text, self._client_address(peer, forwarded), is_prefetch)

    def is_trusted(self, address: str) -> bool:
        """Return whether the address is that of a proxy of ours, which forwards requests of others."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)

    def address(self, scope: Any) -> str:
        """Return the address of the client that sent a request, given its ASGI scope."""
        forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return self._client_address(scope["client"][0] if scope.get("client") else "", forwarded)

    def site(self, scope: Any) -> str:
        """Return the client's address, or its network if it is IPv6: by this a client's requests are counted."""
        return site_of(self.address(scope))

    def _client_address(self, peer: str, forwarded: list[bytes]) -> str:
        if not self._trusted or not forwarded:
            return peer
        hops = b",".join(forwarded).decode("latin-1").split(",")
        for hop in reversed(hops):
            if not self.is_trusted(peer):
                break
            if (address := _parse_hop(hop)) is None:
                break
            peer = address
        return peer


def site_of(address: str) -> str:
    """Return an address, or its network if it is IPv6: by this a client's requests are counted."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), IPV6_SITE_BITS), strict=False))


def _parse_hop(hop: str) -> str | None:
    """Return the address of an `X-Forwarded-For` entry, without port and brackets; None if it holds no address."""
    text = hop.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        # The zone of a link-local address (RFC 6874) may be of any length and is meaningless on this host.
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
