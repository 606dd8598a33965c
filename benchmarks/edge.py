"""The broker's own HTTP server, answering a constant: what this edge costs before any work is done.

As `constant`, which does the same with uvicorn. Usage: `python -m benchmarks.edge ANSWER`.
"""

import asyncio
import signal
import sys

import uvloop

from stdio_broker.http import HttpServer, Settings, bind
from stdio_broker.http.wire import HttpRequest

_HEADERS = ((b"content-type", b"application/json"),)


async def _serve(answer: bytes) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    def app(request: HttpRequest) -> None:
        request.release_body()
        request.answer(200, _HEADERS, answer)

    listener = bind("127.0.0.1", 0)
    async with HttpServer(app, listener, Settings()).serving():
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
        await stop.wait()


def main() -> None:
    """Serve the first argument on a free port of the loopback interface, until SIGTERM."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(sys.argv[1].encode()))


if __name__ == "__main__":
    main()
