"""Run a DNS server on loopback that knows a few names, and a resolver that asks it and no other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Zone = Mapping[str, Mapping[str, list[str]]]
"""Name -> type -> records as in a zone file; a name with no records of a type has an empty answer."""
SILENT: Final = "silent"
"""Names with this word get no answer."""
BROKEN: Final = "broken"
"""Names with this word get SERVFAIL."""


class _DnsProtocol(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text(omit_final_dot=True)
        if SILENT in name:
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        kind = dns.rdatatype.to_text(query.question[0].rdtype)
        if BROKEN in name:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif name not in self._zone:
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            if alias := self._zone[name].get("CNAME"):
                response.answer.append(dns.rrset.from_text(f"{name}.", 300, "IN", "CNAME", *alias))
                name = alias[0].removesuffix(".")
            if records := self._zone[name].get(kind):
                response.answer.append(dns.rrset.from_text(f"{name}.", 300, "IN", kind, *records))
        self._transport.sendto(response.to_wire(), address)


@contextlib.asynccontextmanager
async def dns_server(zone: Zone, timeout_s: float = 0.5) -> AsyncIterator[dns.asyncresolver.Resolver]:
    """Answer from ``zone`` until the end of the block; yield a resolver that gives up after ``timeout_s``."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _DnsProtocol(zone), local_addr=("127.0.0.1", 0))
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    resolver.timeout = resolver.lifetime = timeout_s
    try:
        yield resolver
    finally:
        transport.close()
