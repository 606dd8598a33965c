"""The command line, as a user meets it: a process, its exit code, its two outputs, and signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from stdio_broker import __version__
from stdio_broker.cli import main
from stdio_broker.cli.common import loop_factory
from stdio_broker.http import bind
from tests.support.broker_process import BrokerProcess, broker_command, running_broker
from tests.support.edge import CHILD
from tests.support.mcp_client import COMMENT, McpClient, message_in, text_of
from tests.support.processes import children_of, find_tagged, is_alive, wait_until

STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
# What a broker takes that only has to end: the interpreter's own share is most of it.
SOON = 5.0


def to_the_end(
    *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 20.0
) -> subprocess.CompletedProcess[str]:
    """Run `stdio-broker` until it ends by itself."""
    return subprocess.run(
        broker_command(*arguments),
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextlib.asynccontextmanager
async def waiting_call(
    broker: BrokerProcess, **arguments: object
) -> AsyncIterator[tuple[McpClient, asyncio.Task[object]]]:
    """Have a call of the tool `wait` open in a session, and an idle client of the same session."""
    async with McpClient(broker.url) as client, McpClient(broker.url) as idle:
        await client.open()
        idle.session_id = client.session_id
        call = asyncio.create_task(_answer(client, **arguments))
        seen = ""
        while '\\"wait\\"' not in seen:
            seen = await idle.ask("seen")
        yield idle, call
        await call


async def _answer(client: McpClient, **arguments: object) -> object:
    answer = message_in(await client.post(client.tool("wait", **arguments)))
    return text_of(answer) if "result" in answer else answer["error"]["message"]


# Starting.


async def test_the_ready_line_is_the_only_line_on_stdout_and_its_url_works() -> None:
    """design.md, 5: prints one line with the URL when it is ready to serve; logs go to stderr."""
    async with running_broker(*CHILD) as broker:
        line = broker.stdout_text()
        assert re.fullmatch(
            r"stdio-broker: mcp_child\.py \(mcp-child 1\.0, MCP 2025-11-25\) is ready at "
            r"http://127\.0\.0\.1:\d+/mcp\n",
            line,
        )
        async with McpClient(broker.url) as client:
            await client.open()
            assert await client.ask("echo", text="hello") == "hello"
        assert await broker.stop() == 0
        assert broker.stdout_text() == line


async def test_a_name_with_a_line_end_does_not_break_the_ready_line() -> None:
    """design.md, 5: one line; a program given with `-c` names itself by its text."""
    program = Path(CHILD[-1]).read_text()
    async with running_broker(sys.executable, "-I", "-S", "-c", program) as broker:
        assert broker.stdout_text().count("\n") == 1


async def test_the_name_and_the_hints_are_the_operators_choice() -> None:
    """docs/running.md: `--name`, `--hints`; hints go to stderr."""
    async with running_broker(*CHILD, options=["--name", "git", "--hints"]) as broker:
        assert broker.stdout_text().startswith("stdio-broker: git (")
        assert "\n" not in broker.stdout_text().strip()
        await wait_until(lambda: f"claude mcp add --transport http git {broker.url}" in broker.stderr_text())


async def test_the_loopback_address_of_ipv6_works() -> None:
    """Ours: the URL that is printed is one that works."""
    async with running_broker(*CHILD, options=["--host", "::1"]) as broker:
        assert "//[::1]:" in broker.url
        async with McpClient(broker.url) as client:
            await client.open()


def test_run_does_not_pay_for_what_only_other_commands_need() -> None:
    """Ours: the libraries of configuration files and of the database take longer than all the rest."""
    program = "import sys, stdio_broker.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "httptools" in loaded
    assert not loaded & {"pydantic", "sqlalchemy", "alembic", "aiosqlite", "asyncpg", "uvicorn", "starlette"}


def test_version_and_help_tell_what_there_is() -> None:
    """design.md, 5: `--version`, `--help`; every option of `run` is explained."""
    runner = CliRunner()
    version = runner.invoke(main, ["--version"])
    assert (version.exit_code, __version__ in version.output) == (0, True)
    helped = runner.invoke(main, ["run", "--help"])
    assert helped.exit_code == 0
    assert runner.invoke(main, ["run", "-h"]).output == helped.output
    for option in ("--port", "--env", "--host", "--allow-remote", "--drain-grace", "--log-format"):
        assert option in helped.output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        pytest.param(["run"], "COMMAND", id="no command"),
        pytest.param(["run", "--"], "COMMAND", id="no command behind the dashes"),
        pytest.param(["run", "--port", "65536", "--", "x"], "--port", id="no port"),
        pytest.param(["run", "--port", "http", "--", "x"], "--port", id="no number"),
        pytest.param(["run", "--stop-grace", "-1", "--", "x"], "--stop-grace", id="less than nothing"),
        pytest.param(["run", "--start-timeout", "0", "--", "x"], "--start-timeout", id="no time at all"),
        pytest.param(["run", "--max-sessions", "0", "--", "x"], "--max-sessions", id="no session"),
        pytest.param(["run", "--cwd", "/nonexistent", "--", "x"], "--cwd", id="no directory"),
        pytest.param(["run", "--no-such-option", "--", "x"], "--no-such-option", id="no such option"),
        pytest.param(["nonsense"], "nonsense", id="no such command"),
    ],
)
def test_a_mistake_in_the_usage_is_named_with_exit_code_2(arguments: list[str], named: str) -> None:
    """design.md, 5: 2 for usage or configuration."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert named in result.output


def test_every_mistake_in_the_configuration_is_told_at_once_with_exit_code_2() -> None:
    """design.md, 5: every mistake; and nothing is started."""
    done = to_the_end(
        *("run", "--host", "0.0.0.0", "--env", "MISSING_ONE", "--env", "MISSING_TWO"),  # noqa: S104
        *("--allow-origin", "app.example.com", "--", *CHILD),
    )
    assert (done.returncode, done.stdout) == (2, "")
    for named in ("--host 0.0.0.0", "--allow-remote", "MISSING_ONE", "MISSING_TWO", "app.example.com"):
        assert named in done.stderr
    assert len(done.stderr.splitlines()) == 4
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_told_before_anything_is_started() -> None:
    """Ours: exit code 1, one message with a way out, and the server is not started for nothing."""
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        done = to_the_end("run", "--port", port, "--", *CHILD)
    assert (done.returncode, done.stdout) == (1, "")
    (message,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert port in message
    assert "--port" in message
    assert "child.started" not in done.stderr


@pytest.mark.parametrize(
    ("command", "told"),
    [
        pytest.param(["/nonexistent/program"], ["/nonexistent/program"], id="no such file"),
        pytest.param(["no-such-program"], ["no-such-program", "PATH"], id="not on the path"),
        pytest.param(["/etc/passwd"], ["/etc/passwd", "ermission"], id="not executable"),
        pytest.param(["/"], ["'/'"], id="a directory"),
        pytest.param(
            [*CHILD, "exit-at-start=7"], ["code 7", "first complaint", "last complaint"], id="ends at once"
        ),
        pytest.param(
            ["sh", "-c", "echo Usage: nonsense; exit 1"], ["code 1", "Usage: nonsense"], id="prints a text"
        ),
        pytest.param(["sh", "-c", "kill -KILL $$"], ["SIGKILL"], id="is killed"),
        pytest.param(["cat"], ["0.5 s", "--start-timeout"], id="echoes"),
        pytest.param(
            [*CHILD, "silent", "start-stderr=loading"],
            ["0.5 s", "loading", "--start-timeout"],
            id="never answers",
        ),
        pytest.param([*CHILD, "refuse=no such\x1b[2J database"], ["no such database"], id="refuses"),
        pytest.param(
            [*CHILD, "version=1999-01-01"], ["1999-01-01", "2025-11-25"], id="speaks another language"
        ),
    ],
)
def test_a_command_that_is_no_server_ends_with_one_clear_message_and_exit_code_1(
    command: list[str], told: list[str]
) -> None:
    """Ours: what was seen, the last lines of its stderr, what to try; no traceback, nothing left."""
    tag = uuid.uuid4().hex
    done = to_the_end("run", "--port", "0", "--start-timeout", "0.5", "--env", f"TAG={tag}", "--", *command)
    message = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, done.stdout) == (1, "")
    for words in told:
        assert words in "\n".join(message)
    assert message[0].startswith("stdio-broker: ")
    assert sum(line.startswith("stdio-broker: ") for line in message) == 1
    assert "Traceback" not in done.stderr
    assert not find_tagged(tag)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
async def test_closed_standard_files_do_not_matter(closed: str, tmp_path: Path) -> None:
    """Ours: some service managers close them; what is opened next must not take their numbers."""
    log = tmp_path / "log"
    command = broker_command("run", "--port", "0", "--", *CHILD)
    with log.open("wb") as stderr:
        broker = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        await wait_until(lambda: broker.poll() is not None or "broker.ready" in log.read_text(), 20)
        (url,) = re.findall(r"http://[0-9.:]+", log.read_text())
        async with McpClient(f"{url}/mcp") as client:
            await client.open()
        broker.terminate()
        await wait_until(lambda: broker.poll() is not None, SOON)
        assert broker.returncode == 0, log.read_text()
    finally:
        broker.kill()
        broker.wait()


def test_without_uvloop_the_loop_is_asyncios_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """design.md, 6.1: uvloop where installed."""
    assert loop_factory() is not asyncio.new_event_loop
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory() is asyncio.new_event_loop


# The environment and the logs.


async def test_the_server_sees_what_is_named_and_nothing_else_of_ours() -> None:
    """design.md, 6.8: an allow-list; `--env NAME` keeps a secret off the command line."""
    ours = {"NAME": "from outside", "OTHER": "never", "HTTPS_PROXY": "http://never"}
    options = ["--env", "NAME", "--env", "URL=https://git.example/?a=b"]
    async with running_broker(*CHILD, options=options, env=ours) as broker, McpClient(broker.url) as client:
        await client.open()
        environment = json.loads(await client.ask("environment"))
        assert environment["NAME"] == "from outside"
        assert environment["URL"] == "https://git.example/?a=b"
        assert environment["PATH"] == os.environ["PATH"]
        assert not {"OTHER", "HTTPS_PROXY", "COVERAGE_RUN", "PYTEST_CURRENT_TEST"} & environment.keys()


async def test_the_server_runs_where_it_is_told_to(tmp_path: Path) -> None:
    """docs/running.md: `--cwd`."""
    options = ["--cwd", str(tmp_path)]
    async with running_broker(*CHILD, options=options) as broker, McpClient(broker.url) as client:
        await client.open()
        assert await client.ask("directory") == os.path.realpath(tmp_path)


async def test_no_output_shows_a_token_a_message_or_a_session_id() -> None:
    """Style guide, "Logging": never tokens, bodies or environment values; at the most talkative level too."""
    secret, needle = uuid.uuid4().hex, uuid.uuid4().hex
    options = ["--env", "API_TOKEN", "--env", f"PASSWORD={secret}", "--log-level", "debug"]
    env = {"API_TOKEN": secret}
    async with running_broker(*CHILD, options=options, env=env) as broker:
        async with McpClient(broker.url) as client:
            await client.open()
            assert await client.ask("echo", text=needle) == needle
            await client.ask("complain", text=f"the token {secret} is wrong")
            await client.post(f'{{"{needle}'.encode())
            await client.call("die", code=1)
        await broker.stop()
        shown = broker.stdout_text() + broker.stderr_text()
        assert "the token [redacted] is wrong" in shown
        for private in (secret, needle, str(client.session_id)):
            assert private not in shown


def test_a_failed_start_shows_no_token_either() -> None:
    """design.md, 6.8: tokens never appear in errors."""
    secret = uuid.uuid4().hex
    for command in ([*CHILD, f"start-stderr={secret} is wrong", "exit-at-start=1"], ["/nonexistent"]):
        done = to_the_end(
            *("run", "--port", "0", "--env", "API_TOKEN", "--log-level", "debug", "--", *command),
            env={"API_TOKEN": secret},
        )
        assert done.returncode == 1
        assert secret not in done.stdout + done.stderr


async def test_logs_are_json_where_nobody_reads_them_and_tell_the_life_of_every_child() -> None:
    """docs/running.md, "Logs": one object per line, with constant events."""
    async with running_broker(*CHILD) as broker:
        async with McpClient(broker.url) as client:
            await client.open()
            pid = int(await client.ask("pid"))
            await client.delete()
        await broker.stop()
        told = broker.events()
    assert {"level", "time", "logger", "event"} <= set(told[0])
    names = [event["event"] for event in told]
    for name in ("broker.ready", "session.started", "session.ended", "broker.stopping"):
        assert names.count(name) == 1
    # The trial, and the session.
    assert names.count("child.started") == names.count("child.exited") == 2
    (exited,) = [event for event in told if event["event"] == "child.exited" and event["pid"] == pid]
    assert (exited["exit_code"], exited["phase"], exited["level"]) == (0, "eof", "info")


async def test_logs_can_be_for_people() -> None:
    """docs/running.md: `--log-format human`."""
    async with running_broker(*CHILD, options=["--log-format", "human"]) as broker:
        await wait_until(lambda: "child.exited" in broker.stderr_text())
        for line in broker.stderr_text().splitlines():
            assert re.match(r"\d\d:\d\d:\d\d (info|warning) +[a-z_]+\.[a-z_]+ \w+=", line)


async def test_at_the_warning_level_a_good_life_is_silent() -> None:
    """docs/running.md: `--log-level`."""
    async with running_broker(*CHILD, options=["--log-level", "warning"]) as broker:
        async with McpClient(broker.url) as client:
            await client.open()
            await client.delete()
        await broker.stop()
        assert broker.stderr_text() == ""


async def test_what_a_client_does_wrong_is_no_error_of_ours() -> None:
    """Style guide, "Logging": what is no news is not logged as trouble."""
    async with running_broker(*CHILD) as broker:
        async with McpClient(broker.url) as client:
            await client.post(b"nonsense")
            await client.send("PUT")
            await client.open()
            async with client.stream(client.tool("say", count=1)):
                pass  # hangs up in the middle
            async with client.listen() as stream:
                assert await stream.next() == COMMENT
        await broker.stop()
        assert not [event for event in broker.events() if event["level"] == "error"]


# Ending.


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
async def test_a_signal_lets_an_open_call_finish_and_ends_everything(number: signal.Signals) -> None:
    """design.md, 5: Ctrl-C and SIGTERM drain and exit 0; SIGHUP too: a closed terminal leaves nothing."""
    tag = uuid.uuid4().hex
    async with running_broker(*CHILD, options=["--env", f"TAG={tag}"]) as broker:
        async with waiting_call(broker, seconds=1.0) as (idle, call), idle.listen() as stream:
            assert await stream.next() == COMMENT
            broker.signal(number)
            assert await call == "waited"
            assert await stream.rest() == []
        assert await broker.wait(SOON) == 0
        assert not find_tagged(tag)


async def test_a_call_that_does_not_finish_within_the_grace_gets_an_error() -> None:
    """Ours: `--drain-grace` bounds the politeness; the client is told, not hung up on."""
    async with running_broker(*CHILD, options=["--drain-grace", "0.3"]) as broker:
        async with waiting_call(broker) as (_, call):
            broker.signal(signal.SIGTERM)
            assert "shutting down" in str(await call)
        assert await broker.wait(SOON) == 0


async def test_while_an_open_call_finishes_nothing_new_begins() -> None:
    """errors.Draining: 503 with Retry-After for new sessions and new calls."""
    async with running_broker(*CHILD) as broker, waiting_call(broker) as (idle, call):
        broker.signal(signal.SIGTERM)
        await wait_until(lambda: "broker.stopping" in broker.stderr_text())
        async with McpClient(broker.url) as newcomer:
            for answer in (await newcomer.initialize(), await idle.post(idle.tool("echo", text="x"))):
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1
        assert (await idle.notify("notifications/test/release")).status_code == 202
        assert await call == "released"
        assert await broker.wait(SOON) == 0


async def test_an_idle_broker_ends_at_once() -> None:
    """design.md, 7: no grace is waited for in vain."""
    async with running_broker(*CHILD) as broker, McpClient(broker.url) as client:
        await client.open()
        async with client.listen() as stream:
            assert await stream.next() == COMMENT
            started = time.monotonic()
            assert await broker.stop() == 0
            assert time.monotonic() - started < 2.0


async def test_a_second_signal_hurries_the_calls() -> None:
    """design.md, 5: a second one hurries, and the exit code is 0 still."""
    async with running_broker(*CHILD, options=["--drain-grace", "50"]) as broker:
        async with waiting_call(broker) as (_, call):
            broker.signal(signal.SIGTERM)
            await wait_until(lambda: "broker.stopping" in broker.stderr_text())
            broker.signal(signal.SIGTERM)
            assert "shutting down" in str(await call)
        assert await broker.wait(SOON) == 0


async def test_a_second_signal_hurries_the_children() -> None:
    """design.md, 5: whatever they ignore."""
    tag = uuid.uuid4().hex
    options = ["--eof-grace", "0.05", "--stop-grace", "50", "--env", f"TAG={tag}"]
    async with running_broker(*CHILD, options=options) as broker:
        async with McpClient(broker.url) as client:
            await client.open()
            await client.ask("turn_stubborn")  # not before, or the trial would take as long
            broker.signal(signal.SIGINT)
            await wait_until(lambda: "session.ended" in broker.stderr_text())
            assert find_tagged(tag)
            broker.signal(signal.SIGINT)
            assert await broker.wait(SOON) == 0
        assert not find_tagged(tag)


@pytest.mark.parametrize("modes", [("silent",), ("silent", "ignore-eof", "ignore-sigterm")])
async def test_a_signal_during_the_trial_of_the_server_ends_it(modes: tuple[str, ...]) -> None:
    """Ours: exit code 0, nothing on stdout, nothing left; a second signal hurries here too."""
    tag = uuid.uuid4().hex
    options = ("--port", "0", "--env", f"TAG={tag}", "--eof-grace", "50", "--stop-grace", "50")
    broker = subprocess.Popen(
        broker_command("run", *options, "--", *CHILD, *modes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        await wait_until(lambda: bool(children_of(broker.pid)), 20)
        broker.send_signal(signal.SIGTERM)
        if len(modes) > 1:
            # Another number: the kernel would make one of two equal ones that are both pending.
            broker.send_signal(signal.SIGINT)
        stdout, stderr = await asyncio.to_thread(broker.communicate, timeout=SOON)
    finally:
        broker.kill()
        broker.wait()
    assert (broker.returncode, stdout) == (0, b""), stderr
    assert b"Traceback" not in stderr
    assert not find_tagged(tag)


async def test_a_broker_under_nohup_outlives_its_terminal() -> None:
    """POSIX, nohup: SIGHUP is ignored; a handler of ours would undo what the user asked for."""
    async with started_by("trap '' HUP") as broker:
        broker.send_signal(signal.SIGHUP)
        # The signals are handled in order, so a broker that took the first one would say so twice.
        broker.send_signal(signal.SIGTERM)
        _, stderr = await asyncio.to_thread(broker.communicate, timeout=SOON)
        assert broker.returncode == 0
        assert b"broker.hurrying" not in stderr


async def test_signals_that_are_ignored_at_the_start_stop_children_all_the_same() -> None:
    """supervision.md: an ignored signal stays ignored across exec, and SIGTERM could not stop a child."""
    async with started_by(
        "trap '' TERM INT HUP PIPE CHLD", "ignore-eof", options=["--eof-grace", "0.05"]
    ) as broker:
        broker.send_signal(signal.SIGINT)
        _, stderr = await asyncio.to_thread(broker.communicate, timeout=SOON)
        assert b'"phase": "term"' in stderr


@contextlib.asynccontextmanager
async def started_by(
    shell: str, *modes: str, options: list[str] | None = None
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run a broker that inherits what a shell has done before; it must be ended in the block."""
    command = broker_command("run", "--port", "0", *(options or []), "--", *CHILD, *modes)
    broker = subprocess.Popen(
        ["sh", "-c", f'{shell}; exec "$@"', "sh", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert broker.stdout is not None
    try:
        await asyncio.to_thread(broker.stdout.readline)
        yield broker
    finally:
        broker.kill()
        broker.communicate()


async def test_a_killed_child_does_not_take_the_broker_with_it() -> None:
    """Ours: one session's trouble is its own."""
    async with running_broker(*CHILD) as broker, McpClient(broker.url) as client:
        await client.open()
        pid = int(await client.ask("pid"))
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: not is_alive(pid) and not broker.descendants())
        assert int(await client.ask("pid")) != pid  # the session has another one
