"""The stdio server behind the broker in end-to-end tests: what the conformance suite calls by name.

Names, contents and schemas of the `test_…` fixtures are the suite's: the description of each scenario in
`@modelcontextprotocol/conformance` 0.2.0-alpha.12 states them. The tools of the last section are our own,
under names that no scenario calls. A decorator puts each tool and each prompt into its table, so a fixture
is one function.

Without arguments it speaks stdio. `--http PORT` serves Streamable HTTP through the SDK itself and prints the
URL: what the suite says of that is the most that a broker in front of the same fixtures can reach.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import warnings
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import anyio
import mcp_types as types
import uvicorn
from mcp import MCPDeprecationWarning, MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server

# A red pixel, and two silent samples: the smallest files that are valid.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQIAAACAgA=="
# Between two log messages or two steps of progress: the suite's figure, long enough to be sent by itself.
STEP_INTERVAL = 0.05
# The code of the revisions up to 2025-11-25 (server/resources, "Error Handling").
RESOURCE_NOT_FOUND = -32002

Schema: TypeAlias = dict[str, object]
Context: TypeAlias = ServerRequestContext
ToolAnswer: TypeAlias = str | Sequence[types.ContentBlock]
ToolFunction: TypeAlias = Callable[..., Awaitable[ToolAnswer]]
PromptFunction: TypeAlias = Callable[..., Sequence[types.ContentBlock]]

TOOLS: dict[str, tuple[types.Tool, ToolFunction]] = {}
PROMPTS: dict[str, tuple[types.Prompt, PromptFunction]] = {}
STRING: Schema = {"type": "string"}


class ToolFailed(Exception):
    """What a tool raises to be answered with `isError`."""


def tool(description: str, **properties: Schema) -> Callable[[ToolFunction], ToolFunction]:
    """Offer a function as the tool of its name; every property is a required argument."""
    return tool_with_schema(description, form(**properties))


def tool_with_schema(description: str, schema: Schema) -> Callable[[ToolFunction], ToolFunction]:
    """Offer a function as the tool of its name, with a schema that goes out as it is."""

    def register(function: ToolFunction) -> ToolFunction:
        name = function.__name__
        TOOLS[name] = types.Tool(name=name, description=description, input_schema=schema), function
        return function

    return register


def prompt(description: str, *arguments: str) -> Callable[[PromptFunction], PromptFunction]:
    """Offer a function as the prompt of its name; it returns the contents of the user's messages."""

    def register(function: PromptFunction) -> PromptFunction:
        name = function.__name__
        declared = [
            types.PromptArgument(name=argument, description=f"The argument {argument}", required=True)
            for argument in arguments
        ]
        PROMPTS[name] = types.Prompt(name=name, description=description, arguments=declared), function
        return function

    return register


def form(**properties: Schema) -> Schema:
    """Describe an object of which every property is required."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def text(value: str) -> types.TextContent:
    return types.TextContent(text=value)


def image() -> types.ImageContent:
    return types.ImageContent(data=PNG, mime_type="image/png")


def embedded(uri: str, mime_type: str, value: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(
        resource=types.TextResourceContents(uri=uri, mime_type=mime_type, text=value)
    )


# --- Tools of the suite: contents ---------------------------------------------------------------------------


@tool("One text")
async def test_simple_text(ctx: Context) -> ToolAnswer:
    return "This is a simple text response for testing."


@tool("One picture")
async def test_image_content(ctx: Context) -> ToolAnswer:
    return [image()]


@tool("One sound")
async def test_audio_content(ctx: Context) -> ToolAnswer:
    return [types.AudioContent(data=WAV, mime_type="audio/wav")]


@tool("One embedded resource")
async def test_embedded_resource(ctx: Context) -> ToolAnswer:
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@tool("A text, a picture and a resource")
async def test_multiple_content_types(ctx: Context) -> ToolAnswer:
    resource = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return [text("Multiple content types test:"), image(), resource]


@tool("Always an error of the tool")
async def test_error_handling(ctx: Context) -> ToolAnswer:
    raise ToolFailed("This tool intentionally returns an error for testing")


@tool_with_schema(
    "Tool with JSON Schema 2020-12 features",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": STRING, "city": STRING},
            }
        },
        "properties": {
            "name": STRING,
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": STRING,
            "email": STRING,
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
async def json_schema_2020_12_tool(ctx: Context, **arguments: object) -> ToolAnswer:
    return json.dumps(arguments)


# --- Tools of the suite: what is said before the answer -----------------------------------------------------


@tool("Three log messages, then a text")
async def test_tool_with_logging(ctx: Context) -> ToolAnswer:
    await log(ctx, "Tool execution started")
    await anyio.sleep(STEP_INTERVAL)
    await log(ctx, "Tool processing data")
    await anyio.sleep(STEP_INTERVAL)
    await log(ctx, "Tool execution completed")
    return "Tool with logging executed successfully"


@tool("Progress 0, 50 and 100 of 100, then a text")
async def test_tool_with_progress(ctx: Context) -> ToolAnswer:
    await ctx.session.report_progress(0, 100)
    await anyio.sleep(STEP_INTERVAL)
    await ctx.session.report_progress(50, 100)
    await anyio.sleep(STEP_INTERVAL)
    await ctx.session.report_progress(100, 100)
    return "Tool with progress executed successfully"


@tool("An answer after some time, which a client may fetch by resuming its stream")
async def test_reconnection(ctx: Context) -> ToolAnswer:
    # Only where it serves HTTP itself, with an event store; behind a broker the stream is the broker's.
    if ctx.close_sse_stream is not None:
        await ctx.close_sse_stream()
    await anyio.sleep(STEP_INTERVAL)
    return "Reconnection test completed"


async def log(ctx: Context, message: str) -> None:
    await ctx.session.send_log_message("info", message, related_request_id=ctx.request_id)


# --- Tools of the suite: questions to the client ------------------------------------------------------------


@tool("Ask the client's model", prompt=STRING)
async def test_sampling(ctx: Context, prompt: str) -> ToolAnswer:
    answer = await ctx.session.create_message(
        [types.SamplingMessage(role="user", content=text(prompt))],
        max_tokens=100,
        related_request_id=ctx.request_id,
    )
    said = answer.content.text if isinstance(answer.content, types.TextContent) else repr(answer.content)
    return f"LLM response: {said}"


@tool("Ask the user for a name and an address", message=STRING)
async def test_elicitation(ctx: Context, message: str) -> ToolAnswer:
    schema = form(
        username={"type": "string", "description": "User's response"},
        email={"type": "string", "description": "User's email address"},
    )
    return f"User response: {await ask(ctx, message, schema)}"


@tool("Ask the user, with a default for every primitive type")
async def test_elicitation_sep1034_defaults(ctx: Context) -> ToolAnswer:
    schema = form(
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    return f"Elicitation completed: {await ask(ctx, 'Please check these defaults', schema)}"


@tool("Ask the user, with every shape of a choice")
async def test_elicitation_sep1330_enums(ctx: Context) -> ToolAnswer:
    options: Schema = {"type": "string", "enum": ["option1", "option2", "option3"]}
    titled = [
        {"const": "value1", "title": "First Option"},
        {"const": "value2", "title": "Second Option"},
        {"const": "value3", "title": "Third Option"},
    ]
    schema = form(
        untitledSingle=options,
        titledSingle={"type": "string", "oneOf": titled},
        legacyEnum={
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        untitledMulti={"type": "array", "items": options},
        titledMulti={"type": "array", "items": {"anyOf": titled}},
    )
    return f"Elicitation completed: {await ask(ctx, 'Please choose', schema)}"


async def ask(ctx: Context, message: str, schema: Schema) -> str:
    answer = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return f"action={answer.action}, content={json.dumps(answer.content)}"


# --- Our own tools ------------------------------------------------------------------------------------------

# One process has one client over stdio; over HTTP (the ceiling only) its clients share the set.
SUBSCRIBED: set[str] = set()


@tool("Tell the client that a resource was updated, if it subscribed", uri=STRING)
async def touch_resource(ctx: Context, uri: str) -> ToolAnswer:
    if uri not in SUBSCRIBED:
        return f"nobody subscribed to {uri}"
    await ctx.session.send_resource_updated(uri)
    return f"updated {uri}"


@tool("Tell what this process is and what it was told, as JSON")
async def describe_process(ctx: Context) -> ToolAnswer:
    client = ctx.session.client_params
    facts = {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "protocolVersion": ctx.protocol_version,
        "clientInfo": client and client.client_info.model_dump(by_alias=True, exclude_none=True),
        "clientCapabilities": client and client.capabilities.model_dump(by_alias=True, exclude_none=True),
        # Names only: the values may be secrets, and an answer is printed when a test fails.
        "environment": sorted(os.environ),
    }
    return json.dumps(facts)


@tool("Answer after some seconds; say on stderr when cancelled", seconds={"type": "number"})
async def sleep(ctx: Context, seconds: float) -> ToolAnswer:
    # Tells a test that asked for progress that the call has arrived: from here on it can be cancelled.
    await ctx.session.report_progress(0, seconds)
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        print("sleep cancelled", file=sys.stderr, flush=True)
        raise
    return f"slept {seconds} s"


@tool("A text of so many bytes", bytes={"type": "integer"})
async def blob(ctx: Context, bytes: int) -> ToolAnswer:  # noqa: A002 - the tool's argument is named so
    return "x" * bytes


# --- Resources and prompts ----------------------------------------------------------------------------------

RESOURCES: dict[str, types.TextResourceContents | types.BlobResourceContents] = {
    contents.uri: contents
    for contents in (
        types.TextResourceContents(
            uri="test://static-text",
            mime_type="text/plain",
            text="This is the content of the static text resource.",
        ),
        types.BlobResourceContents(uri="test://static-binary", mime_type="image/png", blob=PNG),
        types.TextResourceContents(uri="test://watched-resource", mime_type="text/plain", text="Watched."),
    )
}
TEMPLATE = types.ResourceTemplate(
    uri_template="test://template/{id}/data",
    name="template",
    description="JSON with the id of the URI",
    mime_type="application/json",
)


@prompt("One text")
def test_simple_prompt() -> Sequence[types.ContentBlock]:
    return [text("This is a simple prompt for testing.")]


@prompt("Two arguments in a text", "arg1", "arg2")
def test_prompt_with_arguments(arg1: str, arg2: str) -> Sequence[types.ContentBlock]:
    return [text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]


@prompt("A resource of the client's choice", "resourceUri")
def test_prompt_with_embedded_resource(resourceUri: str) -> Sequence[types.ContentBlock]:  # noqa: N803 - the suite's
    return [
        embedded(resourceUri, "text/plain", "Embedded resource content for testing."),
        text("Please process the embedded resource above."),
    ]


@prompt("A picture")
def test_prompt_with_image() -> Sequence[types.ContentBlock]:
    return [image(), text("Please analyze the image above.")]


# --- Handlers -----------------------------------------------------------------------------------------------


async def list_tools(ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[declared for declared, _ in TOOLS.values()])


async def call_tool(ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    if params.name not in TOOLS:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    _, function = TOOLS[params.name]
    try:
        answer = await function(ctx, **(params.arguments or {}))
    except ToolFailed as failure:
        return types.CallToolResult(content=[text(str(failure))], is_error=True)
    return types.CallToolResult(content=[text(answer)] if isinstance(answer, str) else list(answer))


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
    contents = RESOURCES.get(params.uri)
    if contents is None:
        match = re.fullmatch("test://template/([^/]+)/data", params.uri)
        if match is None:
            raise MCPError(RESOURCE_NOT_FOUND, "Resource not found", {"uri": params.uri})
        data = {"id": match[1], "templateTest": True, "data": f"Data for ID: {match[1]}"}
        contents = types.TextResourceContents(
            uri=params.uri, mime_type="application/json", text=json.dumps(data)
        )
    return types.ReadResourceResult(contents=[contents])


async def subscribe(ctx: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
    SUBSCRIBED.add(params.uri)
    return types.EmptyResult()


async def unsubscribe(ctx: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    SUBSCRIBED.discard(params.uri)
    return types.EmptyResult()


async def list_prompts(ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=[declared for declared, _ in PROMPTS.values()])


async def get_prompt(ctx: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    if params.name not in PROMPTS:
        raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
    _, function = PROMPTS[params.name]
    contents = function(**(params.arguments or {}))
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


def build() -> Server:
    return Server(
        "conformance-server",
        version="1.0.0",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_resource_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
        on_set_logging_level=set_logging_level,
    )


async def serve_stdio(server: Server) -> None:
    async with stdio_server() as (read_stream, write_stream):
        await server.run(read_stream, write_stream, server.create_initialization_options())


def serve_http(server: Server, port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    # The socket listens already, so a client that reads the line may connect at once.
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="warning")).run([listener])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--http", type=int, metavar="PORT", help="serve Streamable HTTP by itself (0: any free port)"
    )
    options = parser.parse_args()
    # Logging and sampling belong to the revisions served here; that a later one deprecates them is no news.
    warnings.filterwarnings("ignore", category=MCPDeprecationWarning)
    server = build()
    if options.http is None:
        anyio.run(serve_stdio, server)
    else:
        serve_http(server, options.http)


if __name__ == "__main__":
    main()
