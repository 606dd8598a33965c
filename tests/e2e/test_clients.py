"""Clients that others wrote, of both eras, each against servers of both eras with the broker between them.

Eight ways to connect, three kinds of child: every cell takes every step. A client that opens with
`initialize` must not notice that the server knows 2026-07-28 only, nor the other way round. One broker per
kind of child serves all clients, one after the other, as it would in life.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.broker_process import BrokerProcess, running_broker
from tests.support.client_programs import Call, McpRemote, Plan, Program, PythonSdk, Report, TypeScriptSdk
from tests.support.fake_forgejo import FakeForgejo
from tests.support.forgejo_mcp import INSTALL_TIMEOUT, NotAvailable, real_forgejo_mcp
from tests.support.node import NODE, npm_folder
from tests.support.processes import wait_until

CHILDREN = Path(__file__).parents[1] / "children"
FIXTURES = CHILDREN / "conformance_server.py"
FAKE_FORGEJO_MCP = CHILDREN / "fake_forgejo_mcp.py"
EVERYTHING = "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
# How long a child may take to hear of a cancellation.
AT_ONCE = 20.0
# What the fixture says on stderr.
HEARD_OF_IT = "sleep cancelled"
MAX_NOTE_CHARACTERS = 8000

# The newest revision of each era.
LEGACY = "2025-11-25"
MODERN = "2026-07-28"

PROGRAMS: dict[str, Program] = {
    "python-legacy": PythonSdk("legacy"),
    "python-auto": PythonSdk("auto"),
    "python-pinned": PythonSdk(MODERN),
    "typescript-1": TypeScriptSdk("typescript_v1.mjs", "legacy"),
    "typescript-2-legacy": TypeScriptSdk("typescript_v2.mjs", "legacy"),
    "typescript-2-auto": TypeScriptSdk("typescript_v2.mjs", "auto"),
    "mcp-remote-legacy": McpRemote("legacy"),
    "mcp-remote-auto": McpRemote("auto"),
}
# Which revision each speaks to the broker.
SPEAKS = {name: LEGACY if name.endswith(("legacy", "-1")) else MODERN for name in PROGRAMS}

FIXTURE_PLAN = Plan(
    calls=(Call(name="test_simple_text"), Call(name="describe_process")),
    progress=Call(name="test_tool_with_progress"),
    elicitation=Call(name="test_elicitation", arguments={"message": "Who are you?"}),
    answer={"username": "anna", "email": "anna@example.com"},
    sampling=Call(name="test_sampling", arguments={"prompt": "a riddle"}),
    uri="test://watched-resource",
    touch=Call(name="touch_resource", arguments={"uri": "test://watched-resource"}),
    cancel=Call(name="sleep", arguments={"seconds": 600}),
)
EVERYTHING_PLAN = Plan(
    calls=(Call(name="echo", arguments={"message": "grüezi"}),),
    progress=Call(name="trigger-long-running-operation", arguments={"duration": 0.2, "steps": 4}),
    elicitation=Call(name="trigger-elicitation-request"),
    answer={"name": "anna"},
    sampling=Call(name="trigger-sampling-request", arguments={"prompt": "a riddle"}),
    uri="demo://resource/dynamic/text/1",
    # From now on every 5 s, until it is called again.
    touch=Call(name="toggle-subscriber-updates"),
    untouch=Call(name="toggle-subscriber-updates"),
    cancel=Call(name="trigger-long-running-operation", arguments={"duration": 5, "steps": 50}),
)
FORGEJO_PLAN = Plan(
    calls=(Call(name="get_my_user_info"), Call(name="list_my_repos", arguments={"page": 1, "limit": 10})),
)

pytestmark = [
    # Logging and subscribing belong to the older revisions; that a later one deprecates them is no news.
    pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning"),
    # The first of all tests may have to install the npm packages.
    pytest.mark.timeout(300),
]
every_program = pytest.mark.parametrize("name", PROGRAMS)


@dataclass(frozen=True, slots=True)
class Served:
    """A broker, and the file that takes what its children say on stderr."""

    broker: BrokerProcess
    stderr: Path

    def cancellations(self) -> int:
        """Return how often a child has said that it was cancelled."""
        return self.stderr.read_text(errors="replace").count(HEARD_OF_IT)

    @contextlib.contextmanager
    def explaining(self, name: str) -> Iterator[None]:
        """Add to a failure whose it is, and what broker and children have said meanwhile."""
        before = len(self.broker.stderr_text())
        try:
            yield
        except BaseException as exc:
            log = self.broker.stderr_text()[before:]
            exc.add_note(f"--- {name}; stderr of the broker ---\n{log[-MAX_NOTE_CHARACTERS:]}")
            said = self.stderr.read_text(errors="replace")
            exc.add_note(f"--- stderr of its children ---\n{said[-MAX_NOTE_CHARACTERS:]}")
            raise


@contextlib.contextmanager
def served(folder: Path, *command: str) -> Iterator[Served]:
    """Run a broker for longer than the event loop of one test."""
    stderr = folder / "stderr"
    stderr.touch()
    serving = running_broker("sh", "-c", 'exec "$@" 2>>"$0"', str(stderr), *command)
    with asyncio.Runner() as runner:
        broker = runner.run(serving.__aenter__())
        try:
            yield Served(broker, stderr)
        finally:
            runner.run(serving.__aexit__(None, None, None))


@pytest.fixture(scope="module", params=["both", "legacy", "modern"])
def era(request: pytest.FixtureRequest) -> str:
    """Return which eras the child speaks."""
    return str(request.param)


@pytest.fixture(scope="module")
def fixtures(era: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp(era), sys.executable, str(FIXTURES), "--era", era) as found:
        yield found


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    program = str(npm_folder() / EVERYTHING)
    with served(tmp_path_factory.mktemp("everything"), NODE, program, "stdio") as found:
        yield found


async def nothing_to_look_at() -> None:
    """Look at nothing: this server does not say that it was cancelled."""


def revision_seen_by(name: str) -> str:
    # Whatever it speaks to us, it speaks the older one to the program that has started it.
    return LEGACY if name.startswith("mcp-remote") else SPEAKS[name]


def check_name(name: str, report: Report, expected: str) -> None:
    # Who pins a revision has asked nothing that a server answers with its name.
    assert report.server == (None if name == "python-pinned" else expected)


def check_cancellation(name: str, report: Report) -> None:
    assert report.cancelled
    # This one ends before the server hears of it.
    assert report.afterwards == ("" if name == "mcp-remote-auto" else report.calls[0])


@every_program
async def test_every_client_takes_every_step_with_a_child_of_every_era(
    fixtures: Served, era: str, name: str
) -> None:
    """The issue's: any client, any child, questions included; a cancellation gets through to the child."""
    before = fixtures.cancellations()

    async def child_has_heard() -> None:
        await wait_until(lambda: fixtures.cancellations() > before, AT_ONCE, what="the cancelled child")

    with fixtures.explaining(name):
        report = await PROGRAMS[name].run(fixtures.broker.url, FIXTURE_PLAN, child_has_heard)

    check_name(name, report, "conformance-server")
    assert report.revision == revision_seen_by(name)
    assert {"test_simple_text", "test_sampling", "sleep"} <= set(report.tools)
    assert report.calls[0] == "This is a simple text response for testing."
    # A child that speaks both is spoken to as its client speaks: nothing is translated without need.
    spoken = {"both": SPEAKS[name], "legacy": LEGACY, "modern": MODERN}[era]
    assert json.loads(report.calls[1])["protocolVersion"] == spoken
    assert report.progress == [[0, 100], [50, 100], [100, 100]]
    assert report.questions == ["Who are you?"]
    assert report.elicitation == f"User response: action=accept, content={json.dumps(FIXTURE_PLAN.answer)}"
    assert report.prompts == ["a riddle"]
    assert report.sampling.startswith("LLM response: ")
    assert "anna thinks" in report.sampling
    assert report.updated == "test://watched-resource"
    check_cancellation(name, report)


@every_program
async def test_every_client_takes_every_step_with_server_everything(everything: Served, name: str) -> None:
    """The issue's: an unchanged server of the era of `initialize`, and clients of both."""
    with everything.explaining(name):
        report = await PROGRAMS[name].run(everything.broker.url, EVERYTHING_PLAN, nothing_to_look_at)

    check_name(name, report, "mcp-servers/everything")
    assert report.revision == revision_seen_by(name)
    # The server offers the last two to clients who said that they can be asked.
    assert {"echo", "trigger-elicitation-request", "trigger-sampling-request"} <= set(report.tools)
    assert report.calls == ["Echo: grüezi"]
    assert report.progress == [[1, 4], [2, 4], [3, 4], [4, 4]]
    assert len(report.questions) == 1
    assert "- Name: anna" in report.elicitation
    assert len(report.prompts) == 1
    assert "a riddle" in report.prompts[0]
    assert "anna thinks" in report.sampling
    assert report.updated == "demo://resource/dynamic/text/1"
    check_cancellation(name, report)


@pytest.mark.parametrize(
    "which",
    [
        "stand-in",
        # The first test that asks may have to wait for the build.
        pytest.param("real", marks=pytest.mark.timeout(INSTALL_TIMEOUT + 120)),
    ],
)
async def test_every_client_calls_forgejo_mcp(which: str) -> None:
    """The issue's: the real program where it can be had; it asks nothing and reports no progress."""
    command = forgejo_mcp(which)
    token = secrets.token_hex(20)
    with FakeForgejo() as forge:
        forge.add_user("alice", token=token, repositories=["garden", "kitchen"])
        options = ("--env", f"FORGEJO_URL={forge.url}", "--env", "FORGEJO_ACCESS_TOKEN")
        async with running_broker(*command, options=options, env={"FORGEJO_ACCESS_TOKEN": token}) as broker:
            reports = {
                name: await program.run(broker.url, FORGEJO_PLAN, nothing_to_look_at)
                for name, program in PROGRAMS.items()
            }

    assert {name: report.revision for name, report in reports.items()} == {
        name: revision_seen_by(name) for name in PROGRAMS
    }
    for report in reports.values():
        assert {"create_issue", "list_my_repos"} <= set(report.tools)
        user, repositories = (json.loads(text)["Result"] for text in report.calls)
        assert user["login"] == "alice"
        assert [found["full_name"] for found in repositories] == ["alice/garden", "alice/kitchen"]


def forgejo_mcp(which: str) -> tuple[str, ...]:
    """Return how to start the program, or skip the test where there is none."""
    if which == "stand-in":
        return sys.executable, str(FAKE_FORGEJO_MCP)
    try:
        return (str(real_forgejo_mcp()),)
    except NotAvailable as exc:
        pytest.skip(f"no real forgejo-mcp: {exc}")
