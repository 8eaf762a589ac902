"""An address in, whether conversions may go there out. Pure.

A destination is a URL that somebody typed: it must not become a way into our own network
(server-side request forgery). What is judged is the address that is really connected to, after
all names were resolved, so no clever name or literal gets around it.
"""

import ipaddress
from typing import Final

_TRANSLATED: Final = (
    # An IPv4 address inside an IPv6 one: what counts is where it leads.
    ipaddress.ip_network("64:ff9b::/96"),  # NAT64 (RFC 6052)
    ipaddress.ip_network("::/96"),  # IPv4-compatible, deprecated and still routed by some
)


class PrivateAddress(OSError):
    """The destination's name leads to a private, loopback or link-local address."""

    def __init__(self) -> None:
        super().__init__((self.__doc__ or "").strip())


def is_public(host: str) -> bool:
    """Whether this IP address is one of the open internet's."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not address.is_multicast and not address.is_reserved


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in network for network in _TRANSLATED):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
