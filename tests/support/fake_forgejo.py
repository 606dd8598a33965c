"""A Forgejo for tests: the part of its API that forgejo-mcp uses, on loopback.

Behaves as Forgejo's sources do, down to the words of its refusals: paging headers, one
scope per category and level, a hidden repository that looks missing, and the three ways
in which Forgejo has answered a token that it does not know (`strict_auth`,
`echo_bad_token`). Records every call. Knows nothing of MCP.

Source: Forgejo's routers/api/v1, services/auth and services/auth/method; reference
"identity", sections 3.2 and 6.
"""

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import parse_qs, urlsplit

__all__ = ["Call", "FakeForgejo", "Issue"]

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | bool | None"

ANSWER_TIMEOUT = 60.0
MAX_RESPONSE_ITEMS = 50
MAX_BODY_BYTES = 1024 * 1024
ISSUES = re.compile(r"/api/v1/repos/([^/]+)/([^/]+)/issues")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as it came in."""

    method: str
    path: str
    query: str
    authorization: str | None
    user_agent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One issue that somebody created."""

    number: int
    repository: str
    author: str
    title: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An account: its number, and what belongs to it."""

    number: int
    login: str
    repositories: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a token stands for."""

    user: User
    scopes: frozenset[str]

    def allows(self, level: str, category: str) -> bool:
        """Tell whether the token may do this; writing includes reading."""
        wanted = {"all", f"write:{category}"}
        if level == "read":
            wanted.add(f"read:{category}")
        return bool(wanted & self.scopes)


class Refusal(Exception):
    """End a request with Forgejo's error body."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class FakeForgejo:
    """A forge on a free loopback port, served by threads that `close` ends and joins.

    Attributes:
        strict_auth: A token that the forge does not know is refused on every route, as
            Forgejo does since 2024 (v10) at the latest. Without it the oldest
            behaviour: the token counts as none, so public routes still answer.
        echo_bad_token: The refusal quotes the token, as Forgejo's code of 2026 does.
            Without it: the words used before.

    Args:
        version: What `GET /api/v1/version` says.
    """

    def __init__(self, *, version: str = "16.0.2+gitea-1.22.0") -> None:
        self.strict_auth = False
        self.echo_bad_token = False
        self._version = version
        self._credentials: dict[str, Credential] = {}
        self._users: dict[str, User] = {}
        self._issues: list[Issue] = []
        self._calls: list[Call] = []
        self._lock = threading.Lock()
        self._hung: dict[str, threading.Event] = {}
        self._broken: set[str] = set()
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.02},
            name="fake-forgejo",
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the forge is, without a trailing slash."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call so far, oldest first."""
        with self._lock:
            return tuple(self._calls)

    @property
    def issues(self) -> tuple[Issue, ...]:
        """Every issue so far, oldest first."""
        with self._lock:
            return tuple(self._issues)

    def calls_to(self, path: str, *, method: str = "GET") -> tuple[Call, ...]:
        """Return the calls of one route, oldest first."""
        return tuple(c for c in self.calls if (c.method, c.path) == (method, path))

    def add_user(
        self,
        login: str,
        *,
        token: str,
        scopes: Iterable[str] = ("all",),
        repositories: Iterable[str] = (),
    ) -> None:
        """Create an account with one token and its private repositories, named without owner."""
        user = User(number=len(self._users) + 1, login=login, repositories=tuple(repositories))
        self._users[login] = user
        self._credentials[token] = Credential(user=user, scopes=frozenset(scopes))

    def revoke(self, token: str) -> None:
        """Forget a token, as when its user deletes it."""
        del self._credentials[token]

    def hang(self, path: str) -> None:
        """Leave every call to this path without an answer until `release` or `close`."""
        self._hung[path] = threading.Event()

    def release(self, path: str) -> None:
        """Answer what hangs on this path, and what comes later, again."""
        self._hung.pop(path).set()

    def break_down(self, path: str) -> None:
        """Answer 500 on this path from now on."""
        self._broken.add(path)

    def close(self) -> None:
        """Stop serving, answer what hangs, end every connection, join every thread."""
        self._server.shutdown()
        for event in self._hung.values():
            event.set()
        self._server.end_connections()
        self._server.server_close()
        self._thread.join()

    # What follows is called by the handlers' threads.

    def record(self, call: Call) -> None:
        """Note a call before anything else happens to it."""
        with self._lock:
            self._calls.append(call)

    def answer(self, call: Call, body: bytes) -> tuple[HTTPStatus, Json, dict[str, str]]:
        """Return status, JSON body and additional headers for a call."""
        hung = self._hung.get(call.path)
        if hung is not None:
            hung.wait(ANSWER_TIMEOUT)
        try:
            return self._route(call, self._authenticate(call.authorization), body)
        except Refusal as refusal:
            problem: Json = {
                "message": refusal.message,
                "url": f"{self.url}/api/swagger",
                "errors": [],
            }
            return refusal.status, problem, {}

    def _authenticate(self, authorization: str | None) -> Credential | None:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() not in {"token", "bearer"} or not token:
            return None
        known = self._credentials.get(token)
        if known is None and self.strict_auth:
            raise Refusal(HTTPStatus.UNAUTHORIZED, self._bad_token_message(token))
        return known

    def _bad_token_message(self, token: str) -> str:
        if not self.echo_bad_token:
            return "user does not exist [uid: 0, name: ]"
        # One line for each authentication method that was tried.
        return (
            f'access token does not exist [sha: {token}]\ntask with token "{token}": resource does not exist'
        )

    def _route(
        self, call: Call, who: Credential | None, body: bytes
    ) -> tuple[HTTPStatus, Json, dict[str, str]]:
        if call.path in self._broken:
            # Forgejo hides what went wrong from everybody but administrators.
            raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "")
        if (issues := ISSUES.fullmatch(call.path)) is not None:
            return self._route_issues(call, who, body, owner=issues[1], name=issues[2])
        match call.method, call.path:
            case "GET", "/api/v1/version":
                return HTTPStatus.OK, {"version": self._version}, {}
            case "GET", "/api/v1/settings/api":
                return HTTPStatus.OK, self._api_settings(), {}
            case "GET", "/api/v1/user":
                user = self._require(who, "read", "user").user
                return HTTPStatus.OK, self._describe_user(user), {}
            case "GET", "/api/v1/user/repos":
                self._require(who, "read", "user")
                user = self._require(who, "read", "repository").user
                found: list[Json] = [self._describe(user, r) for r in user.repositories]
                return self._page(call, found)
        raise Refusal(HTTPStatus.NOT_FOUND, "The target couldn't be found.")

    def _route_issues(
        self, call: Call, who: Credential | None, body: bytes, *, owner: str, name: str
    ) -> tuple[HTTPStatus, Json, dict[str, str]]:
        level = "write" if call.method == "POST" else "read"
        # In Forgejo's order: a token's scope first, then whether there is such a
        # repository for this user, and only then whether there is a user at all.
        if who is not None:
            self._require(who, level, "issue")
        if who is None or who.user.login != owner or name not in who.user.repositories:
            raise Refusal(HTTPStatus.NOT_FOUND, "The target couldn't be found.")
        repository = f"{owner}/{name}"
        if call.method == "POST":
            return HTTPStatus.CREATED, self._create_issue(who.user, repository, body), {}
        with self._lock:
            found: list[Json] = [
                self._describe_issue(i) for i in reversed(self._issues) if i.repository == repository
            ]
        return self._page(call, found)

    def _create_issue(self, author: User, repository: str, body: bytes) -> Json:
        try:
            asked = json.loads(body)
            title, text = asked["title"], asked.get("body", "")
        except (ValueError, KeyError) as exc:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "[Title]: Required") from exc
        with self._lock:
            number = 1 + sum(i.repository == repository for i in self._issues)
            issue = Issue(
                number=number,
                repository=repository,
                author=author.login,
                title=title,
                body=text,
            )
            self._issues.append(issue)
        return self._describe_issue(issue)

    @staticmethod
    def _require(who: Credential | None, level: str, category: str) -> Credential:
        if who is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "token is required")
        if not who.allows(level, category):
            raise Refusal(
                HTTPStatus.FORBIDDEN,
                f"token does not have at least one of required scope(s): [{level}:{category}]",
            )
        return who

    def _page(self, call: Call, found: list[Json]) -> tuple[HTTPStatus, Json, dict[str, str]]:
        query = parse_qs(call.query)
        number = max(1, int(query.get("page", ["1"])[0]))
        size = min(int(query.get("limit", ["30"])[0]), MAX_RESPONSE_ITEMS)
        last = max(1, -(-len(found) // size))
        headers = {"X-Total-Count": str(len(found))}
        if number < last:
            base = f"{self.url}{call.path}?limit={size}&page="
            headers["Link"] = f'<{base}{number + 1}>; rel="next",<{base}{last}>; rel="last"'
        return HTTPStatus.OK, found[(number - 1) * size : number * size], headers

    @staticmethod
    def _api_settings() -> Json:
        return {
            "max_response_items": MAX_RESPONSE_ITEMS,
            "default_paging_num": 30,
            "default_git_trees_per_page": 1000,
            "default_max_blob_size": 10485760,
        }

    def _describe_user(self, user: User) -> Json:
        return {
            "id": user.number,
            "login": user.login,
            "full_name": user.login.title(),
            "email": f"{user.login}@noreply.invalid",
            "html_url": f"{self.url}/{user.login}",
            "active": True,
            "created": "2026-01-01T00:00:00Z",
            "visibility": "public",
        }

    def _describe(self, owner: User, name: str) -> Json:
        return {
            "id": owner.number * 1000 + owner.repositories.index(name) + 1,
            "owner": self._describe_user(owner),
            "name": name,
            "full_name": f"{owner.login}/{name}",
            "private": True,
            "html_url": f"{self.url}/{owner.login}/{name}",
            "default_branch": "main",
            "has_issues": True,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
        }

    def _describe_issue(self, issue: Issue) -> Json:
        return {
            "id": issue.number,
            "url": f"{self.url}/api/v1/repos/{issue.repository}/issues/{issue.number}",
            "html_url": f"{self.url}/{issue.repository}/issues/{issue.number}",
            "number": issue.number,
            "user": self._describe_user(self._users[issue.author]),
            "title": issue.title,
            "body": issue.body,
            "labels": [],
            "state": "open",
            "comments": 0,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
        }


class _Server(ThreadingHTTPServer):
    """Joins its threads when closed, and can end their connections first."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, forge: FakeForgejo) -> None:
        self.forge = forge
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def end_connections(self) -> None:
        """Wake the threads that wait for the next request of a kept connection."""
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was quicker


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer goes out in two writes; without this the second waits for the client's ACK.
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        with contextlib.suppress(ConnectionError):  # the client did not wait for its answer
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client did not wait for its answer
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the base class has
        """Say nothing: tests ask `calls`."""

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        length = min(int(self.headers.get("Content-Length", "0")), MAX_BODY_BYTES)
        self._serve(self.rfile.read(length))

    def _serve(self, body: bytes) -> None:
        url = urlsplit(self.path)
        call = Call(
            method=self.command,
            path=url.path,
            query=url.query,
            authorization=self.headers.get("Authorization"),
            user_agent=self.headers.get("User-Agent"),
        )
        self.server.forge.record(call)
        status, answer, headers = self.server.forge.answer(call, body)
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json;charset=utf-8")
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)
