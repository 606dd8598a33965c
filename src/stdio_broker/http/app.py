"""The application: which path is served by what.

Each server has an endpoint of its own; they come and go while requests are served. What is not there
looks to somebody who may not use everything like what may not be used.
"""

import dataclasses
from collections.abc import Set as AbstractSet

from ..auth import Authenticator
from ..errors import BrokerError, Forbidden
from ..protocol.jsonrpc import INVALID_REQUEST, error_response
from ..sessions import SessionManager
from .cors import allow_page, answer_preflight, is_preflight
from .endpoint import McpEndpoint
from .faults import JSON
from .gate import Gate, authenticate
from .guards import Refused, check_host, check_origin, host_of
from .readiness import Readiness
from .reports import answer_fault
from .settings import Settings
from .sse_transport import SseTransport
from .wire import HttpRequest

__all__ = ["App"]

TEXT = (b"content-type", b"text/plain")

#: What is told, and logged, of the name of a server that is not there. A name of one that is is no longer.
MAX_NAME_CHARS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class _Mounted:
    sessions: SessionManager
    gate: Gate
    endpoint: McpEndpoint
    sse: SseTransport | None


class App:
    """Route a request: endpoints, and two paths for whoever watches the process.

    `/healthz` says that the process answers; `/readyz` whether new sessions could be opened.

    Args:
        authenticator: Tells who asks.
        settings: Guards and bounds. The path is each server's own.
    """

    def __init__(self, authenticator: Authenticator, settings: Settings) -> None:
        self._authenticator = authenticator
        self._settings = settings
        self._endpoints: dict[str, _Mounted] = {}
        self._sse: dict[str, SseTransport] = {}

    def mount(
        self, sessions: SessionManager, path: str, *, principals: AbstractSet[str] | None = None
    ) -> None:
        """Serve a server from now on, or with another set of principals.

        Args:
            sessions: Of this server.
            path: Where its endpoint is.
            principals: Names of those who may use it; None: everybody who is known.
        """
        mounted = self._endpoints.get(path)
        if mounted is not None and mounted.sessions is sessions:
            # The same transports, which know what is connected to them.
            mounted.gate.principals = principals
            return
        self.unmount(path)
        settings = dataclasses.replace(self._settings, path=path)
        gate = Gate(self._authenticator, sessions.name, principals)
        sse = SseTransport(sessions, settings, gate) if settings.legacy_sse else None
        self._endpoints[path] = _Mounted(sessions, gate, McpEndpoint(sessions, settings, gate), sse)
        if sse is not None:
            self._sse.update(dict.fromkeys(sse.paths, sse))

    def unmount(self, path: str, sessions: SessionManager | None = None) -> None:
        """Serve a server no more. What is being served goes on.

        Args:
            path: Where it is.
            sessions: Which one, if another may be there by now, which stays; None: whichever it is.
        """
        mounted = self._endpoints.get(path)
        if mounted is None or (sessions is not None and mounted.sessions is not sessions):
            return
        del self._endpoints[path]
        if mounted.sse is not None:
            for served in mounted.sse.paths:
                del self._sse[served]

    def __call__(self, request: HttpRequest) -> None:
        """Answer one request (`Application`)."""
        mounted = self._endpoints.get(request.path)
        if mounted is not None:
            mounted.endpoint.serve(request)
        elif (sse := self._sse.get(request.path)) is not None:
            request.go_on(sse.serve(request))
        elif request.path == "/healthz":
            request.answer(200, (TEXT,), b"ok\n")
        elif request.path == "/readyz":
            readiness = self.readiness()
            # A probe may ask by any name; a page whose name was made to point at us hears of no server.
            ours = host_of(request.header(b"host")) in self._settings.allowed_hosts
            request.answer(200 if readiness.ready else 503, (TEXT,), readiness.text(reasons=ours).encode())
        else:
            request.go_on(self._nothing(request))

    def readiness(self) -> Readiness:
        """Return whether new sessions could be opened, and of which servers not."""
        return Readiness.of({mounted.sessions.name: mounted.sessions for mounted in self._endpoints.values()})

    async def _nothing(self, request: HttpRequest) -> None:
        """Answer a request for what is not there, without telling anybody what they may not use."""
        try:
            check_host(request, self._settings.allowed_hosts)
            check_origin(request, self._settings.allowed_hosts, self._settings.allowed_origins)
            allow_page(request)
            if is_preflight(request):
                answer_preflight(request)
                return
            paths = await self._usable_paths(request)
        except (BrokerError, Refused) as exc:
            answer_fault(request, exc, None)
            return
        message = f"nothing is served here; the MCP endpoints are: {', '.join(paths) or 'none now'}"
        request.answer(404, (JSON,), error_response(None, INVALID_REQUEST, message))

    async def _usable_paths(self, request: HttpRequest) -> list[str]:
        """Return the paths of all endpoints that somebody may use who asks for what is not there.

        Raises:
            Unauthenticated: As `Gate.admit`.
            TooManyRequests: As `Gate.admit`.
            Forbidden: There may be a server behind it that they may not use, as far as they can tell.
        """
        access = await authenticate(self._authenticator, request)
        mounted = sorted(self._endpoints.items())
        usable = [path for path, one in mounted if one.gate.lets_through(access)]
        # A path may also be "*".
        folder = f"/{request.path.removeprefix('/').split('/')[0]}/"
        everything = access.servers is None and len(usable) == len(mounted)
        if not everything and not any(path.startswith(folder) for path in usable):
            raise Forbidden(folder.strip("/")[:MAX_NAME_CHARS])
        return usable
