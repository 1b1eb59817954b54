"""Who sends a request, for shares of what the service has: the name of its key, else the network of its address."""

import ipaddress

from starlette.types import Scope

_IPV6_NETWORK = 64
"""Bits of an IPv6 address that name a network: whoever has one address has all of its network."""


def client_of(scope: Scope) -> str:
    """The client of a request: the name of its key (`state.key`), or its address, of IPv6 the network."""
    name = scope.get("state", {}).get("key", "")
    if name:
        return f"key {name}"
    host = (scope.get("client") or ("", 0))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if address.version == 6:
        return str(ipaddress.ip_network((address, _IPV6_NETWORK), strict=False))
    return str(address)
