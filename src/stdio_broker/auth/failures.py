"""How often may an address fail? A token bucket for each, in a bounded table. Pure; the time is passed in.

A bucket is kept as one number, the time at which it will be full again: what is missing from it is the
time until then, times the rate (the generic cell rate algorithm, ITU-T I.371, annex A).
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["MAX_PEERS", "FailureLimit", "network_of"]

#: Buckets kept. A full one is the same as none, so what is lost with the oldest is that its address has
#: failed lately: whoever has so many addresses is not held back by this.
MAX_PEERS = 4096

#: What sums of seconds may be wrong by.
ROUNDING = 1e-6

#: An IPv6 client has all addresses of such a network to choose from.
IPV6_PREFIX = 64


class FailureLimit:
    """Buckets of `burst` failures, which fill up by `per_minute` a minute.

    Args:
        per_minute: Failures a minute in the long run; more than 0.
        burst: Failures at once; 1 or more.
        max_peers: Buckets kept; beyond that, the one not used for longest is forgotten.
    """

    def __init__(self, *, per_minute: float, burst: int, max_peers: int = MAX_PEERS) -> None:
        self._interval = 60.0 / per_minute
        self._tolerance = self._interval * (burst - 1)
        self._max_peers = max_peers
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, key: Hashable, now: float) -> float:
        """Return the seconds until `take` would let the next failure through; 0 if it would now."""
        wait = self._full_at.get(key, now) - now - self._tolerance
        return wait if wait > ROUNDING else 0.0

    def take(self, key: Hashable, now: float) -> float:
        """Count a failure, unless there were too many.

        Returns:
            0 if it was counted; else seconds until the next one is.
        """
        wait = self.wait(key, now)
        if not wait:
            self._full_at[key] = max(self._full_at.get(key, now), now) + self._interval
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._max_peers:
            self._full_at.popitem(last=False)
        return wait


def network_of(peer: str) -> str:
    """Return what counts as one peer: an IPv4 address, an IPv6 network, or the text as it is."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), IPV6_PREFIX), strict=False))
