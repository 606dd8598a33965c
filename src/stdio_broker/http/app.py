"""The ASGI application: which path is served by what."""

from ..protocol.jsonrpc import INVALID_REQUEST, error_response
from ..sessions import SessionManager
from .asgi import AsgiRequest, Receive, Scope, Send
from .endpoint import McpEndpoint
from .faults import JSON
from .settings import Settings
from .sse_transport import SseTransport

__all__ = ["App"]


class App:
    """Route a request: the endpoint, and two paths for whoever watches the process.

    `/healthz` says that the process answers; `/readyz` whether a new session could be opened.
    """

    def __init__(self, endpoint: McpEndpoint, sessions: SessionManager, settings: Settings) -> None:
        self._endpoint = endpoint
        self._sessions = sessions
        self._settings = settings
        self._sse = SseTransport(sessions, settings) if settings.legacy_sse else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        request = AsgiRequest(scope, receive, send, write_timeout=self._settings.write_timeout)
        if request.path == self._settings.path:
            await self._endpoint.serve(request)
        elif self._sse is not None and self._sse.serves(request.path):
            await self._sse.serve(request, scope.get("query_string", b""))
        elif request.path == "/healthz":
            await request.answer(200, ((b"content-type", b"text/plain"),), b"ok\n")
        elif request.path == "/readyz":
            await self._ready(request)
        else:
            message = f"nothing is served here; the MCP endpoint is {self._settings.path}"
            await request.answer(404, (JSON,), error_response(None, INVALID_REQUEST, message))

    async def _ready(self, request: AsgiRequest) -> None:
        statistics = self._sessions.statistics()
        if statistics.draining:
            status, text = 503, "shutting down"
        elif statistics.places >= statistics.max_sessions:
            status, text = 503, f"all {statistics.max_sessions} sessions are in use"
        elif statistics.breaker.retry_after > 0:
            # Not whenever the breaker is open: it stays so until somebody tries, and a balancer that
            # sends nobody would keep it so for ever.
            status, text = 503, "the server keeps failing"
        else:
            status, text = 200, "ready"
        await request.answer(status, ((b"content-type", b"text/plain"),), f"{text}\n".encode())
