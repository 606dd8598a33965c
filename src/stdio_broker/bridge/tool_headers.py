"""Which arguments of a child's tools stand in headers too: read of the child, and kept until it changes.

A tool whose list cannot be had validates nothing: no call may fail for that.

Source: MCP 2026-07-28, basic/transports/streamable-http, "Custom Headers from Tool Parameters";
protocol matrix, section 8.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence

import msgspec

from ..errors import BridgeBroken, ChildGone, LocalProtocolError
from ..protocol.jsonrpc import Members
from ..protocol.modern import ModernRequest
from ..protocol.param_headers import ParamHeaders

__all__ = ["ToolHeaders"]

logger = logging.getLogger(__name__)

#: Pages of `tools/list` that are read.
MAX_PAGES = 32

#: Seconds for which a list is believed when it speaks against a call. A modern child tells of a
#: change only to those who listen, so an older list is read again before a call is refused.
FRESH_FOR = 1.0


class ToolHeaders:
    """The headers that the tools of one child ask for.

    Args:
        list_tools: Asks the child for the page of a cursor (None: the first); returns its result.
        spawn: Does something beside the work of a request, which may be cancelled.
        timeout: Seconds that the child has for all pages together.
    """

    def __init__(
        self,
        list_tools: Callable[[msgspec.Raw | None], Awaitable[Members]],
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
        *,
        timeout: float,
    ) -> None:
        self._list_tools = list_tools
        self._spawn = spawn
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reading: _Reading | None = None

    def forget(self) -> None:
        """Note that the list has changed."""
        if self._reading is not None:
            self._reading.outdated = True

    def passes(self, request: ModernRequest, fields: Sequence[tuple[bytes, bytes]]) -> bool:
        """Tell whether `check` would find nothing wrong, as far as is known; False if it has to look."""
        if request.name is None:
            return True
        reading = self._reading
        if reading is None or reading.outdated or not reading.over.is_set():
            return False
        try:
            reading.headers.check(request.name, request.params.get("arguments"), fields, request.id)
        except LocalProtocolError:
            return False
        return True

    async def check(self, request: ModernRequest, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """Refuse a call of a tool whose headers do not say what its arguments say.

        Args:
            request: The call.
            fields: All header fields of its POST; see `ParamHeaders.check`.

        Raises:
            LocalProtocolError: They do not (-32020).
        """
        if request.name is None:
            return  # the child's to refuse
        reading = self._latest()
        try:
            await reading.check(request.name, request, fields)
        except LocalProtocolError:
            if not reading.outdated and self._loop.time() - reading.began < FRESH_FOR:
                raise
            reading.outdated = True
            await self._latest().check(request.name, request, fields)

    def _latest(self) -> "_Reading":
        # One at a time: a child that announces changes without end costs no more than one list.
        if self._reading is None or (self._reading.outdated and self._reading.over.is_set()):
            self._reading = _Reading(self._loop.time())
            task = self._spawn(self._read(self._reading.headers))
            # Not in the work itself: what is cancelled at once does not even begin.
            task.add_done_callback(self._reading.end)
        return self._reading

    async def _read(self, headers: ParamHeaders) -> None:
        cursor: msgspec.Raw | None = None
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(MAX_PAGES):
                    page = await self._list_tools(cursor)
                    headers.add_page(page)
                    cursor = page.get("nextCursor")
                    if cursor is None:
                        break
        except (BridgeBroken, ChildGone, TimeoutError) as exc:
            logger.warning("server.headers_unknown", extra={"problem": type(exc).__name__})


class _Reading:
    """A list of tools, from when it was asked for.

    Attributes:
        began: When that was.
        headers: What it says, as far as it was read.
        over: Set when no more of it will be read.
        outdated: Whether it has changed since.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.headers = ParamHeaders.empty()
        self.over = asyncio.Event()
        self.outdated = False

    def end(self, _task: asyncio.Task[None]) -> None:
        self.over.set()

    async def check(self, tool: str, request: ModernRequest, fields: Sequence[tuple[bytes, bytes]]) -> None:
        await self.over.wait()
        self.headers.check(tool, request.params.get("arguments"), fields, request.id)
