"""Questions of the conformance fixture server to its client, asked in whichever way the era has.

Up to 2025-11-25 a question is a request to the client, and all questions of one `ask` are sent at once.
In 2026-07-28 it is part of an `input_required` result (SEP-2322): `ask` ends the call with it, and the retry
runs the tool again from its beginning, with the answers at hand. So a tool that asks is written once, and
whatever it does before it asks happens in every round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import anyio
import mcp_types as types
from mcp import MCPError
from mcp.shared.message import ServerMessageMetadata
from pydantic import BaseModel

from tests.children.conformance_registry import (
    STRING,
    Context,
    Schema,
    ToolAnswer,
    form,
    is_modern,
    prompt,
    refuse_without,
    text,
    tool,
)

__all__ = ["Answer", "InputRequired", "ask", "chosen", "question", "question_to_model"]

Answer: TypeAlias = dict[str, object]
# By method: what the client must have declared, and what it answers.
NEEDED = {
    "elicitation/create": types.ClientCapabilities(elicitation=types.ElicitationCapability()),
    "sampling/createMessage": types.ClientCapabilities(sampling=types.SamplingCapability()),
    "roots/list": types.ClientCapabilities(roots=types.RootsCapability()),
}
ANSWERS: dict[str, type[BaseModel]] = {
    "elicitation/create": types.ElicitResult,
    "sampling/createMessage": types.CreateMessageResult,
    "roots/list": types.ListRootsResult,
}


class InputRequired(Exception):
    """The end of a round.

    Attributes:
        result: What to answer the request with.
    """

    def __init__(self, questions: types.InputRequests, state: str | None) -> None:
        super().__init__(", ".join(questions))
        self.result = types.InputRequiredResult(input_requests=questions, request_state=state)


async def ask(
    ctx: Context, *, keep_state: bool = False, **questions: types.InputRequest
) -> dict[str, Answer]:
    """Return the client's answer to each question, under the question's key.

    Args:
        ctx: The request that needs the answers.
        keep_state: Carry what was answered in earlier rounds in `requestState`. Without it the retry must
            bring all answers itself. Only 2026-07-28 knows the difference.
        questions: What to ask, by key.

    Raises:
        InputRequired: The answers have to come with a retry.
        MCPError: The client did not declare a capability, or answered with an error.
    """
    for asked in questions.values():
        refuse_without(ctx, NEEDED[asked.method])
    if is_modern(ctx):
        return answers_of_retry(ctx, questions, keep_state=keep_state)
    return await answers_at_once(ctx, questions)


def answers_of_retry(
    ctx: Context, questions: Mapping[str, types.InputRequest], *, keep_state: bool
) -> dict[str, Answer]:
    params = ctx.params or {}
    # The state is ours: whoever changes it is refused before a tool runs (`RequestStateBoundary`).
    known = json.loads(params.get("requestState") or "{}") | (params.get("inputResponses") or {})
    missing = {key: asked for key, asked in questions.items() if key not in known}
    if missing:
        raise InputRequired(missing, json.dumps(known) if keep_state else None)
    return {key: known[key] for key in questions}


async def answers_at_once(ctx: Context, questions: Mapping[str, types.InputRequest]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    refusals: list[MCPError] = []

    async def ask_one(key: str, asked: types.InputRequest) -> None:
        # Over HTTP it belongs on the stream of the request that asks (SEP-2260).
        related = ServerMessageMetadata(related_request_id=ctx.request_id)
        try:
            answer = await ctx.session.send_request(asked, ANSWERS[asked.method], metadata=related)
        except MCPError as refusal:
            refusals.append(refusal)
        else:
            answers[key] = answer.model_dump(by_alias=True, mode="json", exclude_none=True)

    async with anyio.create_task_group() as group:
        for key, asked in questions.items():
            group.start_soon(ask_one, key, asked)
    if refusals:
        raise refusals[0]
    return answers


def question(message: str, **properties: Schema) -> types.ElicitRequest:
    """A question to the user, who fills in a form."""
    return types.ElicitRequest(
        params=types.ElicitRequestFormParams(message=message, requested_schema=form(**properties))
    )


def question_to_model(words: str) -> types.CreateMessageRequest:
    """A question to the client's model."""
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(
            messages=[types.SamplingMessage(role="user", content=text(words))], max_tokens=100
        )
    )


def chosen(answer: Answer, name: str) -> object:
    """Return what the user filled in, or what else came back: clients may answer anything."""
    content = answer.get("content")
    return content.get(name) if isinstance(content, dict) else answer.get("action")


def in_words(answer: Answer) -> str:
    return f"action={answer.get('action')}, content={json.dumps(answer.get('content'))}"


# --- Tools of every revision --------------------------------------------------------------------------------


@tool("Ask the client's model", prompt=STRING)
async def test_sampling(ctx: Context, prompt: str) -> ToolAnswer:
    answer = (await ask(ctx, answer=question_to_model(prompt)))["answer"]
    said = answer.get("content")
    return f"LLM response: {said.get('text') if isinstance(said, dict) else said!r}"


@tool("Ask the user for a name and an address", message=STRING)
async def test_elicitation(ctx: Context, message: str) -> ToolAnswer:
    asked = question(
        message,
        username={"type": "string", "description": "User's response"},
        email={"type": "string", "description": "User's email address"},
    )
    return f"User response: {in_words((await ask(ctx, answer=asked))['answer'])}"


@tool("Ask the user, with a default for every primitive type")
async def test_elicitation_sep1034_defaults(ctx: Context) -> ToolAnswer:
    asked = question(
        "Please check these defaults",
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    return f"Elicitation completed: {in_words((await ask(ctx, answer=asked))['answer'])}"


@tool("Ask the user, with every shape of a choice")
async def test_elicitation_sep1330_enums(ctx: Context) -> ToolAnswer:
    options: Schema = {"type": "string", "enum": ["option1", "option2", "option3"]}
    titled = [
        {"const": "value1", "title": "First Option"},
        {"const": "value2", "title": "Second Option"},
        {"const": "value3", "title": "Third Option"},
    ]
    asked = question(
        "Please choose",
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
    return f"Elicitation completed: {in_words((await ask(ctx, answer=asked))['answer'])}"


# --- Tools and prompt of 2026-07-28 -------------------------------------------------------------------------


@tool("Needs the client's model, whatever the client can do")
async def test_missing_capability(ctx: Context) -> ToolAnswer:
    await ask(ctx, answer=question_to_model("Are you there?"))
    return "The client can sample."


@tool("Progress, then a question to the user")
async def test_streaming_elicitation(ctx: Context) -> ToolAnswer:
    await ctx.session.report_progress(50, 100)
    answers = await ask(ctx, confirmed=question("Go on?", ok={"type": "boolean"}))
    return f"Confirmed: {chosen(answers['confirmed'], 'ok')}"


@tool("Ask the user for a name")
async def test_input_required_result_elicitation(ctx: Context) -> ToolAnswer:
    answers = await ask(ctx, user_name=question("What is your name?", name=STRING))
    return f"Hello, {chosen(answers['user_name'], 'name')}!"


@tool("Ask the client's model for a capital")
async def test_input_required_result_sampling(ctx: Context) -> ToolAnswer:
    answers = await ask(ctx, capital_question=question_to_model("What is the capital of France?"))
    return f"The model says: {json.dumps(answers['capital_question'].get('content'))}"


@tool("Ask for the client's roots")
async def test_input_required_result_list_roots(ctx: Context) -> ToolAnswer:
    answers = await ask(ctx, client_roots=types.ListRootsRequest())
    return f"Roots: {json.dumps(answers['client_roots'].get('roots'))}"


@tool("Ask with a state that must come back")
async def test_input_required_result_request_state(ctx: Context) -> ToolAnswer:
    await ask(ctx, keep_state=True, confirm=question("Please confirm", ok={"type": "boolean"}))
    if is_modern(ctx) and "requestState" not in (ctx.params or {}):
        raise MCPError(types.INVALID_PARAMS, "the state of the question is missing")
    return "state-ok"


@tool("Ask with a state that nobody may change")
async def test_input_required_result_tampered_state(ctx: Context) -> ToolAnswer:
    await ask(ctx, keep_state=True, confirm=question("Please confirm", ok={"type": "boolean"}))
    return "confirmed"


@tool("Ask the user, the client's model and for roots, at once")
async def test_input_required_result_multiple_inputs(ctx: Context) -> ToolAnswer:
    answers = await ask(
        ctx,
        keep_state=True,
        user_name=question("What is your name?", name=STRING),
        greeting=question_to_model("Generate a greeting"),
        client_roots=types.ListRootsRequest(),
    )
    return json.dumps(answers)


@tool("Two questions, one after the other")
async def test_input_required_result_multi_round(ctx: Context) -> ToolAnswer:
    first = await ask(ctx, keep_state=True, step1=question("Step 1: What is your name?", name=STRING))
    second = await ask(
        ctx, keep_state=True, step2=question("Step 2: What is your favorite color?", color=STRING)
    )
    return f"{chosen(first['step1'], 'name')} likes {chosen(second['step2'], 'color')}"


@tool("Ask in every way that the client declared, and in no other")
async def test_input_required_result_capabilities(ctx: Context) -> ToolAnswer:
    possible: dict[str, types.InputRequest] = {
        "user_name": question("What is your name?", name=STRING),
        "greeting": question_to_model("Generate a greeting"),
        "client_roots": types.ListRootsRequest(),
    }
    declared = {
        key: asked
        for key, asked in possible.items()
        if ctx.session.check_client_capability(NEEDED[asked.method])
    }
    return json.dumps(await ask(ctx, keep_state=False, **declared))


@prompt("A text about what the user says")
async def test_input_required_result_prompt(ctx: Context) -> Sequence[types.ContentBlock]:
    answers = await ask(ctx, user_context=question("What context should the prompt use?", context=STRING))
    return [text(f"Use this context: {chosen(answers['user_context'], 'context')}")]
