"""Calls at a legacy child that wait for their client's answers, and the states that resume them.

A state resumes its call once: the call's next questions come with another one.

Source: MCP 2026-07-28, basic/patterns/mrtr, "Server Requirements"; protocol matrix, sections 4.3 and 13.7.
"""

import asyncio
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import LimitReached
from ..protocol.jsonrpc import object_members
from ..protocol.modern import ModernRequest
from ..protocol.to_modern import check_input_responses, check_response
from .owner import Owner
from .seal import Claims, invalid_state
from .settings import Settings

if TYPE_CHECKING:
    from .legacy_call import LegacyCall

__all__ = ["Parking"]


class Parking:
    """The parked calls of one child.

    Args:
        owner: Whose they are. How many may wait is bounded for all of its children together.
        number: Tells the child apart.
        settings: Bounds.
    """

    def __init__(self, owner: Owner, number: int, settings: Settings) -> None:
        self._owner = owner
        self._number = number
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._calls: dict[str, LegacyCall] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator["LegacyCall"]:
        """Iterate over what is parked now."""
        return iter(list(self._calls.values()))

    def add(self, call: "LegacyCall") -> None:
        """Keep a call that waits for answers, if it is not kept yet.

        Raises:
            LimitReached: Too many calls of the owner wait already.
        """
        call.name = call.name or secrets.token_urlsafe(12)
        if call.name in self._calls:
            return
        if self._owner.parked >= self._settings.max_parked:
            raise LimitReached(
                f"{self._settings.max_parked} calls of this user wait for answers already", retry_after=5.0
            )
        self._owner.parked += 1
        self._calls[call.name] = call

    def discard(self, call: "LegacyCall") -> None:
        """Keep it no more."""
        if call.name and self._calls.pop(call.name, None) is not None:
            self._owner.parked -= 1

    def state_of(self, call: "LegacyCall") -> str:
        """Return the state that resumes a parked call."""
        return self._seal(call.digest, call.name, call.round)

    def state_to_repeat(self, call: "LegacyCall") -> str:
        """Return a state with which the request of a call is sent to the child anew."""
        return self._seal(call.digest)

    def find(self, request: ModernRequest) -> "LegacyCall | None":
        """Return the parked call that a request resumes; None if it is to be sent to the child (anew).

        Raises:
            LocalProtocolError: The state is not good (any more), or an answer has not the form it must have.
        """
        if request.request_state is None:
            # Answers to no question of ours, if there are any: the child asks again.
            return None
        responses = request.input_responses or {}
        check_input_responses(responses)
        claims = self._owner.seal.open(
            request.request_state, owner=self._owner.binding, request=request, now=self._loop.time()
        )
        if claims.child != self._number:
            raise invalid_state(request)
        if not claims.call:
            return None
        call = self._calls.get(claims.call)
        if call is None or call.round != claims.round:
            raise invalid_state(request)
        for key, question in call.open.items():
            if key in responses:
                check_response(question.method, object_members(responses[key]) or {})
        return call

    def _seal(self, digest: bytes, name: str = "", round_: int = 0) -> str:
        claims = Claims(self._number, self._loop.time() + self._settings.park_timeout, name, round_)
        return self._owner.seal.seal(claims, owner=self._owner.binding, request=digest)
