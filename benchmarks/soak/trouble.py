"""The other part of the soak's load: children that are killed, clients that leave, wrong requests, changes.

Whoever makes trouble has a user of its own, so nobody else may notice it: every error is expected by the role
that caused it, and by no other.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Iterator

from benchmarks.soak.client import Broken, Client, Connection, Json, Refused, Wrong, in_time, refusal
from benchmarks.soak.load import Actor, echo

__all__ = ["change", "hurt", "leave", "misspell", "revoke"]

_CHILD_TIMEOUT = 30.0
_LOOK_INTERVAL = 0.05
# The broker says that it sees a change of keys within a quarter of a second; the machine may be busy.
_KEY_INTERVAL = 0.3
_CHANGED_WITHIN = 10.0
# 429: bad keys came from this address before.
_BAD_KEY = {401, 429}
_ENDED = "server process ended"
_LARGE = 1024 * 1024


async def hurt(actor: Actor, server: str, *, modern: bool) -> None:
    """Kill the child under a call, between two calls, and by a call; each next call must be right.

    Three times, as many as the broker bears of one session within a minute.
    """
    async with actor.session(server, modern=modern) as client:
        await echo(actor, client)
        await _kill_under_a_call(actor, client)
        await echo(actor, client, kind="after a crash")
        await _kill_between_calls(actor, client)
        await echo(actor, client, kind="after a crash")
        await _crash(actor, client)
        await echo(actor, client, kind="after a crash")
    await actor.rest(1.0)


async def _kill_under_a_call(actor: Actor, client: Client) -> None:
    with _stopped(await _child(actor, client)) as pid:
        call = asyncio.create_task(echo(actor, client, kind="late"))
        await actor.rest(0.05)
        os.kill(pid, signal.SIGKILL)
        await _expect_the_end(actor, call, "signal", signal.SIGKILL)


async def _kill_between_calls(actor: Actor, client: Client) -> None:
    pid = await _child(actor, client)
    os.kill(pid, signal.SIGKILL)
    async with in_time("the end of a killed child", _CHILD_TIMEOUT):
        # Until it is reaped: before that the broker need not know, and the next call may still meet it.
        while actor.broker.has_child(pid):  # noqa: ASYNC110 - /proc tells nobody
            await asyncio.sleep(_LOOK_INTERVAL)
    actor.ledger.right["kills"] += 1


async def _crash(actor: Actor, client: Client) -> None:
    call = asyncio.create_task(client.call("crash", {}, expected="nothing"))
    await _expect_the_end(actor, call, "exitCode", None)


async def _expect_the_end(actor: Actor, call: "asyncio.Task[None]", fact: str, value: int | None) -> None:
    """Wait for a call whose child dies: it fails and says of what, or it is so late that another answers."""
    try:
        await call
    except Refused as exc:
        found = exc.data.get(fact) if isinstance(exc.data, dict) else None
        if exc.status != 200 or exc.reason != _ENDED or found is None or value not in (None, found):
            raise
        actor.ledger.expected[f"child ended, {fact}"] += 1


async def _child(actor: Actor, client: Client) -> int:
    """Return the pid of the actor's only child, once those before it are gone."""
    deadline = asyncio.get_running_loop().time() + _CHILD_TIMEOUT
    while len(pids := actor.broker.children_of(client.server, actor.principal)) != 1:
        if asyncio.get_running_loop().time() > deadline:
            raise Broken(f"expected one child within {_CHILD_TIMEOUT:.0f} s, found {pids}")
        await asyncio.sleep(_LOOK_INTERVAL)
    return pids[0]


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[int]:
    """Keep a process from running, so that a call is certain to be in flight."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def leave(actor: Actor, server: str, *, modern: bool) -> None:
    """Go away in the middle of a body, a call, an answer and a stream; at last, delete under a call."""
    async with actor.session(server, modern=modern) as client:
        await echo(actor, client)
        for step in actor.random.sample((_in_a_body, _in_a_call, _in_an_answer, _in_a_stream), 4):
            await step(actor, client)
            actor.ledger.right["left"] += 1
            await echo(actor, client, kind="after leaving")
        if not modern:
            await _delete_under_a_call(actor, client)
    await actor.rest(1.0)


async def _in_a_body(actor: Actor, client: Client) -> None:
    _, body = client.request("tools/call", {"name": "echo", "arguments": {"text": actor.text(5000)}})
    headers = client.headers("tools/call", "echo") | {"content-length": str(len(body))}
    connection = Connection(client.port)
    await connection.send("POST", client.path, headers, body[: actor.random.randint(1, len(body) - 1)])
    await actor.rest(0.02)
    connection.close()


async def _in_a_call(actor: Actor, client: Client) -> None:
    with _stopped(await _child(actor, client)):
        connection = await _sent(client, "echo", text=actor.text(100))
        await actor.rest(0.05)
        connection.close()
        await actor.rest(0.02)


async def _in_an_answer(_actor: Actor, client: Client) -> None:
    connection = await _sent(client, "blob", bytes=_LARGE)
    await connection.receive()
    connection.close()


async def _in_a_stream(actor: Actor, client: Client) -> None:
    connection = await _sent(client, "progress", text=actor.text(40))
    response = await connection.receive()
    async for _ in response.messages():
        break
    connection.close()


async def _sent(client: Client, tool: str, **arguments: str | int) -> Connection:
    """Send a call over a connection of its own."""
    params: dict[str, Json] = {"name": tool, "arguments": {**arguments}, "_meta": {"progressToken": "left"}}
    _, body = client.request("tools/call", params)
    connection = Connection(client.port)
    await connection.send("POST", client.path, client.headers("tools/call", tool), body)
    return connection


async def _delete_under_a_call(actor: Actor, client: Client) -> None:
    pid = await _child(actor, client)
    os.kill(pid, signal.SIGSTOP)
    connection = await _sent(client, "echo", text="late")
    await actor.rest(0.05)
    await client.close()
    async with in_time("an answer to a call whose session was deleted"):
        response = await connection.receive()
        found = refusal(response.status, [message async for message in response.messages()])
    connection.close()
    # 404: the call came only after the session had gone.
    if found is None or (found.reason != "session ended" and found.status != 404):
        raise Wrong(f"expected an error that says that the session has ended, found {found}")
    actor.ledger.expected["session ended"] += 1
    # A child of the session's own stays stopped, and the broker must get rid of it all the same; one that is
    # shared goes on.
    if client.server == "fragile-modern":
        os.kill(pid, signal.SIGCONT)


async def misspell(actor: Actor, other: Actor) -> None:
    """Send what is refused, with the status that it must get; some of it names another user's session."""
    async with other.session("legacy") as foreign:
        await _misspell(actor, foreign)
        # Nothing of this was foreign to its owner.
        await echo(other, foreign)
    await actor.rest(0.5)


async def _misspell(actor: Actor, foreign: Client) -> None:
    own = actor.client("legacy")
    ping = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    headers = own.headers()
    strange = headers | foreign.session_headers()
    requests: list[tuple[str, str, dict[str, str], bytes, set[int]]] = [
        ("no JSON", "POST", headers, b"{not json", {400}),
        ("no message", "POST", headers, b'{"jsonrpc":"2.0"}', {400}),
        ("no session", "POST", headers, ping, {400}),
        ("unknown session", "POST", headers | {"mcp-session-id": "nobody"}, ping, {404}),
        ("foreign session", "POST", strange, ping, {404}),
        ("foreign session, GET", "GET", {**strange, "accept": "text/event-stream"}, b"", {404}),
        ("foreign session, DELETE", "DELETE", strange, b"", {404}),
        ("wrong method", "PUT", headers, ping, {405}),
        ("wrong Accept", "POST", headers | {"accept": "text/html"}, ping, {406}),
        ("wrong type", "POST", headers | {"content-type": "text/plain"}, ping, {415}),
        ("wrong key", "POST", headers | {"authorization": "Bearer nobody"}, ping, _BAD_KEY),
        ("empty batch", "POST", headers, b"[]", {400}),
        ("no version", "POST", {**headers, "mcp-protocol-version": "1999-01-01"}, ping, {400}),
    ]
    kind, verb, sent, body, statuses = actor.random.choice(requests)
    async with own.connection() as connection:
        await connection.send(verb, own.path, sent, body)
        response = await connection.receive()
        messages = [message async for message in response.messages()]
        connection.close()
    if response.status not in statuses or not refusal(response.status, messages):
        raise Wrong(f"{kind}: expected {statuses}, found HTTP {response.status}: {messages}")
    actor.ledger.expected[f"refused: {kind}"] += 1


async def revoke(actor: Actor) -> None:
    """Make a key, use it, revoke it under use; all of it must end, and another key must not bring it back."""
    actor.key = await actor.broker.create_key(actor.principal)
    legacy, modern = actor.client("legacy"), actor.client("modern", modern=True)
    await _use_once_known(actor, modern)
    await legacy.open()
    await echo(actor, legacy)
    revoking = asyncio.create_task(actor.broker.revoke(actor.principal))
    uses = [_use_until_it_is_refused(actor, client, revoking) for client in (legacy, modern)]
    done = await asyncio.gather(*uses, return_exceptions=True)
    await revoking
    for failure in done:
        if failure is not None:
            raise failure
    legacy.key = modern.key = await actor.broker.create_key(actor.principal)
    await _use_once_known(actor, modern)
    try:
        await echo(actor, legacy)
    except Refused as exc:
        if exc.status != 404:
            raise
        actor.ledger.expected["revoked: its session is gone"] += 1
    else:
        raise Wrong("expected 404, found an answer: a session has outlived the key of its user")
    finally:
        legacy.leave()
        modern.leave()
    await actor.rest(5.0)


async def _use_once_known(actor: Actor, client: Client) -> None:
    """Call with a new key until the broker has seen it: it looks four times a second."""
    async with in_time("that the broker knows a new key", _CHANGED_WITHIN):
        while True:
            await asyncio.sleep(_KEY_INTERVAL)
            try:
                return await echo(actor, client, kind="with a new key")
            except Refused as exc:
                if exc.status not in _BAD_KEY:
                    raise
                actor.ledger.expected["a new key is not known yet"] += 1


async def _use_until_it_is_refused(actor: Actor, client: Client, revoking: "asyncio.Task[None]") -> None:
    deadline = float("inf")
    clock = asyncio.get_running_loop().time
    while clock() < deadline:
        if revoking.done() and deadline == float("inf"):
            deadline = clock() + _CHANGED_WITHIN
        try:
            await echo(actor, client, kind="until revoked")
        except Refused as exc:
            if exc.status in _BAD_KEY:
                actor.ledger.expected["revoked: its key is bad"] += 1
                return
            # The call that was in flight.
            if exc.status != 200 or exc.reason not in ("session ended", "server stopped"):
                raise
            actor.ledger.expected["revoked under a call"] += 1
        await asyncio.sleep(0.01)
    raise Wrong(f"expected 401 within {_CHANGED_WITHIN} s after the key was revoked")


async def change(actor: Actor) -> None:
    """Change one server, add another or take it away again, and see that the broker does as the file says."""
    more = actor.broker.generation % 2 == 0
    await actor.broker.reload(more=more)
    actor.ledger.right["reloads"] += 1
    try:
        async with actor.session("more") as client:
            await echo(actor, client)
        there = True
    except Refused as exc:
        if exc.status not in (403, 404, 503):
            raise
        there = False
        actor.ledger.expected["server is gone"] += 1
    if there != more:
        raise Wrong(f"expected that the server {'is' if more else 'is not'} there after a reload")
    await actor.rest(4.0)
