"""A stand-in for forgejo-mcp: what a broker can see of the Go program, in the standard library.

The same flags, environment, exit codes, log lines and answers, and above all the same life: two calls to the
forge before the first byte of stdin is read, five workers without any timeout, an end that waits for every
running call. So a hung call survives EOF, SIGTERM and SIGINT, and a hung start survives EOF but not SIGTERM.
Only five of the 141 tools, and only stdio.

Source: forgejo-mcp 2.34.1 (cmd, operation, pkg/log), mcp-go 0.58.0 (server/stdio.go) and the forge SDK 3.0.0,
all read and run; `tests/e2e/test_forgejo.py` holds both programs to one contract.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import NoReturn, TypeAlias
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

VERSION = "v2.34.1"
WORKERS = 5
SPOKEN = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
READ_BYTES = 65536

USAGE = """Usage of forgejo-mcp:
  -d\tdebug mode
  -debug
    \tdebug mode
  -http-port int
    \tPort for streamable HTTP transport mode (default 8080)
  -sse-port int
    \tPort for SSE transport mode (default 8080)
  -t string
    \tTransport type (stdio, sse, or http) (default "stdio")
  -token string
    \tYour personal access token
  -transport string
    \tTransport type (stdio, sse, or http) (default "stdio")
  -url string
    \tForgejo instance URL (required, must start with http:// or https://)
  -user-agent string
    \tUser agent for HTTP requests (default: forgejo-mcp/<version>)
"""
# Every flag and whether it takes a value; `-t` and `-d` are the same as their long forms.
FLAGS = {
    "url": True,
    "token": True,
    "user-agent": True,
    "transport": True,
    "t": True,
    "sse-port": True,
    "http-port": True,
    "debug": False,
    "d": False,
}

# What zap's console encoder writes.
COLOURS = {"INFO": 34, "WARN": 33, "ERROR": 31, "FATAL": 31}
# The frames below an error message, as a build without local paths prints them. They come last: of a failed
# start, the last line that says something is the seventh from the end.
STARTING = ("cmd.Execute cmd/cmd.go:259", "main.main main.go:17", "runtime.main proc.go:290")
CALLING = ("operation.toolFn operation/operation.go:55", "server.toolCallWorker server/stdio.go:463")

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
JsonObject: TypeAlias = "dict[str, Json]"


# --- log ----------------------------------------------------------------------------------------------------


def log(
    level: str, place: str, message: str, fields: JsonObject | None = None, stack: Sequence[str] = ()
) -> None:
    """Write one entry of zap's console log to stderr, with a stack trace from ERROR upwards."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    entry = f"{stamp}\t\x1b[{COLOURS[level]}m{level}\x1b[0m\t{place}\t{message}"
    if fields is not None:
        entry += "\t" + json.dumps(fields)
    for frame in stack:
        function, source = frame.split()
        entry += f"\n{function}\n\tforgejo-mcp/v2@{VERSION}/{source}"
    sys.stderr.write(entry + "\n")
    sys.stderr.flush()


def fatal(place: str, message: str, fields: JsonObject | None = None) -> NoReturn:
    """Log as the last thing and exit as zap's Fatal does."""
    log("FATAL", place, message, fields, STARTING)
    sys.exit(1)


# --- configuration ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What flags and environment say together."""

    url: str
    token: str
    transport: str
    user_agent: str
    debug: bool


def parse_flags(arguments: Sequence[str]) -> dict[str, str]:
    """Parse as Go's `flag` package does: one or two dashes, `-name value` or `-name=value`."""
    found: dict[str, str] = {}
    left = list(arguments)
    while left and left[0].startswith("-") and left[0] not in ("-", "--"):
        name, equals, value = left.pop(0).removeprefix("-").removeprefix("-").partition("=")
        if name in ("h", "help"):
            sys.stderr.write(USAGE)
            sys.exit(0)
        if name not in FLAGS:
            refuse_flags(f"flag provided but not defined: -{name}")
        if FLAGS[name] and not equals:
            if not left:
                refuse_flags(f"flag needs an argument: -{name}")
            value = left.pop(0)
        found[{"t": "transport", "d": "debug"}.get(name, name)] = value if FLAGS[name] else (value or "true")
    return found


def refuse_flags(problem: str) -> NoReturn:
    sys.stderr.write(f"{problem}\n{USAGE}")
    sys.exit(2)


def from_environment(name: str, deprecated: str, place: str) -> str:
    """Return the variable, or its name from the time of Gitea with a warning."""
    if value := os.environ.get(name, ""):
        return value
    if value := os.environ.get(deprecated, ""):
        log(
            "WARN",
            place,
            "Deprecated environment variable used",
            {
                "deprecated_var": deprecated,
                "preferred_var": name,
                "migration_help": f"Please update your configuration to use {name}",
            },
        )
    return value


def load_config(arguments: Sequence[str]) -> Config:
    flags = parse_flags(arguments)
    url = flags.get("url") or from_environment("FORGEJO_URL", "GITEA_HOST", "cmd/cmd.go:117")
    if not url:
        fatal(
            "cmd/cmd.go:126",
            "Missing required configuration",
            {"missing": "url", "help": "Provide URL with -url flag or FORGEJO_URL environment variable"},
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        error = f"URL must start with http:// or https://, got: {parts.scheme}"
        fatal("cmd/cmd.go:137", "Invalid URL configuration", {"url": sanitized(url), "error": error})
    if not parts.netloc:
        fatal(
            "cmd/cmd.go:137",
            "Invalid URL configuration",
            {"url": sanitized(url), "error": "URL must include a host"},
        )
    token = flags.get("token") or from_environment(
        "FORGEJO_ACCESS_TOKEN", "GITEA_ACCESS_TOKEN", "cmd/cmd.go:155"
    )
    user_agent = flags.get("user-agent") or os.environ.get("FORGEJO_USER_AGENT", "")
    debug = "debug" in flags or from_environment("FORGEJO_DEBUG", "GITEA_DEBUG", "cmd/cmd.go:184") == "true"
    return Config(
        url=url,
        token=token,
        transport=flags.get("transport", "stdio"),
        user_agent=user_agent or f"forgejo-mcp/{VERSION}",
        debug=debug,
    )


def sanitized(url: str) -> str:
    """Return the URL as the program logs it: without user and password, and without its query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, query="[redacted]" if parts.query else ""))


# --- the forge ----------------------------------------------------------------------------------------------


class ForgeError(Exception):
    """The forge said no, or could not be reached; the text is what the SDK makes of it."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Forge:
    """The SDK's client: the token on every call, and no timeout on any."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def call(self, method: str, path: str, body: JsonObject | None = None) -> Json:
        """Do one call and return what the JSON body holds.

        Raises:
            ForgeError: Not a 2xx answer, or none.
        """
        base = urlsplit(self.config.url.removesuffix("/"))
        headers = {"User-Agent": self.config.user_agent}
        if self.config.token:
            headers["Authorization"] = f"token {self.config.token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = (http.client.HTTPSConnection if base.scheme == "https" else http.client.HTTPConnection)(
            base.netloc
        )
        try:
            connection.request(
                method,
                f"{base.path}/api/v1{path}",
                body=None if body is None else json.dumps(body),
                headers=headers,
            )
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as exc:
            raise ForgeError(f'{method.title()} "{self.config.url}/api/v1{path}": {exc}') from exc
        finally:
            connection.close()
        if answer.status // 100 != 2:
            raise ForgeError(self._refusal(answer, data, method, path), answer.status)
        found: Json = json.loads(data)
        return found

    @staticmethod
    def _refusal(answer: http.client.HTTPResponse, data: bytes, method: str, path: str) -> str:
        try:
            problem = json.loads(data)
        except ValueError:
            return (
                f"unknown API Error: {answer.status}\nRequest: '/api/v1{path}' with '{method}' method "
                f"and '{data.decode(errors='replace')}' body"
            )
        return str(
            problem.get("message", f"{answer.status} {answer.reason}: {data.decode(errors='replace')}")
        )

    def check_version(self) -> str:
        """Ask for the forge's version and return it.

        Raises:
            ForgeError: As `call`; or the version is older than 1.11, or is none.
        """
        answer = self.call("GET", "/version")
        version = str(answer.get("version", "")) if isinstance(answer, dict) else ""
        numbers = re.match(r"v?(\d+)(?:\.(\d+))?", version)
        if numbers is None:
            raise ForgeError(f"unknown version: {version}")
        if (int(numbers[1]), int(numbers[2] or 0)) < (1, 11):
            raise ForgeError(f"forgejo server at {self.config.url} is older than 1.11.0")
        return version


def test_connection(forge: Forge) -> None:
    """Make the two version calls of a start, or end the program."""
    where: JsonObject = {"url": sanitized(forge.config.url)}
    log("INFO", "operation/operation.go:157", "Testing connection to Forgejo instance", where)
    try:
        try:
            forge.check_version()
        except ForgeError as exc:
            error = {**where, "error": str(exc)}
            log("ERROR", "forgejo/forgejo.go:75", "Failed to create Forgejo client", error, STARTING)
            raise ForgeError(f"create forgejo client: {exc}") from exc
        log(
            "INFO",
            "forgejo/forgejo.go:85",
            "Successfully created Forgejo client",
            {
                **where,
                "token_configured": bool(forge.config.token),
                "user_agent": forge.config.user_agent,
            },
        )
        begun = time.monotonic()
        try:
            version = forge.check_version()
        except ForgeError as exc:
            error = {**where, "duration": time.monotonic() - begun, "error": str(exc)}
            log("ERROR", "forgejo/forgejo.go:116", "Connection verification failed", error, STARTING)
            raise ForgeError(f"failed to connect to Forgejo instance at {forge.config.url}: {exc}") from exc
    except ForgeError as exc:
        error = {**where, "error": str(exc)}
        log("ERROR", "operation/operation.go:161", "Failed to connect to Forgejo instance", error, STARTING)
        fatal("cmd/cmd.go:259", f"Run Forgejo MCP Server Error: connection test failed: {exc}")
    log(
        "INFO",
        "forgejo/forgejo.go:125",
        "Connection verification successful",
        {
            **where,
            "duration": time.monotonic() - begun,
            "server_version": version,
            "response_status": 200,
        },
    )
    log("INFO", "operation/operation.go:167", "Successfully connected to Forgejo instance", where)


# --- tools --------------------------------------------------------------------------------------------------


class ToolFailed(Exception):
    """A tool's Go error: becomes a JSON-RPC error, never `isError`."""


Tool: TypeAlias = Callable[[Forge, JsonObject], Json]
TOOLS: dict[str, tuple[JsonObject, Tool]] = {}


def tool(
    description: str, *, required: Sequence[str] = (), **properties: JsonObject
) -> Callable[[Tool], Tool]:
    """Put a function into the table under its own name."""

    def add(function: Tool) -> Tool:
        TOOLS[function.__name__] = (
            {
                # mcp-go's defaults: forgejo-mcp sets none of them.
                "annotations": {
                    "readOnlyHint": False,
                    "destructiveHint": True,
                    "idempotentHint": False,
                    "openWorldHint": True,
                },
                "description": description,
                "inputSchema": {
                    "properties": dict(properties),
                    "required": list(required),
                    "type": "object",
                },
                "name": function.__name__,
            },
            function,
        )
        return function

    return add


def text(description: str, **more: Json) -> JsonObject:
    return {**more, "description": description, "type": "string"}


def number(description: str, **more: Json) -> JsonObject:
    return {**more, "description": description, "type": "number"}


@tool("Get user info")
def get_my_user_info(forge: Forge, _arguments: JsonObject) -> Json:
    context: JsonObject = {"request_id": secrets.token_hex(8), "operation": "get_my_user_info"}
    name = {**context, "tool": "get_my_user_info"}
    log("INFO", "log/log.go:260", "Starting MCP tool execution", name)
    begun = time.monotonic()
    try:
        user = forge.call("GET", "/user")
    except ForgeError as exc:
        took: JsonObject = {
            "duration": time.monotonic() - begun,
            "status_code": exc.status,
            "error": str(exc),
        }
        where: JsonObject = {**context, "method": "GET", "endpoint": "/user"}
        log("ERROR", "forgejo/forgejo.go:170", "API call failed", {**where, **took}, CALLING)
        log("ERROR", "log/log.go:274", "MCP tool execution failed", {**name, "error": str(exc)}, CALLING)
        raise ToolFailed(f"get user info err: {exc}") from exc
    log("INFO", "log/log.go:265", "MCP tool execution completed successfully", name)
    return user


@tool(
    "List my repos",
    required=("page", "limit"),
    page=number("Page number (1-based)", default=1, minimum=1),
    limit=number("Page size", default=100, minimum=1),
)
def list_my_repos(forge: Forge, arguments: JsonObject) -> Json:
    query = urlencode({"limit": number_of(arguments, "limit", 100), "page": number_of(arguments, "page", 1)})
    try:
        return forge.call("GET", f"/user/repos?{query}")
    except ForgeError as exc:
        raise ToolFailed(f"list my repositories error: {exc}") from exc


@tool(
    "List repo issues",
    required=("owner", "repo"),
    owner=text("Repository owner"),
    repo=text("Repository name"),
    state=text("State (open|closed|all)", default="open"),
    page=number("Page number (1-based)", default=1),
    limit=number("Page size", default=20),
)
def list_repo_issues(forge: Forge, arguments: JsonObject) -> Json:
    if not arguments.get("owner"):
        raise ToolFailed("owner is required")
    if not arguments.get("repo"):
        raise ToolFailed(
            "repo is required; for owner-wide listing across repositories use search_issues instead"
        )
    query = urlencode(
        {
            "limit": number_of(arguments, "limit", 20),
            "page": number_of(arguments, "page", 1),
            "state": str(arguments.get("state", "open")),
            "type": "",
        }
    )
    try:
        return forge.call("GET", f"{issues_path(arguments)}?{query}")
    except ForgeError as exc:
        raise ToolFailed(f"get issues list err: {exc}") from exc


@tool(
    "Create issue",
    required=("owner", "repo", "title"),
    owner=text("Repository owner"),
    repo=text("Repository name"),
    title=text("Title"),
    body=text("Content body"),
)
def create_issue(forge: Forge, arguments: JsonObject) -> Json:
    try:
        return forge.call("POST", issues_path(arguments), new_issue(arguments))
    except ForgeError as exc:
        raise ToolFailed(f"create issue err: {exc}") from exc


@tool("Get MCP server version")
def get_forgejo_mcp_server_version(_forge: Forge, _arguments: JsonObject) -> Json:
    return f"Forgejo MCP Server version: {VERSION}"


def issues_path(arguments: JsonObject) -> str:
    segments = [str(arguments.get(name, "")) for name in ("owner", "repo")]
    for index, segment in enumerate(segments):
        if not segment:
            raise ForgeError(f"path segment [{index}] is empty")
    owner, repo = (quote(segment, safe="") for segment in segments)
    return f"/repos/{owner}/{repo}/issues"


def new_issue(arguments: JsonObject) -> JsonObject:
    title, body = (str(arguments.get(name, "")) for name in ("title", "body"))
    if not title.strip():
        raise ForgeError("title is empty")
    return {"title": title, "body": body}


def number_of(arguments: JsonObject, name: str, default: int) -> int:
    """Return a number that a client may have sent as text; zero and nonsense mean the default."""
    try:
        return int(float(str(arguments.get(name)))) or default
    except ValueError:
        return default


# --- the protocol -------------------------------------------------------------------------------------------


class RpcError(Exception):
    """Becomes a JSON-RPC error with this code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Server:
    """mcp-go's stdio server: one reader, five workers for tool calls, everything else in turn.

    Both queues are unbounded, where the program's holds 100 calls: no test comes near either.
    """

    def __init__(self, forge: Forge) -> None:
        self._forge = forge
        self._write_lock = threading.Lock()
        # A line, the end of the input as None, or the first signal as its number.
        self._inbox: SimpleQueue[bytes | int | None] = SimpleQueue()
        self._tool_calls: SimpleQueue[JsonObject | None] = SimpleQueue()
        self._cancelled = False

    def serve(self) -> bool:
        """Run until the input ends or a signal comes, then wait for every running call.

        Returns:
            Whether a signal ended it.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            # A second signal lands in the queue too, where nobody looks any more: the original swallows it.
            signal.signal(number, lambda received, _frame: self._inbox.put(received))
        # A daemon, since nothing can end its read: it is left behind when the program ends.
        threading.Thread(target=self._read, daemon=True).start()
        workers = [threading.Thread(target=self._work) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        while isinstance(message := self._inbox.get(), bytes):
            self._take(message)
        self._cancelled = message is not None
        for _ in workers:
            self._tool_calls.put(None)
        for worker in workers:
            worker.join()
        return self._cancelled

    def _read(self) -> None:
        # Not through sys.stdin: the interpreter cannot end while a thread waits inside a buffered reader.
        buffer = b""
        while data := os.read(0, READ_BYTES):
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                self._inbox.put(line)
        self._inbox.put(None)

    def _work(self) -> None:
        while (call := self._tool_calls.get()) is not None:
            if self._cancelled:
                return
            self._answer(call)

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            self._send_error(None, RpcError(-32700, "Parse error"))
            return
        if not isinstance(message, dict):
            self._send_error(None, RpcError(-32700, "Failed to parse message"))
        elif message.get("jsonrpc") != "2.0":
            self._send_error(message.get("id"), RpcError(-32600, "Invalid JSON-RPC version"))
        elif message.get("id") is None:
            pass  # a notification; `notifications/cancelled` does not reach the call to the forge
        elif message.get("method") == "tools/call":
            self._tool_calls.put(message)
        else:
            self._answer(message)

    def _answer(self, request: JsonObject) -> None:
        params = request.get("params")
        try:
            result = self._dispatch(
                str(request.get("method", "")), params if isinstance(params, dict) else {}
            )
        except RpcError as exc:
            self._send_error(request["id"], exc)
        else:
            self._send({"jsonrpc": "2.0", "id": request["id"], "result": result})

    def _dispatch(self, method: str, params: JsonObject) -> Json:
        match method:
            case "initialize":
                return self._initialize(params)
            case "ping" | "logging/setLevel":
                return {}
            case "tools/list":
                return {"tools": [TOOLS[name][0] for name in sorted(TOOLS)]}
            case "tools/call":
                return self._call_tool(params)
            case "resources/list":
                return {"resources": []}
            case "resources/templates/list":
                return {
                    "resourceTemplates": [{"uriTemplate": "forgejo://repo/{owner}/{repo}", "name": "repo"}]
                }
            case "prompts/list" | "prompts/get":
                raise RpcError(-32601, "prompts not supported")
        raise RpcError(-32601, f"Method {method} not found")

    @staticmethod
    def _initialize(params: JsonObject) -> Json:
        asked = params.get("protocolVersion")
        return {
            "protocolVersion": asked if asked in SPOKEN else SPOKEN[-1],
            "capabilities": {"logging": {}, "resources": {}, "tools": {"listChanged": True}},
            "serverInfo": {"name": "Forgejo MCP Server", "version": VERSION},
        }

    def _call_tool(self, params: JsonObject) -> Json:
        name, arguments = str(params.get("name", "")), params.get("arguments")
        if name not in TOOLS:
            raise RpcError(-32602, f"tool '{name}' not found: tool not found")
        try:
            result = TOOLS[name][1](self._forge, arguments if isinstance(arguments, dict) else {})
        except ToolFailed as exc:
            log("ERROR", "to/to.go:45", str(exc), stack=CALLING)
            raise RpcError(-32603, str(exc)) from exc
        return {"content": [{"type": "text", "text": json.dumps({"Result": result}, separators=(",", ":"))}]}

    def _send_error(self, request_id: Json, error: RpcError) -> None:
        problem: JsonObject = {"code": error.code, "message": str(error)}
        self._send({"jsonrpc": "2.0", "id": request_id, "error": problem})

    def _send(self, message: JsonObject) -> None:
        line = json.dumps(message, separators=(",", ":"), ensure_ascii=False)
        with self._write_lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def main(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] in ("version", "--version", "-version"):
        sys.stdout.write(f"forgejo-mcp {VERSION}\n")
        return
    # Until the server listens for signals, both end the program as they end any other.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    config = load_config(arguments)
    log("INFO", "cmd/cmd.go:244", f"Starting Forgejo MCP Server {VERSION}")
    log(
        "INFO",
        "cmd/cmd.go:245",
        "Server configuration loaded",
        {
            "url": sanitized(config.url),
            "transport": config.transport,
            "sse-port": 8080,
            "debug": config.debug,
            "token_configured": bool(config.token),
            "user_agent": config.user_agent,
        },
    )
    log("INFO", "operation/operation.go:35", "Registering MCP tools")
    log("INFO", "operation/operation.go:53", "All MCP tools registered successfully")
    forge = Forge(config)
    test_connection(forge)
    if config.transport != "stdio":
        problem = f"invalid transport type: {config.transport}. Must be 'stdio', 'sse', or 'http'"
        fatal("cmd/cmd.go:259", f"Run Forgejo MCP Server Error: {problem}")
    log("INFO", "operation/operation.go:173", "Starting MCP server with stdio transport")
    log("INFO", "operation/operation.go:174", "MCP server ready for stdio communication")
    if Server(forge).serve():
        log("INFO", "cmd/cmd.go:256", "Server shutdown due to context cancellation")
    else:
        log("INFO", "operation/operation.go:181", "MCP stdio server shutdown")


if __name__ == "__main__":
    main(sys.argv[1:])
