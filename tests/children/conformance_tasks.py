"""The tasks extension of the conformance fixture server, and its tools (SEP-2663).

A tool of this file becomes a job: the call is answered with a handle at once, and `tasks/get`, `tasks/update`
and `tasks/cancel` reach the job by its id. Jobs live in this process only. Up to 2025-11-25 there is no such
extension: there the methods do not exist, and a tool that must become a job is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from typing import Literal, TypeAlias

import anyio
import mcp_types as types
from mcp import MCPError
from mcp.server import Server
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value

from tests.children.conformance_questions import Answer, ask, chosen, question
from tests.children.conformance_registry import (
    STRING,
    Context,
    Schema,
    ToolAnswer,
    ToolFailed,
    form,
    is_modern,
    refuse_without,
    text,
    tool,
    tool_with_schema,
)

__all__ = ["EXTENSION", "add_handlers"]

EXTENSION = "io.modelcontextprotocol/tasks"
SUPPORTED = types.ClientCapabilities(extensions={EXTENSION: {}})
# Longer than any test; a job is never thrown away before the process ends.
TTL_MS = 600_000
POLL_INTERVAL_MS = 100
# Until a job fails: long enough to be seen working.
FAILING_AFTER = 0.1

Status: TypeAlias = Literal["working", "input_required", "completed", "cancelled", "failed"]


def now() -> str:
    return datetime.now(UTC).isoformat()


@dataclass(slots=True)
class Job:
    """One task: what its tool does, and what its client may know of it."""

    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    status: Status = "working"
    created: str = field(default_factory=now)
    updated: str = field(default_factory=now)
    # What its status adds to the answer of `tasks/get`: `result` or `error`.
    outcome: dict[str, object] = field(default_factory=dict)
    open: types.InputRequests = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    answered: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    async def ask(self, **questions: types.InputRequest) -> dict[str, Answer]:
        """Wait until the client has answered every question with `tasks/update`."""
        # A key must not come again in the life of a task.
        keys = {f"{name}-{secrets.token_hex(4)}": name for name in questions}
        self.open = {key: questions[name] for key, name in keys.items()}
        self.answered = anyio.Event()
        self.change("input_required")
        await self.answered.wait()
        self.change("working")
        return {name: self.answers[key] for key, name in keys.items()}

    def take(self, answers: dict[str, Answer]) -> None:
        """Take the answers to open questions, and no others."""
        for key in self.open.keys() & answers.keys():
            self.answers[key] = answers[key]
            del self.open[key]
        if not self.open:
            self.answered.set()

    def change(self, status: Status, **outcome: object) -> None:
        self.status, self.updated, self.outcome = status, now(), outcome

    async def run(self, work: Callable[[Job], Awaitable[str]]) -> None:
        """Do the work, and keep how it ended."""
        with self.scope:
            try:
                result = content_of(await work(self))
            except ToolFailed as failure:
                # That a tool ran into an error is a result; `failed` is for errors of the protocol.
                self.change("completed", result=content_of(str(failure)) | {"isError": True})
            except MCPError as error:
                self.change("failed", error=error.error.model_dump(exclude_none=True))
            else:
                self.change("completed", result=result)
        if self.scope.cancelled_caught:
            self.change("cancelled")

    def handle(self) -> dict[str, object]:
        """Describe the job without what its status adds."""
        return {
            "taskId": self.id,
            "status": self.status,
            "createdAt": self.created,
            "lastUpdatedAt": self.updated,
            "ttlMs": TTL_MS,
            "pollIntervalMs": POLL_INTERVAL_MS,
        }


JOBS: dict[str, Job] = {}
Work: TypeAlias = Callable[..., Awaitable[str]]


def content_of(words: str) -> dict[str, object]:
    return types.CallToolResult(content=[text(words)]).model_dump(by_alias=True, exclude_none=True)


# --- Tools --------------------------------------------------------------------------------------------------


def job_tool(
    description: str, *, required: bool = True, **properties: Schema
) -> Callable[[Work], Callable[..., Awaitable[ToolAnswer]]]:
    """Offer a function as a tool that becomes a job.

    Args:
        description: What the tool does.
        required: Refuse clients without the extension; else they get the result itself, later.
        properties: The tool's arguments.
    """

    def register(work: Work) -> Callable[..., Awaitable[ToolAnswer]]:
        @wraps(work)
        async def start(ctx: Context, **arguments: object) -> ToolAnswer:
            if required or ctx.session.check_client_capability(SUPPORTED):
                return start_job(ctx, lambda job: work(job, **arguments))
            return await work(Job(), **arguments)

        return tool_with_schema(description, form(**properties))(start)

    return register


def start_job(ctx: Context, work: Callable[[Job], Awaitable[str]]) -> types.Result:
    """Start a job that outlives its request; a client without the extension is refused."""
    refuse_without_extension(ctx)
    job = Job()
    JOBS[job.id] = job
    ctx.lifespan_context.start_soon(job.run, work)
    return Started.model_validate({"resultType": "task", **job.handle()})


class Started(types.Result, extra="allow"):
    """What a call is answered with that became a job."""


@tool("Never a task", name=STRING)
async def greet(ctx: Context, name: str) -> ToolAnswer:
    return f"Hello, {name}!"


@job_tool("Takes some seconds", required=False, seconds={"type": "number"}, label=STRING)
async def slow_compute(job: Job, seconds: float, label: str) -> str:
    await anyio.sleep(seconds)
    return f"{label}: computed for {seconds} s"


@job_tool("Always an error of the tool")
async def failing_job(job: Job) -> str:
    await anyio.sleep(FAILING_AFTER)
    raise ToolFailed("This job intentionally fails")


@job_tool("Always an error of the protocol")
async def protocol_error_job(job: Job) -> str:
    await anyio.sleep(FAILING_AFTER)
    raise MCPError(types.INTERNAL_ERROR, "This job intentionally breaks")


@job_tool("Asks before it deletes; nothing is deleted", filename=STRING)
async def confirm_delete(job: Job, filename: str) -> str:
    answers = await job.ask(confirm=question(f"Delete {filename}?", confirm={"type": "boolean"}))
    return f"confirmed: {chosen(answers['confirm'], 'confirm')}"


@job_tool("Asks two questions at once")
async def multi_input(job: Job) -> str:
    asked = {name: question(f"The {name} name?", name=STRING) for name in ("first", "second")}
    answers = await job.ask(**asked)
    return " and ".join(str(chosen(answer, "name")) for answer in answers.values())


@tool("Asks first, then becomes a task")
async def test_tool_with_task(ctx: Context) -> ToolAnswer:
    refuse_without_extension(ctx)
    answers = await ask(ctx, user_name=question("What is your name?", name=STRING))

    async def work(job: Job) -> str:
        return f"Hello, {chosen(answers['user_name'], 'name')}!"

    return start_job(ctx, work)


# --- Methods ------------------------------------------------------------------------------------------------


class TaskParams(types.RequestParams):
    """The parameters of `tasks/get` and `tasks/cancel`."""

    task_id: str


class TaskUpdateParams(TaskParams):
    """The parameters of `tasks/update`; answers to unknown questions may have any shape."""

    input_responses: dict[str, Answer]


async def get_task(ctx: Context, params: TaskParams) -> dict[str, object]:
    job = known_job(ctx, params)
    questions = {
        key: asked.model_dump(by_alias=True, mode="json", exclude_none=True)
        for key, asked in job.open.items()
    }
    waiting = {"inputRequests": questions} if job.status == "input_required" else {}
    return {"resultType": "complete", **job.handle(), **waiting, **job.outcome}


async def update_task(ctx: Context, params: TaskUpdateParams) -> dict[str, object]:
    known_job(ctx, params).take(params.input_responses)
    return {"resultType": "complete"}


async def cancel_task(ctx: Context, params: TaskParams) -> dict[str, object]:
    # A job that has ended stays as it is.
    known_job(ctx, params).scope.cancel()
    return {"resultType": "complete"}


def known_job(ctx: Context, params: TaskParams) -> Job:
    if not is_modern(ctx):
        raise MCPError(types.METHOD_NOT_FOUND, "Method not found", ctx.method)
    check_header(ctx, params)
    refuse_without_extension(ctx)
    if params.task_id not in JOBS:
        raise MCPError(types.INVALID_PARAMS, f"Unknown task: {params.task_id}")
    return JOBS[params.task_id]


def check_header(ctx: Context, params: TaskParams) -> None:
    """Refuse an HTTP request that says another id in its header (SEP-2663, "Routing Headers").

    The SDK checks the methods that it knows. Over stdio there are no headers: there it is the broker's duty.
    """
    headers = getattr(ctx.request, "headers", None)
    if headers is not None and decode_header_value(headers.get(MCP_NAME_HEADER)) != params.task_id:
        message = f"{MCP_NAME_HEADER} header does not match the request body's 'taskId' parameter"
        raise MCPError(types.HEADER_MISMATCH, message)


def refuse_without_extension(ctx: Context) -> None:
    # Declared in the request or not: an older revision has no such extension.
    if not is_modern(ctx):
        raise MCPError(types.INVALID_PARAMS, "this tool becomes a task, which takes the revision 2026-07-28")
    refuse_without(ctx, SUPPORTED)


def add_handlers(server: Server[anyio.abc.TaskGroup]) -> None:
    """Serve the extension's methods, and say so."""
    server.extensions[EXTENSION] = {}
    server.add_request_handler("tasks/get", TaskParams, get_task)
    server.add_request_handler("tasks/update", TaskUpdateParams, update_task)
    server.add_request_handler("tasks/cancel", TaskParams, cancel_task)
