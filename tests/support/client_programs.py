"""Programs that use MCP servers, written by others, and one list of steps that all of them take.

A *plan* says which tools of a server to call for each step; a *report* is what the program saw. The programs
are the official SDK for Python, the two for TypeScript (the steps in their language are in
`tests/e2e/node/steps.mjs`), and `mcp-remote`, which a desktop program starts as if it were the server. After
a program has cancelled a call it asks `on_cancelled` to look at the other side, and waits with its connection
open: closing that would cancel, too.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TextIO, TypeAlias

import anyio
import mcp_types as types
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp import Client, StdioServerParameters, stdio_client
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from tests.support.hosts import ANSWER_TIMEOUT, Host, said
from tests.support.node import NODE, npm_folder

__all__ = [
    "Call",
    "McpRemote",
    "Plan",
    "Program",
    "PythonSdk",
    "Report",
    "TypeScriptSdk",
]

SCRIPTS = Path(__file__).parents[1] / "e2e" / "node"
# The longest that a program may take for all steps, its own start included.
PROGRAM_TIMEOUT = 90.0
# How long to wait for an update before the resource is touched again, where a subscription starts unseen.
TOUCH_INTERVAL = 0.5
# A report names every tool of a server.
MAX_LINE_BYTES = 1024 * 1024

OnCancelled: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool to call."""

    name: str
    arguments: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do with one kind of server, in this order; None leaves a step out.

    Attributes:
        calls: Tools that just answer. The first is called again after the cancelled one.
        progress: A tool that reports progress.
        elicitation: A tool that asks the user.
        answer: What the user fills in.
        sampling: A tool that asks the model.
        thought: What the model says.
        uri: The resource to subscribe to.
        touch: A tool that makes the server tell about the resource.
        untouch: A tool that makes it stop, if it would go on.
        cancel: A tool that reports progress, and would run for longer than any test.
    """

    calls: tuple[Call, ...]
    progress: Call | None = None
    elicitation: Call | None = None
    answer: dict[str, str] = field(default_factory=dict)
    sampling: Call | None = None
    thought: str = "anna thinks"
    uri: str | None = None
    touch: Call | None = None
    untouch: Call | None = None
    cancel: Call | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a program saw; empty where the plan has no such step.

    Attributes:
        server: The name that the server gave itself, if the program was told.
        revision: The revision that the program speaks with whatever it is connected to.
        tools: The names of the tools.
        calls: The text of each answer.
        progress: Each step of progress with its total.
        questions: What the user was asked.
        elicitation: What the asking tool made of the answer.
        prompts: What the model was asked.
        sampling: What the asking tool made of the answer.
        updated: The URI that the program was told of.
        cancelled: Whether the call ended because the program had cancelled it.
        afterwards: The text of the answer to a call after that.
    """

    server: str | None
    revision: str
    tools: list[str]
    calls: list[str]
    progress: list[list[float | None]] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    elicitation: str = ""
    prompts: list[str] = field(default_factory=list)
    sampling: str = ""
    updated: str = ""
    cancelled: bool = False
    afterwards: str = ""


class Program(Protocol):
    """Something that can take the steps of a plan."""

    async def run(self, url: str, plan: Plan, on_cancelled: OnCancelled) -> Report:
        """Take every step against the server at the URL.

        Raises:
            TimeoutError: It took longer than `PROGRAM_TIMEOUT`.
        """


@dataclass(frozen=True, slots=True)
class PythonSdk:
    """The official SDK for Python.

    Args:
        mode: `legacy` opens with `initialize`; `auto` asks `server/discover` first; a revision asks nothing.
    """

    mode: str

    async def run(self, url: str, plan: Plan, on_cancelled: OnCancelled) -> Report:
        """Take every step of the plan in this process."""
        host = Host(answer=plan.answer, thought=plan.thought)
        with anyio.fail_after(PROGRAM_TIMEOUT):
            async with host.connect(url, self.mode) as client:
                report = await _take_steps(client, host, plan)
                return await _cancel_a_call(client, plan, report, on_cancelled)


@dataclass(frozen=True, slots=True)
class TypeScriptSdk:
    """One of the official SDKs for TypeScript, in a process of its own.

    Args:
        script: The file in `tests/e2e/node`.
        mode: `legacy` opens with `initialize`; `auto` asks `server/discover` first.
    """

    script: str
    mode: str

    async def run(self, url: str, plan: Plan, on_cancelled: OnCancelled) -> Report:
        """Take every step of the plan; what the process says on stderr goes into a note of the failure."""
        folder = npm_folder()  # may install it, which is nobody's answer to wait for
        with anyio.fail_after(PROGRAM_TIMEOUT):
            async with (
                _kept_stderr() as stderr,
                await anyio.open_process(self._command(url, plan), cwd=folder, stderr=stderr) as process,
            ):
                assert process.stdin is not None
                assert process.stdout is not None
                lines = BufferedByteReceiveStream(process.stdout)
                line = await lines.receive_until(b"\n", MAX_LINE_BYTES)
                if line == b"cancelled":
                    await on_cancelled()
                    await process.stdin.send(b"\n")
                    line = await lines.receive_until(b"\n", MAX_LINE_BYTES)
                assert await process.wait() == 0
        return Report(**json.loads(line))

    def _command(self, url: str, plan: Plan) -> list[str]:
        # From the command line and not from the file: imports are looked for where the script is, and the
        # packages are elsewhere.
        program = [NODE, "--input-type=module", "--eval", (SCRIPTS / self.script).read_text()]
        return [*program, url, json.dumps(asdict(plan)), str(SCRIPTS / "steps.mjs"), self.mode]


@dataclass(frozen=True, slots=True)
class McpRemote:
    """`mcp-remote` as the server of a desktop program that speaks nothing but `initialize` on stdio.

    Args:
        protocol: `legacy` passes everything on; `auto` asks `server/discover`, and translates if answered.
    """

    protocol: str

    async def run(self, url: str, plan: Plan, on_cancelled: OnCancelled) -> Report:
        """Take every step of the plan; what mcp-remote logs goes into a note of the failure."""
        host = Host(answer=plan.answer, thought=plan.thought)
        program = npm_folder() / "node_modules/mcp-remote/dist/proxy.js"
        with anyio.fail_after(PROGRAM_TIMEOUT), tempfile.TemporaryDirectory(prefix="mcp-remote-") as home:
            async with (
                _kept_stderr() as stderr,
                host.connect(stdio_client(self._parameters(program, url, home), errlog=stderr)) as client,
            ):
                if self.protocol == "legacy":
                    report = await _take_steps(client, host, plan)
                    return await _cancel_a_call(client, plan, report, on_cancelled)
                # Translating, it answers `resources/subscribe` before it has opened its listen stream. And it
                # posts `notifications/cancelled` where the revision wants the stream closed, so no server
                # hears of the cancellation before the program ends.
                report = await _take_steps(client, host, plan, touch_again=True)
                report = await _cancel_a_call(client, replace(plan, calls=()), report, _nothing)
            if plan.cancel is not None:
                await on_cancelled()
            return report

    def _parameters(self, program: Path, url: str, home: str) -> StdioServerParameters:
        options = ["--allow-http", "--transport", "http-only", "--protocol", self.protocol]
        # It keeps tokens, logs and locks in the home of its user.
        environment = {"HOME": home, "PATH": os.environ["PATH"]}
        return StdioServerParameters(command=NODE, args=[str(program), url, *options], env=environment)


async def _take_steps(client: Client, host: Host, plan: Plan, *, touch_again: bool = False) -> Report:
    """Take every step but the cancellation, with a client of the Python SDK."""
    report = Report(
        server=client.server_info.name if client.server_info is not None else None,
        revision=client.protocol_version,
        tools=[tool.name for tool in (await client.list_tools()).tools],
        calls=[await _call(client, step) for step in plan.calls],
    )
    if plan.progress is not None:
        report = replace(report, progress=await _progress_of(client, plan.progress))
    if plan.elicitation is not None:
        report = replace(
            report, elicitation=await _call(client, plan.elicitation), questions=list(host.questions)
        )
    if plan.sampling is not None:
        report = replace(report, sampling=await _call(client, plan.sampling), prompts=list(host.prompts))
    if plan.uri is not None:
        report = replace(report, updated=await _watch(client, host, plan, touch_again=touch_again))
    return report


async def _call(client: Client, call: Call) -> str:
    return said(await client.call_tool(call.name, call.arguments))


async def _progress_of(client: Client, call: Call) -> list[list[float | None]]:
    steps: list[list[float | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append([progress, total])

    said(await client.call_tool(call.name, call.arguments, progress_callback=on_progress))
    return steps


async def _watch(client: Client, host: Host, plan: Plan, *, touch_again: bool) -> str:
    """Subscribe in the way of the era, touch the resource, and return the URI that the client was told of."""
    assert plan.uri is not None
    assert plan.touch is not None
    if client.protocol_version in MODERN_PROTOCOL_VERSIONS:
        async with client.listen(resource_subscriptions=[plan.uri]):
            await _call(client, plan.touch)
            updated = await host.wait_until_told(types.ResourceUpdatedNotification)
    else:
        await client.subscribe_resource(plan.uri)
        await _call(client, plan.touch)
        with anyio.fail_after(ANSWER_TIMEOUT):
            # A server that goes on by itself needs no second touch.
            while touch_again and plan.untouch is None and not await _told_within(TOUCH_INTERVAL, host):
                await _call(client, plan.touch)
        updated = await host.wait_until_told(types.ResourceUpdatedNotification)
        await client.unsubscribe_resource(plan.uri)
    if plan.untouch is not None:
        await _call(client, plan.untouch)
    return updated.params.uri


async def _told_within(timeout: float, host: Host) -> bool:
    try:
        await host.wait_until_told(types.ResourceUpdatedNotification, timeout)
    except TimeoutError:
        return False
    return True


async def _cancel_a_call(client: Client, plan: Plan, report: Report, on_cancelled: OnCancelled) -> Report:
    """Cancel a call that has begun, let the caller look at the other side, and call again."""
    if plan.cancel is None:
        return report
    started = anyio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        started.set()

    call = partial(client.call_tool, plan.cancel.name, plan.cancel.arguments, progress_callback=on_progress)
    async with anyio.create_task_group() as calls:
        calls.start_soon(call)
        await started.wait()
        calls.cancel_scope.cancel()
    await on_cancelled()
    afterwards = await _call(client, plan.calls[0]) if plan.calls else ""
    return replace(report, cancelled=calls.cancel_scope.cancelled_caught, afterwards=afterwards)


async def _nothing() -> None:
    """Look at nothing."""


@asynccontextmanager
async def _kept_stderr() -> AsyncIterator[TextIO]:
    """Give a file for the stderr of a program; a failure carries what is in it."""
    with tempfile.TemporaryDirectory(prefix="client-") as folder:
        path = Path(folder) / "stderr"
        with path.open("w") as file:
            try:
                yield file
            except BaseException as exc:
                exc.add_note(f"--- stderr of the client ---\n{path.read_text(errors='replace')[-4000:]}")
                raise
