"""How many bytes of messages one node may hold, and how many of them for one owner.

What each stream, backlog and log may hold is bounded by itself, but there may be thousands of them.
They all charge the same budget for what they hold, and give it back when they hold it no more.

Each owner has a part of the whole, so that one whose clients do not read does not keep the others out.
Like the streams' own bounds it is one for what may be refused: an answer is always taken, since
somebody waits for it and the call was let through. So the sum may be more than `max_bytes`, by no more
than the answers to the calls that are in flight.
"""

import sys
from collections.abc import Hashable
from weakref import WeakValueDictionary

from ..errors import LimitReached, TooManyRequests

__all__ = ["Budget", "Budgets"]

#: What may be held in case somebody asks for it again: one n-th of what may be held at all.
SPARE_SHARE = 2

#: Seconds that a refused client is told to wait. A slow reader is cut, or reads on, long before that.
RETRY_AFTER = 5.0


class Budget:
    """Bytes that are held, and how many may be.

    Args:
        max_bytes: Bytes that may be held; None bounds nothing.
        whole: What this is a part of; None if it is a whole.

    Attributes:
        used: Bytes that are held now.
        max_bytes: As above.
        refused: How often `check` has refused something for want of room here.
        refused_by_parts: How often it has for want of room in a part of this.
    """

    __slots__ = ("__weakref__", "_whole", "max_bytes", "refused", "refused_by_parts", "used")

    def __init__(self, max_bytes: int | None = None, *, whole: "Budget | None" = None) -> None:
        self.max_bytes = sys.maxsize if max_bytes is None else max_bytes
        self.used = 0
        self.refused = 0
        self.refused_by_parts = 0
        self._whole = whole

    @property
    def full(self) -> bool:
        """Whether nothing more may be held."""
        return self.used >= self.max_bytes or (self._whole is not None and self._whole.full)

    def has_room_for(self, size: int) -> bool:
        """Whether so many bytes more may be held. The first ones always may: else they never could."""
        fits = not self.used or self.used + size <= self.max_bytes
        return fits and (self._whole is None or self._whole.has_room_for(size))

    def can_spare(self, size: int) -> bool:
        """Whether so many bytes may be held just in case: what is there for that must not keep others out."""
        fits = self.used + size <= self.max_bytes // SPARE_SHARE
        return fits and (self._whole is None or self._whole.can_spare(size))

    def check(self, size: int = 0) -> None:
        """Let so many bytes through, or refuse them.

        Raises:
            TooManyRequests: The owner's part has no room for them.
            LimitReached: The whole has none.
        """
        whole = self._whole
        if not size and self.used < self.max_bytes and (whole is None or whole.used < whole.max_bytes):
            return  # the hot path
        if whole is not None:
            whole.check(size)
        if not self.full and self.has_room_for(size):
            return
        self.refused += 1
        if self._whole is None:
            raise LimitReached(
                f"messages hold {self.used} of the {self.max_bytes} bytes that this node has for them",
                retry_after=RETRY_AFTER,
            )
        self._whole.refused_by_parts += 1
        raise TooManyRequests(
            f"messages of yours hold {self.used} of {self.max_bytes} bytes; read your streams",
            retry_after=RETRY_AFTER,
        )

    def add(self, size: int) -> None:
        """Hold so many bytes more. It does not refuse them."""
        self.used += size
        if self._whole is not None:
            self._whole.used += size

    def remove(self, size: int) -> None:
        """Hold so many bytes less."""
        self.used -= size
        if self._whole is not None:
            self._whole.used -= size


class Budgets:
    """The budget of a node, and each owner's part of it.

    A part is kept as long as somebody has it in hand, and so as long as anything is held in it.

    Args:
        max_bytes: Bytes that the node may hold; None bounds nothing.
        max_bytes_each: The same, for one owner; None is a quarter of the whole, so that it takes more
            than three to keep the others out.

    Attributes:
        whole: The node's.
    """

    def __init__(self, max_bytes: int | None = None, *, max_bytes_each: int | None = None) -> None:
        self.whole = Budget(max_bytes)
        self._max_bytes_each = self.whole.max_bytes // 4 if max_bytes_each is None else max_bytes_each
        self._parts: WeakValueDictionary[Hashable, Budget] = WeakValueDictionary()

    def __len__(self) -> int:
        """Return how many parts are kept."""
        return len(self._parts)

    def of(self, owner: Hashable) -> Budget:
        """Return the part of an owner."""
        part = self._parts.get(owner)
        if part is None:
            part = self._parts[owner] = Budget(self._max_bytes_each, whole=self.whole)
        return part
