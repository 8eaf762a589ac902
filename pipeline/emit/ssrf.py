"""Decide which IP addresses conversions may be sent to. Pure; called for each address that the emitter connects to.

A destination is a URL that a user typed; it must not give access to our own network (server-side request forgery).
The check applies to the address that is connected to, after all names were resolved, so that no host name or unusual
spelling of an address can bypass it.

The blocks are those of IANA's registries of special-purpose addresses. They are listed here because Python's own tables
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
            "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service is 100.100.100.200
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's platform service, reachable from each of its machines
            "169.254.0.0/16",  # link-local; the metadata service of most clouds
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
"""The block of global unicast addresses. Unique local (with some clouds' metadata), link-local, site-local,
IPv4-compatible, IPv4-translated and multicast addresses are outside of it."""
_SPECIAL_V6: Final = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID, AS112
            "2001:db8::/32",
            "2002::/16",  # 6to4, obsolete: leads to the IPv4 address inside
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",
        ),
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""NAT64 (RFC 6052), by which hosts without IPv4 reach it; the IPv4 address inside is checked instead."""


class PrivateAddressError(OSError):
    """The destination's name leads to a private, loopback or link-local address."""

    def __init__(self) -> None:
        super().__init__((self.__doc__ or "").strip())


def is_public(host: str) -> bool:
    """Return whether ``host`` is a public IP address; False if it is not an IP address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        embedded = _embedded_v4(address)
        return _is_public_v6(address) if embedded is None else _is_public_v4(embedded)
    return _is_public_v4(address)


def _is_public_v4(address: ipaddress.IPv4Address) -> bool:
    return address.is_global and not any(address in network for network in _SPECIAL_V4)


def _is_public_v6(address: ipaddress.IPv6Address) -> bool:
    return address.is_global and address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def _embedded_v4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address contains; None if it contains none."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
