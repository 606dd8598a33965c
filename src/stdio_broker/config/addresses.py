"""Hosts and origins, as configurations write them and as browsers send them. Pure.

Source: RFC 6454 (origins), RFC 9110, section 7.2 (Host).
"""

import ipaddress
import re

from ..http import host_of

__all__ = ["as_host", "host_in_header", "is_loopback", "origin_in_header"]

# As a browser sends it: a scheme, a host, maybe a port; no path.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+/?")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def as_host(host: str) -> str:
    """Return a host as a Host header names it: lower case, an IPv6 address in brackets."""
    try:
        return f"[{ipaddress.IPv6Address(host)}]"
    except ValueError:
        return host.lower()


def host_in_header(host: str) -> str | None:
    """Return a host without its port as the guards compare it; None for what is no host."""
    return host_of(as_host(host).encode("latin-1", "replace"))


def origin_in_header(origin: str) -> str | None:
    """Return an origin as a browser sends it; None for what no browser sends."""
    lowered = origin.lower()
    return lowered.rstrip("/") if _ORIGIN.fullmatch(lowered) else None
