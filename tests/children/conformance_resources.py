"""Resources and prompts of the conformance fixture server."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import mcp_types as types
from mcp import MCPError

from tests.children.conformance_registry import PNG, Context, embedded, image, is_modern, prompt, text

__all__ = ["RESOURCES", "TEMPLATE", "contents_of"]

# The code of the revisions up to 2025-11-25 (server/resources, "Error Handling"); 2026-07-28 forbids it.
RESOURCE_NOT_FOUND = -32002

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


def contents_of(ctx: Context, uri: str) -> types.TextResourceContents | types.BlobResourceContents:
    """Return what a URI names.

    Raises:
        MCPError: It names nothing; the code is that of the request's revision.
    """
    if uri in RESOURCES:
        return RESOURCES[uri]
    match = re.fullmatch("test://template/([^/]+)/data", uri)
    if match is None:
        code = types.INVALID_PARAMS if is_modern(ctx) else RESOURCE_NOT_FOUND
        raise MCPError(code, "Resource not found", {"uri": uri})
    data = {"id": match[1], "templateTest": True, "data": f"Data for ID: {match[1]}"}
    return types.TextResourceContents(uri=uri, mime_type="application/json", text=json.dumps(data))


@prompt("One text")
async def test_simple_prompt(ctx: Context) -> Sequence[types.ContentBlock]:
    return [text("This is a simple prompt for testing.")]


@prompt("Two arguments in a text", "arg1", "arg2")
async def test_prompt_with_arguments(ctx: Context, arg1: str, arg2: str) -> Sequence[types.ContentBlock]:
    return [text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]


@prompt("A resource of the client's choice", "resourceUri")
async def test_prompt_with_embedded_resource(
    ctx: Context,
    resourceUri: str,  # noqa: N803 - the suite's
) -> Sequence[types.ContentBlock]:
    return [
        embedded(resourceUri, "text/plain", "Embedded resource content for testing."),
        text("Please process the embedded resource above."),
    ]


@prompt("A picture")
async def test_prompt_with_image(ctx: Context) -> Sequence[types.ContentBlock]:
    return [image(), text("Please analyze the image above.")]
