"""Which IP addresses conversions may go to. Pure; called by the emitter for each address that it connects to.

A destination is a URL that somebody typed: it must not become a way into our own network
(server-side request forgery). What is judged is the address that is really connected to, after
all names were resolved, so no clever name or literal gets around it.

The lists are IANA's registries of special-purpose addresses, whole blocks of them, in our own words: Python's tables
differ from version to version. https://www.iana.org/assignments/iana-ipv4-special-registry
https://www.iana.org/assignments/iana-ipv6-special-registry
"""

import ipaddress
from typing import Final

_SPECIAL_V4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",  # shared by carriers' customers; Alibaba's metadata is 100.100.100.200
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's platform, reachable from each of its machines
            "169.254.0.0/16",  # link-local, most clouds' metadata
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocol assignments; Oracle's metadata is 192.0.0.192
            "192.0.2.0/24",
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT relays
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
"""All that IANA has given out for use between networks; so unique local (cloud metadata too), link-local, site-local,
IPv4-compatible, IPv4-translated and multicast addresses are out of it."""
_SPECIAL_V6: Final = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID, AS112
            "2001:db8::/32",
            "2002::/16",  # 6to4: leads to the IPv4 address inside, and nobody needs it any more
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",
        ),
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: how a host without IPv4 reaches it; what counts is where the address inside leads."""


class PrivateAddressError(OSError):
    """The destination's name leads to a private, loopback or link-local address."""

    def __init__(self) -> None:
        super().__init__((self.__doc__ or "").strip())


def is_public(host: str) -> bool:
    """Return whether this IP address is one of the open internet's; False for what is none."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner(address)
        return _is_public_v6(address) if inner is None else _is_public_v4(inner)
    return _is_public_v4(address)


def _is_public_v4(address: ipaddress.IPv4Address) -> bool:
    return address.is_global and not any(address in network for network in _SPECIAL_V4)


def _is_public_v6(address: ipaddress.IPv6Address) -> bool:
    return address.is_global and address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 one stands for."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
