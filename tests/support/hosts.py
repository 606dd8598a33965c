"""A client on the official SDK for Python, with a user and a model behind it."""

from __future__ import annotations

from typing import TypeVar

import anyio
import mcp_types as types
from mcp import Client
from mcp.client import ClientRequestContext, IncomingMessage, Transport
from pydantic import FileUrl

__all__ = ["ANSWER_TIMEOUT", "Host", "said"]

# The longest that one answer or one notification may take, in seconds.
ANSWER_TIMEOUT = 20.0

Kind = TypeVar("Kind", bound=types.ServerNotification)


class Host:
    """A client on the Python SDK that keeps what it is told and asked, and answers every question.

    Args:
        name: Whose client this is: the root that it lists, and the answers unless others are given.
        answer: What its user fills in.
        thought: What its model says.

    Attributes:
        questions: What the user was asked.
        prompts: What the model was asked.
    """

    def __init__(
        self, name: str = "anna", *, answer: dict[str, str] | None = None, thought: str | None = None
    ) -> None:
        self.name = name
        self.questions: list[str] = []
        self.prompts: list[str] = []
        self._answer = answer if answer is not None else {"name": name}
        self._thought = thought if thought is not None else f"{name} thinks"
        self._told: list[types.ServerNotification] = []
        self._changed = anyio.Condition()

    def connect(self, server: str | Transport, mode: str = "legacy") -> Client:
        """Return a client, not entered yet, that talks to a URL or over a transport."""

        async def sample(
            context: ClientRequestContext, params: types.CreateMessageRequestParams
        ) -> types.CreateMessageResult:
            content = params.messages[0].content
            self.prompts.append(content.text if isinstance(content, types.TextContent) else repr(content))
            answer = types.TextContent(text=self._thought)
            return types.CreateMessageResult(role="assistant", content=answer, model="none")

        async def elicit(
            context: ClientRequestContext, params: types.ElicitRequestParams
        ) -> types.ElicitResult:
            self.questions.append(params.message)
            return types.ElicitResult(action="accept", content=dict(self._answer))

        async def list_roots(context: ClientRequestContext) -> types.ListRootsResult:
            return types.ListRootsResult(roots=[types.Root(uri=FileUrl(f"file:///home/{self.name}"))])

        return Client(
            server,
            mode=mode,
            read_timeout_seconds=ANSWER_TIMEOUT,
            message_handler=self._on_message,
            sampling_callback=sample,
            elicitation_callback=elicit,
            list_roots_callback=list_roots,
        )

    def told(self, kind: type[Kind]) -> list[Kind]:
        """Return the notifications of one kind that have arrived."""
        return [message for message in self._told if isinstance(message, kind)]

    async def wait_until_told(self, kind: type[Kind], timeout: float = ANSWER_TIMEOUT) -> Kind:
        """Wait for a notification of one kind, and return the first.

        Raises:
            TimeoutError: None came.
        """
        with anyio.fail_after(timeout):
            async with self._changed:
                while not self.told(kind):
                    await self._changed.wait()
        return self.told(kind)[0]

    async def _on_message(self, message: IncomingMessage) -> None:
        if isinstance(message, Exception):
            raise message
        async with self._changed:
            self._told.append(message)
            self._changed.notify_all()


def said(result: types.CallToolResult) -> str:
    """Return the text of an answer, which must not be an error."""
    assert not result.is_error, result
    return "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))
