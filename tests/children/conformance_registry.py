"""The tables of the conformance fixture server, and the words in which its fixtures are written.

A decorator puts each tool and each prompt into its table, so a fixture is one function. What differs between
the eras of MCP in more than one fixture is decided here: whether a request is a modern one, how a missing
capability is refused, how a change is announced.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import mcp_types as types
from anyio.abc import TaskGroup
from mcp import MCPError
from mcp.server import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus
from mcp.shared.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

__all__ = [
    "BUS",
    "PNG",
    "PROMPTS",
    "STRING",
    "TOOLS",
    "Context",
    "PromptFunction",
    "Schema",
    "ToolAnswer",
    "ToolFailed",
    "ToolFunction",
    "announce",
    "embedded",
    "form",
    "image",
    "is_modern",
    "prompt",
    "refuse_without",
    "text",
    "tool",
    "tool_with_schema",
]

# A red pixel: the smallest picture that is valid.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"

Schema: TypeAlias = dict[str, object]
# The task group lives as long as the server: what goes on after an answer runs in it.
Context: TypeAlias = ServerRequestContext[TaskGroup]
# A result goes out as it is; the others become one.
ToolAnswer: TypeAlias = str | Sequence[types.ContentBlock] | types.Result
ToolFunction: TypeAlias = Callable[..., Awaitable[ToolAnswer]]
PromptFunction: TypeAlias = Callable[..., Awaitable[Sequence[types.ContentBlock]]]

TOOLS: dict[str, tuple[types.Tool, ToolFunction]] = {}
PROMPTS: dict[str, tuple[types.Prompt, PromptFunction]] = {}
STRING: Schema = {"type": "string"}
# From whoever announces a change to every `subscriptions/listen` (2026-07-28).
BUS = InMemorySubscriptionBus()


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


def form(**properties: Schema) -> dict[str, Any]:
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


def is_modern(ctx: Context) -> bool:
    """Return whether the request is of 2026-07-28, where each stands for itself."""
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def refuse_without(ctx: Context, needed: types.ClientCapabilities) -> None:
    """Raise the error of the request's era if its client did not declare a capability.

    Raises:
        MCPError: -32021 with `requiredCapabilities` (2026-07-28, basic/index, "Capabilities"); up to
            2025-11-25 there is no code for it, and this is any server's own error.
    """
    if ctx.session.check_client_capability(needed):
        return
    required = needed.model_dump(by_alias=True, mode="json", exclude_none=True)
    message = f"the client did not declare {', '.join(required)}"
    if is_modern(ctx):
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, message, {"requiredCapabilities": required})
    raise MCPError(types.INVALID_REQUEST, message)


async def announce(ctx: Context, event: ServerEvent) -> None:
    """Tell of a change: on listen streams, or in the open where the revision has none."""
    if is_modern(ctx):
        await BUS.publish(event)
        return
    match event:
        case ToolsListChanged():
            await ctx.session.send_tool_list_changed()
        case PromptsListChanged():
            await ctx.session.send_prompt_list_changed()
        case ResourcesListChanged():
            await ctx.session.send_resource_list_changed()
        case ResourceUpdated(uri=uri):
            await ctx.session.send_resource_updated(uri)
