"""One lease: who shares a child, and what stands behind it."""

import asyncio
import secrets
from typing import NamedTuple

from ..bridge import Changes, Owner
from ..errors import BrokerError
from ..protocol.capabilities import ClientCapabilities
from ..supervisor import Child
from .eras import SharedChildOfEra
from .principal import Principal

__all__ = ["Lease", "LeaseEnded", "LeaseKey", "Tenant"]


class LeaseEnded(BrokerError):
    """We have ended a lease whose child was being started; why, is in the lease."""

    def __init__(self) -> None:
        super().__init__("the lease was ended while its server was being started")


class LeaseKey(NamedTuple):
    """Who can share a child. A tuple, as one is made and looked up for each request.

    Attributes:
        principal: Whose it is.
        fingerprint: What its clients can be asked; None at a modern child, where each request says so.
    """

    principal: Principal
    fingerprint: ClientCapabilities | None


class Lease:
    """A child that is being started, or runs.

    Attributes:
        key: Who shares it.
        name: What it is called in the log.
        generation: From what its child was started; None before that.
        replaces: The lease whose place it takes once its child has started; None if there is none.
        retired: Whether another has taken its place, and it only finishes what it was asked.
        ended: Why we have ended it; None if we have not.
        began: When it was opened (event loop time, seconds).
        last_used: When it was asked for last.
        crashes: How many in a row have ended early whose streams it has taken over.
        started: The child, once it has shown what it is; or why there is none.
        timer: Looks next whether it is idle.
        child: The process, once there is one.
        shared: What its messages go through.
        task: Sees it through.
    """

    def __init__(self, key: LeaseKey, now: float) -> None:
        self.key = key
        self.generation: str | None = None
        self.replaces: Lease | None = None
        self.retired = False
        self.ended: BrokerError | None = None
        self.name = secrets.token_hex(4)
        self.began = self.last_used = now
        self.crashes = 0
        self.started: asyncio.Future[SharedChildOfEra] = asyncio.get_running_loop().create_future()
        # Nobody may be left to hear that it failed.
        self.started.add_done_callback(lambda started: started.exception())
        self.timer: asyncio.TimerHandle | None = None
        self.child: Child | None = None
        self.shared: SharedChildOfEra | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether its child takes requests, or may do so yet."""
        ended = self.shared is not None and self.shared.ending is not None
        return not ended and not (self.child is not None and self.child.stdin.closed)

    @property
    def busy(self) -> bool:
        """Whether a client waits for an answer."""
        return self.shared is None or self.shared.calls > 0


class Tenant:
    """What the leases of one principal have in common."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.changes = Changes()
