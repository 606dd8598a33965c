"""The stdio server behind the broker in end-to-end tests: what the conformance suite calls by name.

Names, contents and schemas of the `test_…` fixtures are the suite's: the description of each scenario in
`@modelcontextprotocol/conformance` 0.2.0-alpha.12 states them. The fixtures are in the files beside this one;
here they become the handlers of a server, and the server is served.

Over stdio it speaks both eras of MCP (the client's first request decides), or with `--era` only one, as a
server that knows no other would: a `legacy` one does not know `server/discover`, a `modern` one refuses
`initialize`. `--http PORT` serves Streamable HTTP through the SDK itself and prints the URL: what the suite
says of that is the most that a broker in front of the same fixtures can reach.

`REQUEST_STATE_KEY` in the environment (32 bytes or more) seals `requestState`; processes that have the same
one can go on with each other's calls. Without it each process has a key of its own.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import mcp_types as types
from anyio.abc import TaskGroup
from mcp import MCPDeprecationWarning, MCPError
from mcp.server import NotificationOptions, Server
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity

# Private, but the SDK is pinned, and it offers no other way to serve 2026-07-28 alone over stdio.
from mcp.server.runner import _serve_modern_stream, serve_dual_era_loop, serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import ListenHandler

# Started by its path, wherever the working directory is: the package of the files beside it is not in sight.
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.children.conformance_questions import InputRequired
from tests.children.conformance_registry import BUS, PROMPTS, TOOLS, Context, ToolAnswer, ToolFailed, text
from tests.children.conformance_resources import RESOURCES, TEMPLATE, contents_of
from tests.children.conformance_tools import SUBSCRIBED

NAME = "conformance-server"
# What does not change may be kept and shared; what is read is the reader's own.
FIXED = CacheHint(ttl_ms=60_000, scope="public")
CACHE_HINTS: Mapping[CacheableMethod, CacheHint] = {
    "server/discover": FIXED,
    "tools/list": FIXED,
    "prompts/list": FIXED,
    "resources/list": FIXED,
    "resources/templates/list": FIXED,
    "resources/read": CacheHint(ttl_ms=1_000, scope="private"),
}


# --- Handlers -----------------------------------------------------------------------------------------------


async def list_tools(ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[declared for declared, _ in TOOLS.values()])


async def call_tool(ctx: Context, params: types.CallToolRequestParams) -> types.Result:
    if params.name not in TOOLS:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    try:
        answer = await run_tool(ctx, params.name, params.arguments or {})
    except ToolFailed as failure:
        return types.CallToolResult(content=[text(str(failure))], is_error=True)
    except InputRequired as end_of_round:
        return end_of_round.result
    if isinstance(answer, types.Result):
        return answer
    return types.CallToolResult(content=[text(answer)] if isinstance(answer, str) else list(answer))


async def run_tool(ctx: Context, name: str, arguments: Mapping[str, object]) -> ToolAnswer:
    declared, function = TOOLS[name]
    if missing := set(declared.input_schema.get("required", ())) - arguments.keys():
        raise ToolFailed(f"missing arguments: {', '.join(sorted(missing))}")
    return await function(ctx, **arguments)


async def list_resources(
    ctx: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourcesResult:
    return types.ListResourcesResult(
        resources=[
            types.Resource(
                uri=uri,
                name=uri.removeprefix("test://"),
                description=f"The fixture {uri}",
                mime_type=contents.mime_type,
            )
            for uri, contents in RESOURCES.items()
        ]
    )


async def list_resource_templates(
    ctx: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    return types.ListResourceTemplatesResult(resource_templates=[TEMPLATE])


async def read_resource(ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    return types.ReadResourceResult(contents=[contents_of(ctx, params.uri)])


async def subscribe(ctx: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
    SUBSCRIBED.add(params.uri)
    return types.EmptyResult()


async def unsubscribe(ctx: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    SUBSCRIBED.discard(params.uri)
    return types.EmptyResult()


async def list_prompts(ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=[declared for declared, _ in PROMPTS.values()])


async def get_prompt(
    ctx: Context, params: types.GetPromptRequestParams
) -> types.GetPromptResult | types.InputRequiredResult:
    if params.name not in PROMPTS:
        raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
    _, function = PROMPTS[params.name]
    try:
        contents = await function(ctx, **(params.arguments or {}))
    except InputRequired as end_of_round:
        return end_of_round.result
    return types.GetPromptResult(
        messages=[types.PromptMessage(role="user", content=content) for content in contents]
    )


async def complete(ctx: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    values = [
        value for value in ("test", "testValue1", "testValue2") if value.startswith(params.argument.value)
    ]
    return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))


async def set_logging_level(ctx: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
    # Every message of the fixtures is `info`, and the suite asks for `debug` or `info`: nothing to filter.
    return types.EmptyResult()


# --- Serving ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def tasks_of_its_own(server: Server[TaskGroup]) -> AsyncIterator[TaskGroup]:
    """Give the server a task group for what outlives a request; it ends with the server."""
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


def build(era: str) -> Server[TaskGroup]:
    server = Server(
        NAME,
        version="1.0.0",
        lifespan=tasks_of_its_own,
        cache_hints=CACHE_HINTS,
        on_list_tools=list_tools,
        on_list_resources=list_resources,
        on_list_resource_templates=list_resource_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
        on_subscriptions_listen=ListenHandler(BUS),
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
        on_set_logging_level=set_logging_level,
    )
    # Not an argument like the others: there a call cannot become a task.
    server.add_request_handler("tools/call", types.CallToolRequestParams, call_tool)
    if era != "legacy":
        # Its tools are offered as it is imported; a server that is older than the extension has none of them.
        from tests.children.conformance_tasks import add_handlers  # noqa: PLC0415

        add_handlers(server)
    key = os.environ.get("REQUEST_STATE_KEY")
    security = RequestStateSecurity(keys=[key]) if key else RequestStateSecurity.ephemeral()
    server.middleware.append(RequestStateBoundary(security, default_audience=NAME))
    return server


async def serve_stdio(server: Server[TaskGroup], era: str) -> None:
    options = server.create_initialization_options(
        NotificationOptions(tools_changed=True, prompts_changed=True),
        extensions={},  # those we have are of 2026-07-28
    )
    async with stdio_server() as (messages, answers), server.lifespan(server) as group:
        if era == "both":
            await serve_dual_era_loop(server, messages, answers, lifespan_state=group, init_options=options)
        elif era == "legacy":
            await serve_loop(server, messages, answers, lifespan_state=group, init_options=options)
        else:
            await _serve_modern_stream(
                server, messages, answers, lifespan_state=group, raise_exceptions=False
            )


def serve_http(server: Server[TaskGroup], port: int) -> None:
    import uvicorn  # noqa: PLC0415 - nearly a tenth of the start of the many that serve stdio

    from tests.children.conformance_events import Events  # noqa: PLC0415 - needed only here

    listener = socket.create_server(("127.0.0.1", port))
    # The socket listens already, so a client that reads the line may connect at once.
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    app = server.streamable_http_app(event_store=Events(), retry_interval=100)
    # h11 strips the spaces around the value of a header field (RFC 9110, section 5.5); httptools keeps some.
    uvicorn.Server(uvicorn.Config(app, http="h11", log_level="warning")).run([listener])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--era", choices=["both", "legacy", "modern"], default="both", help="what it speaks")
    parser.add_argument(
        "--http", type=int, metavar="PORT", help="serve Streamable HTTP by itself (0: any free port)"
    )
    options = parser.parse_args()
    if options.http is not None and options.era != "both":
        parser.error("over HTTP it speaks both eras")
    # Logging and sampling belong to revisions served here; that a later one deprecates them is no news.
    warnings.filterwarnings("ignore", category=MCPDeprecationWarning)
    server = build(options.era)
    if options.http is None:
        anyio.run(serve_stdio, server, options.era)
    else:
        serve_http(server, options.http)


if __name__ == "__main__":
    main()
