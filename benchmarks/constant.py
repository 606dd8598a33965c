"""The HTTP server that the broker uses, answering a constant: what this edge costs before any work is done.

It reads the whole body, as the broker must, and knows nothing of MCP. It prints its URL when it listens.
Usage: `python -m benchmarks.constant ANSWER`.
"""

import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import uvicorn

# As ASGI declares them: events are open dictionaries.
_Event: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Event]]
_Send: TypeAlias = Callable[[_Event], Awaitable[None]]


class _Constant:
    def __init__(self, answer: bytes) -> None:
        self._start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(answer)).encode()),
            ],
        }
        self._body = {"type": "http.response.body", "body": answer}

    async def __call__(self, scope: _Event, receive: _Receive, send: _Send) -> None:
        assert scope["type"] == "http"
        body: list[bytes] = []
        more = True
        while more:
            event = await receive()
            body.append(event.get("body", b""))
            more = event.get("more_body", False)
        await send(self._start)
        await send(self._body)


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets
        print(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/mcp", flush=True)


def main() -> None:
    """Serve the first argument on a free port of the loopback interface, until SIGTERM."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            _Constant(sys.argv[1].encode()),
            http="httptools",
            loop="uvloop",
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
        )
        _Server(config).run([listener])


if __name__ == "__main__":
    main()
