"""Whose turn is it to start a child? A few at once; who waits is served round robin over principals.

The principals that wait stand in a ring, each with a queue of its own. The first one in the ring that
may have a turn gets it, and goes to the end. So a principal with a hundred starts delays another one by
no more than one start, and its own are served in the order in which they came. A principal never has
all turns, however long its starts take: without that, a few that hang would keep everybody out.

A turn that came too late (its waiter was cancelled in the same moment) was none: the principal stands
first in the ring again.

Source: J. Nagle, "On Packet Switches with Infinite Storage" (RFC 970), "Fairness in packet switching".
"""

import asyncio
from collections import OrderedDict, deque

from .principal import Principal

__all__ = ["FairTurns"]


class FairTurns:
    """Turns of a bounded number, and bounded queues for them. Whoever gets one must `release` it.

    Nothing is kept of a principal that has no turn and waits for none.

    Args:
        max_turns: Turns at once.
        max_turns_each: The same, of one principal. Past it, a principal waits though a turn is free.
        max_waiting_each: How many of one principal may wait.

    Attributes:
        taken: Turns taken.
        waiting: How many wait for one.
    """

    __slots__ = ("_held", "_max_turns", "_max_turns_each", "_max_waiting_each", "_ring", "taken", "waiting")

    def __init__(self, *, max_turns: int, max_turns_each: int, max_waiting_each: int) -> None:
        self.taken = 0
        self.waiting = 0
        self._max_turns = max_turns
        self._max_turns_each = max_turns_each
        self._max_waiting_each = max_waiting_each
        self._held: dict[Principal, int] = {}
        # No queue in it is empty, and nobody in it may have a turn that is free: see `_hand_out`.
        self._ring: OrderedDict[Principal, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def principals(self) -> set[Principal]:
        """Who has a turn, or waits for one."""
        return {*self._held, *self._ring}

    async def acquire(self, principal: Principal) -> None:
        """Take a turn, or wait for one. Bound the wait; cancelling it loses neither turn nor order.

        Raises:
            asyncio.QueueFull: As many of this principal wait already as may.
        """
        if self.taken < self._max_turns and self._may_have_one(principal):
            self._take(principal)
            return
        queue = self._ring.get(principal, ())
        if len(queue) >= self._max_waiting_each:
            raise asyncio.QueueFull
        turn = asyncio.get_running_loop().create_future()
        self._ring.setdefault(principal, deque()).append(turn)
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(principal, turn)
            else:
                self._give_back_unused(principal)
            raise

    def release(self, principal: Principal) -> None:
        """Give a turn back."""
        self.taken -= 1
        self._held[principal] -= 1
        if not self._held[principal]:
            del self._held[principal]
        self._hand_out()

    def _may_have_one(self, principal: Principal) -> bool:
        return self._held.get(principal, 0) < self._max_turns_each

    def _take(self, principal: Principal) -> None:
        self.taken += 1
        self._held[principal] = self._held.get(principal, 0) + 1

    def _hand_out(self) -> None:
        """Give every free turn to the next one that may have it."""
        while self.taken < self._max_turns:
            principal = self._next()
            if principal is None:
                return
            turn = self._ring[principal][0]
            self._leave(principal, turn)
            if not turn.cancelled():  # else its waiter does not know yet, and has no use for it
                if principal in self._ring:
                    self._ring.move_to_end(principal)
                self._take(principal)
                turn.set_result(None)

    def _next(self) -> Principal | None:
        """Return the first in the ring that may have a turn: at most those that have some are passed over."""
        return next(filter(self._may_have_one, self._ring), None)

    def _leave(self, principal: Principal, turn: asyncio.Future[None]) -> None:
        """Let somebody wait no longer; the others of the principal keep its place in the ring."""
        queue = self._ring.get(principal)
        if queue is None or turn not in queue:
            return  # it was passed over already
        queue.remove(turn)
        self.waiting -= 1
        if not queue:
            del self._ring[principal]

    def _give_back_unused(self, principal: Principal) -> None:
        if principal in self._ring:
            self._ring.move_to_end(principal, last=False)
        self.release(principal)
