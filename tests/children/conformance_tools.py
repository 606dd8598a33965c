"""Tools of the conformance fixture server that ask nothing: the suite's, and at the end our own."""

from __future__ import annotations

import json
import os
import sys

import anyio
import mcp_types as types
from mcp.shared.subscriptions import PromptsListChanged, ResourceUpdated, ToolsListChanged

from tests.children.conformance_registry import (
    STRING,
    Context,
    ToolAnswer,
    ToolFailed,
    announce,
    embedded,
    image,
    is_modern,
    text,
    tool,
    tool_with_schema,
)

__all__ = ["SUBSCRIBED"]

# Two silent samples: the smallest sound that is valid.
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQIAAACAgA=="
# Between two log messages or two steps of progress: the suite's figure, long enough to be sent by itself.
STEP_INTERVAL = 0.05
# URIs of `resources/subscribe`. One process has one client over stdio; over HTTP (the ceiling only) its
# clients share the set.
SUBSCRIBED: set[str] = set()


# --- Contents -----------------------------------------------------------------------------------------------


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


@tool("An argument that HTTP clients repeat in a header", region={"type": "string", "x-mcp-header": "Region"})
async def test_header_argument(ctx: Context, region: str) -> ToolAnswer:
    return f"region={region}"


# --- What is said before the answer, or besides it ----------------------------------------------------------


@tool("Three log messages, then a text")
async def test_tool_with_logging(ctx: Context) -> ToolAnswer:
    await log(ctx, "Tool execution started")
    await anyio.sleep(STEP_INTERVAL)
    await log(ctx, "Tool processing data")
    await anyio.sleep(STEP_INTERVAL)
    await log(ctx, "Tool execution completed")
    return "Tool with logging executed successfully"


@tool("One log message, then a text")
async def test_logging_tool(ctx: Context) -> ToolAnswer:
    await log(ctx, "Logged")
    return "Logged, if the request asked for logs"


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
    # Long enough for a broker to notice that it is silent.
    await anyio.sleep(10 * STEP_INTERVAL)
    return "Reconnection test completed"


@tool("Tell the client that the list of tools changed")
async def test_trigger_tool_change(ctx: Context) -> ToolAnswer:
    await announce(ctx, ToolsListChanged())
    return "told"


@tool("Tell the client that the list of prompts changed")
async def test_trigger_prompt_change(ctx: Context) -> ToolAnswer:
    await announce(ctx, PromptsListChanged())
    return "told"


async def log(ctx: Context, message: str) -> None:
    # In 2026-07-28 the SDK sends it only if the request asked for this level.
    await ctx.session.send_log_message("info", message, related_request_id=ctx.request_id)


# --- Our own, under names that no scenario calls ------------------------------------------------------------


@tool("Tell the client that a resource was updated, if it subscribed", uri=STRING)
async def touch_resource(ctx: Context, uri: str) -> ToolAnswer:
    # In 2026-07-28 each listen stream knows itself what was asked for.
    if not is_modern(ctx) and uri not in SUBSCRIBED:
        return f"nobody subscribed to {uri}"
    await announce(ctx, ResourceUpdated(uri=uri))
    return f"updated {uri}"


@tool("Tell what this process is and what it was told, as JSON")
async def describe_process(ctx: Context) -> ToolAnswer:
    client, capabilities = ctx.session.client_params, ctx.session.client_capabilities
    facts = {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "protocolVersion": ctx.protocol_version,
        "clientInfo": client and client.client_info.model_dump(by_alias=True, exclude_none=True),
        "clientCapabilities": capabilities and capabilities.model_dump(by_alias=True, exclude_none=True),
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
