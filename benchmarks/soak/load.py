"""The peaceful part of the soak's load: who calls what, and how each answer is checked.

An *actor* is one user with one habit (a *role*), repeated until the load ends. Its choices come from a random
generator of its own, made of the seed and its name, so they do not depend on what the others do.
"""

import asyncio
import contextlib
import random
import string
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from benchmarks.soak.broker import IDLE_TIMEOUT, Broker, CommandFailed
from benchmarks.soak.client import Broken, Client, Json, Refused, Wrong, member

__all__ = ["Actor", "Ledger", "Role", "churn", "echo", "listen", "repeat", "sleep", "stream", "talk"]

_KIB = 1024
_FAILURES_KEPT = 100
# The last: a child has ended that its actor was about to stop.
_FAILURES = (Wrong, Refused, Broken, TimeoutError, CommandFailed, ProcessLookupError)
_AFTER_A_FAILURE = 1.0
_LARGE_MIN, _LARGE_MAX = 64 * _KIB, _KIB * _KIB
# What takes one, two, three and four bytes in UTF-8.
_LETTERS = ("x", "ü", "€", "😀")


def _letters() -> str:
    """Make the pattern that the child's large results are pieces of (content.h)."""
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    made, x = [], 1
    for _ in range(8 * _PATTERN_WORDS):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        made.append(letters[x >> 16 & 63])
    return "".join(made)


_PATTERN_WORDS = 8191
_PATTERN = _letters()


@dataclass(slots=True)
class Ledger:
    """What has happened so far.

    Args:
        right: Right answers, by kind.
        expected: Errors that had to come, by kind.
        failures: The others, in words, at most so many different ones; `failed` is how many there were.
        sessions: Open now.
        seconds: What each small call took since the last sample.
    """

    right: Counter[str] = field(default_factory=Counter)
    expected: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    sessions: int = 0
    seconds: list[float] = field(default_factory=list)

    def fail(self, text: str) -> None:
        """Note what should not have happened."""
        self.failed += 1
        if text in self.failures or len(self.failures) < _FAILURES_KEPT:
            self.failures[text] += 1


@dataclass(slots=True, kw_only=True)
class Actor:
    """One user with one habit.

    Args:
        name: Its own; stands in its texts.
        habit: What it does, in a word or two.
        principal: Whose key it has; several actors may be one principal.
        key: What its requests carry.
        stopping: Set when the load ends: no role begins anything more.
    """

    name: str
    habit: str
    principal: str
    random: random.Random
    broker: Broker
    ledger: Ledger
    key: str
    stopping: asyncio.Event
    texts: int = 0

    def client(self, server: str, *, modern: bool = False) -> Client:
        """Make a client, with nothing opened yet."""
        return Client(port=self.broker.port, server=server, key=self.key, name=self.name, modern=modern)

    @contextlib.asynccontextmanager
    async def session(self, server: str, *, modern: bool = False) -> AsyncIterator[Client]:
        """Open a session; it is deleted, and abandoned if the block fails."""
        client = self.client(server, modern=modern)
        try:
            await client.open()
            self.ledger.sessions += not modern
            try:
                yield client
                await client.close()
            finally:
                self.ledger.sessions -= not modern
        finally:
            client.leave()
        self.ledger.right["sessions"] += not modern

    async def pause(self, seconds: float) -> None:
        """Wait, as long as there is load."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def rest(self, mean: float) -> None:
        """Wait for a while that nobody can foretell, at most ten times the mean."""
        await self.pause(min(self.random.expovariate(1 / mean), 10 * mean))

    def text(self, size: int, letter: str = ".") -> str:
        """Return a text that nobody else has, of at least that many characters."""
        self.texts += 1
        return f"{self.name}:{self.texts}:".ljust(size, letter)


Role: TypeAlias = Callable[[Actor], Awaitable[None]]


async def repeat(actor: Actor, role: Role) -> None:
    """Repeat a role until the load ends, and note what went wrong with it."""
    while not actor.stopping.is_set():
        try:
            await role(actor)
        except _FAILURES as exc:
            actor.ledger.fail(f"{actor.habit} ({_where(exc)}): {type(exc).__name__}: {exc}")
            await actor.pause(_AFTER_A_FAILURE)


def _where(exc: BaseException) -> str:
    """Return the steps of a role that have led to an error."""
    frames = traceback.extract_tb(exc.__traceback__)
    return " > ".join(f"{one.name}:{one.lineno}" for one in frames[1:] if "client.py" not in one.filename)


async def echo(actor: Actor, client: Client, size: int = 40, *, kind: str = "small") -> None:
    """Call `echo` once."""
    letter = actor.random.choice(_LETTERS) if size < _KIB else "."
    text = actor.text(size, letter)
    began = asyncio.get_running_loop().time()
    await client.call("echo", {"text": text}, expected=text)
    if kind == "small":
        actor.ledger.seconds.append(asyncio.get_running_loop().time() - began)
    actor.ledger.right[kind] += 1


async def blob(actor: Actor, client: Client, size: int) -> None:
    """Call for a long result."""
    seed = actor.random.randrange(_PATTERN_WORDS)
    await client.call("blob", {"bytes": size, "seed": seed}, expected=_pattern(seed, size))
    actor.ledger.right["large"] += 1


def _pattern(seed: int, size: int) -> str:
    """Return the piece of the child's pattern that begins at 8 * seed (content.h)."""
    start = 8 * seed
    return (_PATTERN * ((start + size) // len(_PATTERN) + 1))[start : start + size]


async def talk(actor: Actor, server: str, *, modern: bool) -> None:
    """Call this and that, mostly small, in one session."""
    async with actor.session(server, modern=modern) as client:
        for _ in range(actor.random.randint(20, 200)):
            if actor.stopping.is_set():
                break
            await _one_of_many(actor, client)
            await actor.rest(0.03)


async def _one_of_many(actor: Actor, client: Client) -> None:
    dice = actor.random.random()
    size = actor.random.randint(_LARGE_MIN, _LARGE_MAX)
    if dice < 0.80:
        await echo(actor, client, actor.random.randint(20, 400))
    elif dice < 0.88:
        at_once = [echo(actor, client) for _ in range(actor.random.randint(2, 5))]
        done = await asyncio.gather(*at_once, return_exceptions=True)
        for failure in done:
            if failure is not None:
                raise failure
    elif dice < 0.94:
        await echo(actor, client, actor.random.randint(4 * _KIB, 64 * _KIB), kind="medium")
    elif dice < 0.96:
        await echo(actor, client, size, kind="large")
    elif dice < 0.98:
        await blob(actor, client, size)
    else:
        await _list_tools(actor, client)


async def _list_tools(actor: Actor, client: Client) -> None:
    tools = member(await client.ask("tools/list"), "tools")
    names = [member(tool, "name") for tool in tools] if isinstance(tools, list) else []
    if not {"echo", "blob"} <= set(map(str, names)):
        raise Wrong(f"expected the tools of the child, found {names}")
    actor.ledger.right["lists"] += 1


async def stream(actor: Actor, server: str, *, modern: bool) -> None:
    """Call with a token for progress, so that the answer is a stream."""
    async with actor.session(server, modern=modern) as client:
        for _ in range(actor.random.randint(5, 40)):
            if actor.stopping.is_set():
                break
            text = actor.text(40)
            await client.call("progress", {"text": text}, expected=text, progress=f"token {text}")
            actor.ledger.right["streams"] += 1
            await actor.rest(0.1)


async def listen(actor: Actor, server: str, *, modern: bool) -> None:
    """Open a stream of what the server may want to tell, call meanwhile, and drop it."""
    async with actor.session(server, modern=modern) as client:
        for _ in range(actor.random.randint(1, 5)):
            await _listen_once(actor, client)


async def _listen_once(actor: Actor, client: Client) -> None:
    async with client.connection() as connection:
        if client.modern:
            wanted: dict[str, Json] = {"notifications": {"toolsListChanged": True}}
            _, body = client.request("subscriptions/listen", wanted)
            await connection.send("POST", client.path, client.headers("subscriptions/listen"), body)
        else:
            headers = client.headers() | {"accept": "text/event-stream"}
            del headers["content-type"]
            await connection.send("GET", client.path, headers)
        response = await connection.receive()
        if response.status != 200 or not response.is_stream:
            raise Broken(
                f"expected a stream, found HTTP {response.status}: {(await response.body())[:200]!r}"
            )
        await echo(actor, client)
        await actor.rest(0.5)
        connection.close()
    actor.ledger.right["listens"] += 1


async def sleep(actor: Actor) -> None:
    """Fall silent for about as long as a child is kept, some times; then end the session, or forget it."""
    client = actor.client("sleepy")
    await client.open()
    actor.ledger.sessions += 1
    try:
        for _ in range(actor.random.randint(1, 4)):
            # Both sides of the limit: the request may come when the child is just being stopped.
            await actor.pause(IDLE_TIMEOUT * actor.random.uniform(0.8, 2.0))
            await echo(actor, client, kind="after silence")
        if actor.random.random() < 0.5:
            await client.close()
    finally:
        actor.ledger.sessions -= 1
        client.leave()
    actor.ledger.right["sessions"] += 1


async def churn(actor: Actor, server: str) -> None:
    """Open a session, call once, end it."""
    async with actor.session(server) as client:
        await echo(actor, client)
    actor.ledger.right["cycles"] += 1
    await actor.rest(0.1)
