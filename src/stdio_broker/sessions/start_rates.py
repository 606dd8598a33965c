"""How often may one principal start a child? A token bucket each. Pure; the time is passed in.

Of a bucket only the moment is kept at which it will be full again; one that is full need not be kept.

Source: ITU-T I.371, "Generic cell rate algorithm" (virtual scheduling), which is a token bucket.
"""

from collections.abc import Callable

from .principal import Principal

__all__ = ["StartRates"]

#: Seconds by which a token may come early: sums of intervals that are no binary fractions are not exact.
_ROUNDING = 1e-6

#: Buckets below which it is not worth while to look for full ones.
_FEW = 64


class StartRates:
    """A bucket of tokens for each principal. At most half of what is kept, or `_FEW`, are full ones.

    Args:
        per_minute: Tokens that come back to a bucket within a minute.
        burst: Tokens in a full bucket.
        now: Returns the time, in seconds; it never goes back.
    """

    __slots__ = ("_depth", "_full_at", "_interval", "_now", "_sweep_above")

    def __init__(self, *, per_minute: float, burst: int, now: Callable[[], float]) -> None:
        self._interval = 60.0 / per_minute
        self._depth = burst * self._interval  # seconds that an empty bucket takes to fill
        self._now = now
        self._full_at: dict[Principal, float] = {}
        self._sweep_above = _FEW

    def __len__(self) -> int:
        """Return how many buckets are kept."""
        return len(self._full_at)

    @property
    def principals(self) -> set[Principal]:
        """Whose bucket is not full."""
        self._sweep(self._now())
        return set(self._full_at)

    def take(self, principal: Principal) -> float:
        """Take a token, and return 0; or take none, and return the seconds until there is one."""
        now = self._now()
        full_at = max(now, self._full_at.get(principal, now)) + self._interval
        missing = full_at - now - self._depth
        if missing > _ROUNDING:
            return missing
        self._full_at[principal] = full_at
        if len(self._full_at) > self._sweep_above:
            self._sweep(now)
        return 0.0

    def give_back(self, principal: Principal) -> None:
        """Give a token back that was not used."""
        if principal in self._full_at:
            self._full_at[principal] -= self._interval

    def _sweep(self, now: float) -> None:
        self._full_at = {principal: at for principal, at in self._full_at.items() if at > now}
        # Twice as many: so a sweep costs each of them no more than a look or two.
        self._sweep_above = max(_FEW, 2 * len(self._full_at))
