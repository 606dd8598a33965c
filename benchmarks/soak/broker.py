"""The broker of the soak: its configuration, keys of its users, reloads, its log, what the kernel says of it.

A real `stdio-broker serve` and the real commands beside it, as an operator has them.
"""

import asyncio
import contextlib
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak.client import Json, member
from benchmarks.tools import ROOT

__all__ = [
    "IDLE_TIMEOUT",
    "Broker",
    "BrokerEnded",
    "CommandFailed",
    "Reading",
    "read_process",
    "read_processes",
    "serving",
]

# Short, so that all can fall asleep, and end, between two looks at the state at rest.
IDLE_TIMEOUT = 2.0
_SESSION_TIMEOUT = 12.0
_LONG_IDLE_TIMEOUT = 8.0

_READY_TIMEOUT = 60.0
_COMMAND_TIMEOUT = 60.0
_RELOAD_TIMEOUT = 30.0
_STOP_TIMEOUT = 60.0
_LOG_LINE_MAX_BYTES = 4 * 1024 * 1024
_LOG_LINES_KEPT = 20
_WHOSE = "SOAK_WHOSE"
_SERIOUS = ("error", "critical")


class BrokerEnded(Exception):
    """The broker has ended by itself, or did not come up; what its log said of mistakes follows."""


class CommandFailed(Exception):
    """A command beside the broker has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the kernel says of the broker at one moment.

    Args:
        rss_kb: Resident set size; `pss_kb`: with its share only of what others have in memory too;
            `heap_kb`: without what stands in files.
        children: Processes that it has started and not yet reaped, the warden among them.
        zombies: Those of them that have ended.
    """

    rss_kb: int
    pss_kb: int
    heap_kb: int
    fds: int
    threads: int
    children: int
    zombies: int


@dataclass(slots=True)
class Broker:
    """One that serves.

    Args:
        tag: In the command line of every child, to find those that are left.
        generation: How often the configuration was changed.
        events: How often each event stood in the log.
        serious: The first lines of the log that tell of a mistake of the broker.
    """

    process: asyncio.subprocess.Process
    folder: Path
    child: tuple[str, ...]
    tag: str
    port: int = 0
    generation: int = 0
    events: Counter[str] = field(default_factory=Counter)
    serious: list[str] = field(default_factory=list)
    logged: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def pid(self) -> int:
        """The process itself."""
        return self.process.pid

    async def create_key(self, principal: str) -> str:
        """Make a key for a user, as an operator does."""
        return (await self._key("create", "--principal", principal)).strip()

    async def revoke(self, principal: str) -> None:
        """Revoke all keys of a user."""
        await self._key("revoke", "--principal", principal)

    async def _key(self, *words: str) -> str:
        argv = (
            sys.executable,
            "-m",
            "stdio_broker",
            "key",
            words[0],
            "--config",
            str(self.folder / "broker.toml"),
            *words[1:],
        )
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, stdout=pipe, stderr=pipe)
        async with asyncio.timeout(_COMMAND_TIMEOUT):
            out, err = await process.communicate()
        if process.returncode:
            raise CommandFailed(f"`key {words[0]}` ended with {process.returncode}: {err.decode()[-500:]}")
        return out.decode()

    async def reload(self, *, more: bool) -> None:
        """Change the configuration, send SIGHUP, and wait until the broker says that it has taken it.

        Args:
            more: Whether there is one server more than usual.
        """
        self.generation += 1
        seen = self.events["configuration.reloaded"]
        write_configuration(self.folder, self.child, self.tag, generation=self.generation, more=more)
        self.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(_RELOAD_TIMEOUT), self.logged:
            await self.logged.wait_for(lambda: self.events["configuration.reloaded"] > seen)

    def children_of(self, server: str, principal: str) -> list[int]:
        """Return the pids of one user's children of one server, by the environment that they were given."""
        mark = f"{_WHOSE}={server}/{principal}".encode()
        return [pid for pid in _children(self.pid) if mark in _environment(pid)]

    def has_child(self, pid: int) -> bool:
        """Return whether a process is the broker's child, alive or not yet reaped."""
        return pid in _children(self.pid)

    def look(self) -> Reading:
        """Return its state now.

        Raises:
            BrokerEnded: It has none any more.
        """
        try:
            return read_process(self.pid)
        except (OSError, KeyError) as exc:
            raise BrokerEnded(f"expected that it runs, found {exc!r}; log: {self.serious}") from exc

    async def stop(self) -> tuple[int, float]:
        """Send SIGTERM: the exit code, and after how many seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.process.terminate()
        async with asyncio.timeout(_STOP_TIMEOUT):
            return await self.process.wait(), loop.time() - began

    async def follow_log(self) -> None:
        """Count the events of its log until it ends."""
        assert self.process.stderr
        async for line in self.process.stderr:
            await self._note(line)

    async def _note(self, line: bytes) -> None:
        try:
            entry: Json = json.loads(line)
        except ValueError:
            entry = {"level": "error", "event": "no JSON"}
        event, level = member(entry, "event"), member(entry, "level")
        if str(level).lower() in _SERIOUS and len(self.serious) < _LOG_LINES_KEPT:
            self.serious.append(line.decode(errors="replace")[:2000].strip())
        async with self.logged:
            self.events[str(event)] += 1
            self.logged.notify_all()


def write_configuration(
    folder: Path, child: tuple[str, ...], tag: str, *, generation: int = 0, more: bool = False
) -> None:
    """Write the file under another name, and rename it.

    Args:
        folder: Where it is, and the database.
        child: How its children are started.
        tag: The last of their arguments.
        generation: Stands in the environment of one server's children, so that each is another recipe.
        more: Whether there is one server more than usual.
    """

    def server(name: str, era: str, *, idle_timeout: float = _LONG_IDLE_TIMEOUT, made: int = 0) -> str:
        return (
            f"[servers.{name}]\ncommand = {json.dumps(child[0])}\n"
            f"args = {json.dumps([*child[1:], era, tag])}\n"
            f'env = {{ {_WHOSE} = "{name}/${{principal.name}}", GENERATION = "{made}" }}\n'
            f"idle_timeout = {idle_timeout}\nsession_timeout = {_SESSION_TIMEOUT}\n"
        )

    tables = [
        "[http]\nport = 0\n",
        # The soak is full of what these limits are there for: opening a session for each call.
        "[limits]\nstarts_per_minute = 100000\nstart_burst = 1000\n",
        f"[storage]\nurl = {json.dumps(f'sqlite:///{folder}/keys.db')}\n",
        server("legacy", "legacy"),
        server("modern", "modern"),
        server("both", ""),
        server("sleepy", "legacy", idle_timeout=IDLE_TIMEOUT),
        server("fragile", "legacy"),
        server("fragile-modern", "modern"),
        server("changing", "legacy", made=generation),
    ]
    if more:
        tables.append(server("more", "legacy"))
    unfinished = folder / "broker.toml.new"
    unfinished.write_text("\n".join(tables))
    unfinished.rename(folder / "broker.toml")


@contextlib.asynccontextmanager
async def serving(folder: Path, child: tuple[str, ...], tag: str) -> AsyncIterator[Broker]:
    """Start a broker and wait until it serves; kill it if the block has not stopped it.

    Raises:
        BrokerEnded: It does not get ready.
    """
    write_configuration(folder, child, tag)
    pipe = asyncio.subprocess.PIPE
    argv = (sys.executable, "-m", "stdio_broker", "serve", "--config", str(folder / "broker.toml"))
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=ROOT, stdout=pipe, stderr=pipe, limit=_LOG_LINE_MAX_BYTES, start_new_session=True
    )
    broker = Broker(process, folder, child, tag)
    log = asyncio.create_task(broker.follow_log())
    try:
        assert broker.process.stdout
        async with asyncio.timeout(_READY_TIMEOUT):
            line = (await broker.process.stdout.readline()).decode()
        _, _, rest = line.partition("http://127.0.0.1:")
        if not rest:
            raise BrokerEnded(f"expected a line with the URL, found {line!r}; log: {broker.serious}")
        broker.port = int(rest.partition(",")[0])
        yield broker
    finally:
        if broker.process.returncode is None:
            broker.process.kill()
            await broker.process.wait()
        await log


def read_process(pid: int) -> Reading:
    """Read the state of a broker now."""
    memory = _fields(f"/proc/{pid}/smaps_rollup")
    children = _children(pid)
    return Reading(
        rss_kb=int(memory["Rss"]),
        pss_kb=int(memory["Pss"]),
        heap_kb=int(memory["Anonymous"]),
        fds=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        threads=int(_fields(f"/proc/{pid}/status")["Threads"]),
        children=len(children),
        zombies=sum(state == "Z" for state in children.values()),
    )


def read_processes(tag: str) -> list[int]:
    """Return the pids of the processes that have the tag in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if tag.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


def _children(parent: int) -> dict[int, str]:
    """Return the state of each child of a process, by pid."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, ppid = entry.read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent:
                found[int(entry.parent.name)] = state
    return found


def _environment(pid: int) -> list[bytes]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


def _fields(path: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in Path(path).read_text().splitlines() if ":" in line)
    return {name: value.split()[0] for name, value in pairs if value.split()}
