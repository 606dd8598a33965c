"""How the scripted child asks its client, in either era.

Legacy: it sends requests and waits for the answers; the call that asks stays open. Modern: it answers with
`input_required` and forgets; the retry brings what it needs (basic/patterns/mrtr).
"""

from __future__ import annotations

import json
import os

from .wire import PREFIX, send

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing at run time would cost 7 ms
    from collections.abc import Iterator

    from .child import Child
    from .wire import Arguments, Call, Message, RequestId

__all__ = ["Asking", "Questions", "Rounds", "ask"]

DEFAULT_REQUESTS: Message = {
    "name": {
        "method": "elicitation/create",
        "params": {
            "mode": "form",
            "message": "What is your name?",
            "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
        },
    }
}
_CAPABILITIES = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}


def ask(child: Child, call: Call, arguments: Arguments) -> None:
    """Ask the client, and answer with what it says.

    With `questions`, a list of {id, method, params}: send them as requests, whatever the era, and answer with
    the JSON list of the lines that came back, in their order.

    With `requests`, {key: {method, params}} (default: an elicitation `name`), ask as the era does, and answer
    with the JSON of {"inputResponses": {key: result}}; in modern as they came, with `requestState`, and what
    did not come is not there. An error, in legacy, is {"error": …}. `requests` may be a list with a map per
    round; `rounds` asks the same map so many times. The answer shows the last round.

    In modern only: `polls`, so many results with nothing but a state come first, and without `requests`
    nothing follows; `state`, the requestState ("$PID" becomes the process id; of several results each gets
    "#1", "#2", … after it, and a state of its own if none is given); a retry with another state gets -32602.
    `checks`: a capability that the request does not declare is -32021.
    """
    if "questions" in arguments:
        Questions(child, call, arguments["questions"])
    elif call.modern:
        _require_input(call, arguments)
    else:
        Rounds(child, call, _rounds(arguments))


class Asking:
    """Questions that are open, and the call that is answered when they are not."""

    def __init__(self, child: Child, call: Call) -> None:
        self.child = child
        self.call = call

    def ask(self, question: RequestId, message: Message) -> None:
        """Send one question."""
        self.child.questions[question] = self
        send({"jsonrpc": "2.0", "id": question, **message})

    def take(self, message: Message, line: str) -> None:
        """Take the answer to one question."""
        raise NotImplementedError


class Questions(Asking):
    """Questions with ids of the test's choice."""

    def __init__(self, child: Child, call: Call, questions: list[Message]) -> None:
        super().__init__(child, call)
        self._size = len(questions)
        self._lines: list[str] = []
        for question in questions:
            self.ask(question["id"], question)

    def take(self, _message: Message, line: str) -> None:
        """Keep the line; after the last one, tell all."""
        self._lines.append(line)
        if len(self._lines) == self._size:
            self.call.text(json.dumps(self._lines))


class Rounds(Asking):
    """Rounds of questions with keys, as `input_required` has them."""

    def __init__(self, child: Child, call: Call, rounds: list[Message]) -> None:
        super().__init__(child, call)
        self._rounds = enumerate(rounds, 1)
        self._keys: dict[RequestId, str] = {}
        self._responses: Message = {}
        self._ask_next()

    def _ask_next(self) -> None:
        number, requests = next(self._rounds, (0, None))
        if requests is None:
            self.call.text(json.dumps({"inputResponses": self._responses}))
            return
        self._responses = {}
        # Before the first is sent: all of them are open.
        self._keys = {f"{self.call.id}/{number}/{key}": key for key in requests}
        for question, key in self._keys.items():
            self.ask(question, requests[key])

    def take(self, message: Message, _line: str) -> None:
        """Keep the result; after the last one, ask the next round or tell."""
        key = self._keys.pop(message["id"])
        self._responses[key] = message["result"] if "result" in message else {"error": message["error"]}
        if not self._keys:
            self._ask_next()


def _rounds(arguments: Arguments) -> list[Message]:
    requests = arguments.get("requests", {} if "polls" in arguments else DEFAULT_REQUESTS)
    if isinstance(requests, list):
        return requests
    return [requests] * arguments.get("rounds", 1) if requests else []


def _require_input(call: Call, arguments: Arguments) -> None:
    steps: list[Message | None] = [*([None] * arguments.get("polls", 0)), *_rounds(arguments)]
    states = list(_states(steps, arguments.get("state")))
    given = {name: call.params[name] for name in ("inputResponses", "requestState") if name in call.params}
    if given and given.get("requestState") not in states:
        call.error(-32602, "Invalid or expired requestState")
        return
    step = states.index(given.get("requestState")) + 1 if given else 0
    if step == len(steps):
        call.text(json.dumps(given))
    elif arguments.get("checks") and (lacking := _lacking(call, steps[step] or {})):
        call.error(-32021, "a client capability is missing", {"requiredCapabilities": lacking})
    else:
        requests, state = steps[step], states[step]
        value: Message = {"resultType": "input_required"}
        value |= {} if requests is None else {"inputRequests": requests}
        value |= {} if state is None else {"requestState": state}
        call.result(value)


def _states(steps: list[Message | None], state: str | None) -> Iterator[str | None]:
    state = None if state is None else state.replace("$PID", str(os.getpid()))
    for number, requests in enumerate(steps, 1):
        if len(steps) == 1:
            # A result must have one of the two.
            yield "poll" if state is None and requests is None else state
        else:
            yield f"{state or 'step'}#{number}"


def _lacking(call: Call, requests: Message) -> Message:
    declared = (call.meta or {})[f"{PREFIX}clientCapabilities"]
    wanted = [_CAPABILITIES[request["method"]] for request in requests.values()]
    return {name: {} for name in wanted if name not in declared}
