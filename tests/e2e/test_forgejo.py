"""forgejo-mcp behind the broker, against a fake Forgejo: one contract for a stand-in and the real program.

The stand-in always runs. The real program runs where `tests/support/forgejo_mcp.py` can get it; elsewhere its
half is skipped with the reason. The first part holds the program alone to what the second part relies on, so
that the stand-in cannot drift from its original.

What Forgejo does with a token that it does not know, by age:

- the oldest count it as none: public routes answer, so the program starts and each of its tools fails;
- that of 2024 (v10): 401 on every route, so the program ends at its first call, with exit status 1;
- the code of 2026: the same, and the refusal quotes the token, which the program then logs.

"Ours" in a docstring is design.md; "forgejo-mcp's" is behaviour that we measured and have to live with.
"""

import asyncio
import contextlib
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest
from mcp import Client
from mcp_types import TextContent

from tests.support.broker_process import BrokerProcess, running_broker
from tests.support.fake_forgejo import FakeForgejo
from tests.support.forgejo_mcp import INSTALL_TIMEOUT, NotAvailable, real_forgejo_mcp
from tests.support.processes import command_of, find_tagged, is_alive, wait_until, wait_until_sync

Command: TypeAlias = tuple[str, ...]
Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
JsonObject: TypeAlias = "dict[str, Json]"

FAKE = Path(__file__).parents[1] / "children" / "fake_forgejo_mcp.py"
ISSUES = "/api/v1/repos/alice/garden/issues"
# So short that a child which waits for its call is killed at once, so long that a polite one is not.
SHORT_GRACES = ("--drain-grace", "0.2", "--eof-grace", "0.2", "--stop-grace", "0.2")
# What the child says on stderr reaches the log here: the most that a log can show.
CHATTY = ("--log-level", "debug")
# How long anything may take that should happen at once, on a machine with other things to do.
AT_ONCE = 20.0

REVISION = "2025-11-25"
INITIALIZE: JsonObject = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": REVISION,
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
INITIALIZED: JsonObject = {"jsonrpc": "2.0", "method": "notifications/initialized"}


@pytest.fixture(
    params=[
        "stand-in",
        # The first test that asks may have to wait for the build.
        pytest.param("real", marks=pytest.mark.timeout(INSTALL_TIMEOUT + 60)),
    ]
)
def command(request: pytest.FixtureRequest) -> Command:
    """Return how to start forgejo-mcp: the stand-in, and the real program where there is one."""
    if request.param == "stand-in":
        return sys.executable, str(FAKE)
    try:
        return (str(real_forgejo_mcp()),)
    except NotAvailable as exc:
        pytest.skip(f"no real forgejo-mcp: {exc}")


@pytest.fixture
def token() -> str:
    """Return a token that nothing else on this machine contains."""
    return secrets.token_hex(20)


@pytest.fixture
def forge(token: str) -> Iterator[FakeForgejo]:
    """Run a forge where the token is that of alice, who may do everything."""
    with FakeForgejo() as forge:
        forge.add_user("alice", token=token, repositories=["garden", "kitchen"])
        yield forge


# --- the program alone --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """A forgejo-mcp on pipes, spoken to line by line."""

    process: subprocess.Popen[bytes]

    def send(self, message: JsonObject) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self) -> JsonObject:
        assert self.process.stdout is not None
        message: JsonObject = json.loads(self.process.stdout.readline())
        return message

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


def environment(forge: FakeForgejo, token: str) -> dict[str, str]:
    return {"FORGEJO_URL": forge.url, "FORGEJO_ACCESS_TOKEN": token}


@contextlib.contextmanager
def started(command: Command, env: dict[str, str]) -> Iterator[Program]:
    """Start the program and leave nothing of it behind."""
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield Program(process)
        finally:
            process.kill()


def run_to_end(command: Command, *flags: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *flags],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=AT_ONCE,
        check=False,
    )


def tool_call(request_id: int, name: str, **arguments: Json) -> JsonObject:
    return {
        "jsonrpc": "2.0",
        "id": request_id,
        "method": "tools/call",
        "params": {"name": name, "arguments": arguments},
    }


@pytest.mark.parametrize(
    ("flags", "env", "exit_status"),
    [
        (["--version"], {}, 0),
        (["-version"], {}, 0),
        (["--no-such-flag"], {}, 2),
        ([], {}, 1),
        ([], {"FORGEJO_URL": "ftp://forge.invalid"}, 1),
        (["--url=forge.invalid"], {}, 1),
        (["-t", "carrier-pigeon"], {"FORGEJO_URL": "http://127.0.0.1:1"}, 1),
    ],
)
def test_the_program_ends_with_its_own_exit_status(
    command: Command, flags: list[str], env: dict[str, str], exit_status: int
) -> None:
    """forgejo-mcp's: 2 for a flag that it does not know, 1 for whatever else is wrong."""
    assert run_to_end(command, *flags, env=env).returncode == exit_status


def test_the_program_calls_the_forge_twice_before_it_reads_its_input(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """forgejo-mcp's: a forge that hangs here means a child that never answers `initialize`."""
    finished = run_to_end(command, env=environment(forge, token))

    assert finished.returncode == 0
    assert [(call.path, call.authorization) for call in forge.calls] == [
        ("/api/v1/version", f"token {token}")
    ] * 2
    assert all((call.user_agent or "").startswith("forgejo-mcp/") for call in forge.calls)
    assert finished.stdout == ""
    assert "\x1b[34mINFO\x1b[0m" in finished.stderr


def test_the_program_takes_the_variables_from_the_time_of_gitea(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """forgejo-mcp's: so an environment must not be inherited by accident."""
    finished = run_to_end(command, env={"GITEA_HOST": forge.url, "GITEA_ACCESS_TOKEN": token})

    assert finished.returncode == 0
    assert [call.authorization for call in forge.calls] == [f"token {token}"] * 2


@pytest.mark.parametrize("version", ["1.9.0", "development"])
def test_the_program_refuses_a_forge_whose_version_it_does_not_know(command: Command, version: str) -> None:
    """forgejo-mcp's SDK: at least 1.11, and a number."""
    with FakeForgejo(version=version) as forge:
        finished = run_to_end(command, env={"FORGEJO_URL": forge.url})

    assert finished.returncode == 1
    assert version in finished.stderr or "1.11.0" in finished.stderr


@pytest.mark.parametrize("echo", [False, True], ids=["refused", "refused-and-quoted"])
def test_the_program_ends_when_the_forge_refuses_its_token(
    command: Command, forge: FakeForgejo, *, echo: bool
) -> None:
    """forgejo-mcp's: exit status 1, the reason above a stack trace of six lines, maybe with the token."""
    forge.strict_auth, forge.echo_bad_token = True, echo

    finished = run_to_end(command, env=environment(forge, "f" * 40))

    assert finished.returncode == 1
    assert "\x1b[31mFATAL\x1b[0m" in "\n".join(finished.stderr.splitlines()[-8:])
    assert ("f" * 40 in finished.stderr) is echo


def test_the_program_answers_what_it_was_asked_before_its_input_ended(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """forgejo-mcp's: it drains at EOF and exits with 0, so a grace after EOF is worth its time."""
    with started(command, environment(forge, token)) as program:
        for message in (INITIALIZE, INITIALIZED, tool_call(1, "get_my_user_info")):
            program.send(message)
        program.close_stdin()

        assert [program.receive()["id"], program.receive()["id"]] == [0, 1]
        assert program.process.wait(AT_ONCE) == 0


def test_the_idle_program_ends_at_sigterm(command: Command, forge: FakeForgejo, token: str) -> None:
    """forgejo-mcp's: exit status 0, as at EOF."""
    with started(command, environment(forge, token)) as program:
        program.send(INITIALIZE)
        program.receive()
        program.process.terminate()

        assert program.process.wait(AT_ONCE) == 0


def test_a_hung_call_survives_eof_and_every_signal_but_sigkill(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """forgejo-mcp's: no timeout on its calls, and its end waits for them. The answer that comes proves it."""
    forge.hang("/api/v1/user")
    with started(command, environment(forge, token)) as program:
        for message in (INITIALIZE, INITIALIZED, tool_call(1, "get_my_user_info")):
            program.send(message)
        assert program.receive()["id"] == 0
        wait_until_sync(lambda: bool(forge.calls_to("/api/v1/user")), AT_ONCE)
        program.close_stdin()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            program.process.send_signal(number)
        forge.release("/api/v1/user")

        assert "alice" in json.dumps(program.receive()["result"])
        assert program.process.wait(AT_ONCE) == 0


def test_a_hung_start_survives_eof_but_not_sigterm(command: Command, forge: FakeForgejo, token: str) -> None:
    """forgejo-mcp's: it listens for signals only once it serves."""
    forge.hang("/api/v1/version")
    with started(command, environment(forge, token)) as program:
        wait_until_sync(lambda: bool(forge.calls_to("/api/v1/version")), AT_ONCE)
        program.close_stdin()
        program.process.terminate()

        assert program.process.wait(AT_ONCE) == -signal.SIGTERM


# --- behind the broker --------------------------------------------------------------------------------------


class Session:
    """A client of the legacy era in its barest form: one POST per message."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url
        self._headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": REVISION}
        self._last_id = 0

    async def open(self) -> None:
        answer = await self.post(INITIALIZE)
        self._headers["Mcp-Session-Id"] = answer.headers["mcp-session-id"]
        (await self.post(INITIALIZED)).raise_for_status()

    async def post(self, message: JsonObject) -> httpx.Response:
        return await self._http.post(self._url, json=message, headers=self._headers)

    async def call(self, name: str, **arguments: Json) -> JsonObject:
        """Call a tool and return the JSON-RPC answer, whatever it is."""
        self._last_id += 1
        return message_in(await self.post(tool_call(self._last_id, name, **arguments)))

    async def result_of(self, name: str, **arguments: Json) -> Json:
        """Call a tool that works and return what forgejo-mcp wraps into text."""
        answer = await self.call(name, **arguments)
        assert "error" not in answer, answer
        wrapped: JsonObject = json.loads(answer["result"]["content"][0]["text"])  # type: ignore[index,call-overload,arg-type]
        return wrapped["Result"]

    async def error_of(self, name: str, **arguments: Json) -> tuple[Json, str]:
        """Call a tool that fails and return code and message."""
        answer = await self.call(name, **arguments)
        error = answer["error"]
        assert isinstance(error, dict), answer
        return error["code"], str(error["message"])

    async def delete(self) -> httpx.Response:
        return await self._http.delete(self._url, headers=self._headers)


def message_in(response: httpx.Response) -> JsonObject:
    """Return the one JSON-RPC message of a response, be it JSON or an event stream."""
    if response.headers["content-type"].startswith("text/event-stream"):
        data = [line.removeprefix("data:") for line in response.text.splitlines() if line.startswith("data:")]
        messages: list[JsonObject] = [json.loads(line) for line in data if line.strip()]
        return next(message for message in messages if "method" not in message)
    message: JsonObject = response.json()
    return message


@contextlib.asynccontextmanager
async def serving(
    command: Command, forge: FakeForgejo, token: str, *, options: Sequence[str] = ()
) -> AsyncIterator[BrokerProcess]:
    """Run a broker that takes the token from its own environment, as its users should."""
    options = ["--env", f"FORGEJO_URL={forge.url}", "--env", "FORGEJO_ACCESS_TOKEN", *options]
    async with running_broker(*command, options=options, env={"FORGEJO_ACCESS_TOKEN": token}) as broker:
        yield broker


@contextlib.asynccontextmanager
async def connected(broker: BrokerProcess) -> AsyncIterator[Session]:
    """Open a session; ending it is the test's business, or the broker's when it stops."""
    async with httpx.AsyncClient(timeout=AT_ONCE, trust_env=False) as http:
        session = Session(http, broker.url)
        await session.open()
        yield session


def children(broker: BrokerProcess, command: Command) -> set[int]:
    """Return the broker's forgejo-mcp processes."""
    line = " ".join(command)
    return {pid for pid in broker.descendants() if is_alive(pid) and command_of(pid) == line}


async def ending_of(broker: BrokerProcess, pid: int) -> JsonObject:
    """Wait for the broker to log the end of a child and return the event."""
    endings: list[JsonObject] = []

    def logged() -> bool:
        events = [json.loads(line) for line in broker.stderr_text().splitlines() if line.endswith("}")]
        endings[:] = [e for e in events if (e["event"], e.get("pid")) == ("child.exited", pid)]
        return bool(endings)

    await wait_until(logged, AT_ONCE, what=f"the end of child {pid}")
    return endings[0]


async def failure_to_start(
    command: Command, forge: FakeForgejo, token: str, *, options: Sequence[str] = ()
) -> tuple[str, str]:
    """Start a broker that cannot work; return how it ended, with its stdout, and its stderr."""
    with pytest.raises(AssertionError, match="exit code") as failure:
        async with serving(command, forge, token, options=options):
            pass
    return str(failure.value), "\n".join(failure.value.__notes__)


async def test_every_session_gets_a_child_that_has_called_the_forge_twice(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """Ours: a session of the legacy era has a child of its own, never a spare one and never two."""
    async with serving(command, forge, token) as broker:
        checked = len(forge.calls_to("/api/v1/version"))
        assert checked >= 2
        assert not children(broker, command)
        async with connected(broker), connected(broker):
            assert len(children(broker, command)) == 2
            assert len(forge.calls_to("/api/v1/version")) == checked + 4
    assert {call.authorization for call in forge.calls} == {f"token {token}"}


async def test_the_tools_and_their_answers_reach_the_official_client(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """Ours: any client, whatever era it prefers; the program itself speaks the legacy one only."""
    async with serving(command, forge, token) as broker, Client(broker.url) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        answer = await client.call_tool("list_my_repos", {"page": 1, "limit": 10})

    assert {
        "create_issue",
        "get_forgejo_mcp_server_version",
        "get_my_user_info",
        "list_my_repos",
        "list_repo_issues",
    } <= tools
    assert isinstance(answer.content[0], TextContent)
    repositories = json.loads(answer.content[0].text)["Result"]
    assert [repository["full_name"] for repository in repositories] == ["alice/garden", "alice/kitchen"]


async def test_an_issue_is_created_by_the_user_of_the_token(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """Ours: the child acts as the user whose token it was given; the forge says who that was."""
    async with serving(command, forge, token) as broker, connected(broker) as session:
        created = await session.result_of(
            "create_issue",
            owner="alice",
            repo="garden",
            title="Water → Pflanzen",
            body="daily\nat \u2028 six",
        )
        listed = await session.result_of("list_repo_issues", owner="alice", repo="garden")

    (issue,) = forge.issues
    assert (issue.author, issue.title, issue.body) == ("alice", "Water → Pflanzen", "daily\nat \u2028 six")
    (call,) = forge.calls_to(ISSUES, method="POST")
    assert call.authorization == f"token {token}"
    assert isinstance(created, dict)
    assert isinstance(listed, list)
    assert [created["number"], len(listed)] == [1, 1]


async def test_what_the_forge_refuses_reaches_the_client_in_the_words_of_the_forge(
    command: Command, forge: FakeForgejo
) -> None:
    """forgejo-mcp's: -32603 with the forge's message. Ours: it crosses untouched."""
    reader = secrets.token_hex(20)
    missing_scope = "token does not have at least one of required scope(s)"
    forge.add_user("bob", token=reader, scopes=["read:issue", "read:user"], repositories=["shed"])
    forge.break_down("/api/v1/user")
    async with serving(command, forge, reader) as broker, connected(broker) as session:
        assert await session.error_of("create_issue", owner="bob", repo="shed", title="Roof") == (
            -32603,
            f"create issue err: {missing_scope}: [write:issue]",
        )
        assert await session.error_of("list_repo_issues", owner="alice", repo="garden") == (
            -32603,
            "get issues list err: The target couldn't be found.",
        )
        assert await session.error_of("list_my_repos", page=1, limit=10) == (
            -32603,
            f"list my repositories error: {missing_scope}: [read:repository]",
        )
        assert await session.error_of("get_my_user_info") == (-32603, "get user info err: ")
        assert await session.error_of("no_such_tool") == (
            -32602,
            "tool 'no_such_tool' not found: tool not found",
        )
    assert not forge.issues


async def test_a_bad_token_at_an_old_forge_fails_call_by_call(command: Command, forge: FakeForgejo) -> None:
    """forgejo-mcp's: an old forge ignores the token where it needs none, so everything starts."""
    async with serving(command, forge, secrets.token_hex(20)) as broker, connected(broker) as session:
        assert await session.error_of("get_my_user_info") == (-32603, "get user info err: token is required")
        version = await session.result_of("get_forgejo_mcp_server_version")

    assert str(version).startswith("Forgejo MCP Server version: ")


@pytest.mark.parametrize("echo", [False, True], ids=["refused", "refused-and-quoted"])
async def test_a_bad_token_at_a_new_forge_stops_the_broker_at_its_start_without_naming_it(
    command: Command, forge: FakeForgejo, *, echo: bool
) -> None:
    """Ours: exit code 1, the child's last words for the operator, and no token in them, whoever quotes it."""
    forge.strict_auth, forge.echo_bad_token = True, echo
    bad = secrets.token_hex(20)

    ended, stderr = await failure_to_start(command, forge, bad)

    assert "exit code 1" in ended
    assert "connection test failed" in stderr
    assert ("access token does not exist" if echo else "user does not exist") in stderr
    assert bad not in ended + stderr


async def test_a_forge_that_hangs_at_the_start_stops_the_broker_after_its_start_timeout(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """Ours: forgejo-mcp would wait for ever, so the broker must not. Exit code 1, and nothing is left."""
    forge.hang("/api/v1/version")

    ended, stderr = await failure_to_start(
        command, forge, token, options=("--start-timeout", "0.5", *SHORT_GRACES)
    )

    assert "exit code 1" in ended
    assert "did not answer `initialize`" in stderr
    assert "Testing connection to Forgejo instance" in stderr
    assert not find_tagged(token)


async def test_a_token_that_is_revoked_while_the_broker_runs_fails_new_sessions_and_stays_out_of_the_log(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """Ours: a child that cannot start is one client's error; nobody reads the token in it or in the log."""
    async with serving(command, forge, token, options=CHATTY) as broker, connected(broker) as session:
        forge.strict_auth = forge.echo_bad_token = True
        forge.revoke(token)

        code, message = await session.error_of("get_my_user_info")
        assert code == -32603
        assert message.startswith("get user info err: access token does not exist [sha: ")
        refused = await session.post(INITIALIZE)
        assert "error" in message_in(refused)
        assert token not in refused.text
        # The session that was open before is as alive as its child.
        await session.result_of("get_forgejo_mcp_server_version")
        assert await broker.stop() == 0
        assert token not in broker.stderr_text()
    assert not find_tagged(token)


async def test_a_child_gets_no_token_but_the_one_that_was_named(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """Ours: an allow-list makes the environment. Else a user without a token would act as the operator."""
    options = ["--env", f"FORGEJO_URL={forge.url}"]
    operators = {"FORGEJO_ACCESS_TOKEN": token, "GITEA_ACCESS_TOKEN": token}
    async with (
        running_broker(*command, options=options, env=operators) as broker,
        connected(broker) as session,
    ):
        assert await session.error_of("get_my_user_info") == (-32603, "get user info err: token is required")

    assert {call.authorization for call in forge.calls} == {None}


async def test_the_token_is_in_no_command_line_and_in_no_log(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """Ours: a token travels in the environment of its own child and nowhere else."""
    async with serving(command, forge, token, options=CHATTY) as broker, connected(broker) as session:
        await session.result_of("get_my_user_info")
        await session.result_of("create_issue", owner="alice", repo="garden", title="Rain")

        holders = find_tagged(token)
        assert {broker.pid, *children(broker, command)} <= holders
        assert [command_of(pid) for pid in holders if token in command_of(pid)] == []
        assert await broker.stop() == 0
        assert token not in broker.stderr_text() + broker.stdout_text()


async def test_a_session_ends_with_its_own_child_only(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """The specification's DELETE; ours: an idle child leaves at EOF, long before the graces are over."""
    options = ("--eof-grace", "30", "--stop-grace", "30")
    async with serving(command, forge, token, options=options) as broker, connected(broker) as first:
        (own,) = children(broker, command)
        async with connected(broker) as second:
            assert len(children(broker, command)) == 2
            (await first.delete()).raise_for_status()
            ending = await ending_of(broker, own)
            assert (ending["exit_code"], ending["phase"]) == (0, "eof")

            await second.result_of("get_my_user_info")
            assert len(children(broker, command)) == 1
            assert (await first.post(tool_call(1, "get_my_user_info"))).status_code == 404


async def test_deleting_a_session_with_a_hung_call_kills_its_child(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """The seed's: SIGKILL is the end of every stop. Ours: the call that hung is answered at once."""
    forge.hang("/api/v1/user")
    async with serving(command, forge, token, options=SHORT_GRACES) as broker, connected(broker) as session:
        (child,) = children(broker, command)
        hung = asyncio.create_task(session.call("get_my_user_info"))
        await wait_until(lambda: bool(forge.calls_to("/api/v1/user")), AT_ONCE)

        (await session.delete()).raise_for_status()

        assert "error" in await asyncio.wait_for(hung, AT_ONCE)
        assert (await ending_of(broker, child))["exit_signal"] == signal.SIGKILL
        assert not children(broker, command)


async def test_a_hung_call_does_not_hold_up_the_calls_beside_it(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """Ours: answers come in the order of the child, which has five workers; nobody waits for the slowest."""
    forge.hang("/api/v1/user")
    async with serving(command, forge, token, options=SHORT_GRACES) as broker, connected(broker) as session:
        hung = asyncio.create_task(session.call("get_my_user_info"))
        await wait_until(lambda: bool(forge.calls_to("/api/v1/user")), AT_ONCE)

        second_page = await session.result_of("list_my_repos", page=2, limit=1)
        assert "alice/kitchen" in json.dumps(second_page)
        assert not hung.done()
        forge.release("/api/v1/user")
        assert "result" in await asyncio.wait_for(hung, AT_ONCE)


async def test_stopping_the_broker_kills_a_child_whose_call_hangs(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """Ours: SIGTERM drains and exits with 0, and nothing of any child is left."""
    forge.hang("/api/v1/user")
    async with serving(command, forge, token, options=SHORT_GRACES) as broker, connected(broker) as session:
        hung = asyncio.create_task(session.call("get_my_user_info"))
        await wait_until(lambda: bool(forge.calls_to("/api/v1/user")), AT_ONCE)

        assert await broker.stop() == 0

        with contextlib.suppress(httpx.HTTPError):
            assert "error" in await asyncio.wait_for(hung, AT_ONCE)
        assert not find_tagged(token)


async def test_stopping_the_broker_kills_a_child_that_hangs_at_its_start(
    command: Command, forge: FakeForgejo, token: str
) -> None:
    """Ours: a child that has not answered `initialize` yet is a child like any other."""
    async with serving(command, forge, token, options=SHORT_GRACES) as broker:
        checked = len(forge.calls_to("/api/v1/version"))
        forge.hang("/api/v1/version")
        async with httpx.AsyncClient(timeout=AT_ONCE, trust_env=False) as http:
            opening = asyncio.create_task(Session(http, broker.url).post(INITIALIZE))
            await wait_until(lambda: len(forge.calls_to("/api/v1/version")) > checked, AT_ONCE)

            assert await broker.stop() == 0

            with contextlib.suppress(httpx.HTTPError):
                assert "error" in message_in(await asyncio.wait_for(opening, AT_ONCE))
        assert not find_tagged(token)
