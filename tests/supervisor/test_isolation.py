"""What a hostile server can and cannot do, as `docs/isolation.md` says; and what holds for a polite one."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest

from stdio_broker.errors import EndOfOutput, IsolationUnavailable, SpawnError
from stdio_broker.supervisor import (
    Child,
    Config,
    Isolation,
    IsolationLevel,
    Limits,
    Phase,
    describe_isolation,
    isolate,
    probe_isolation,
    start,
)
from stdio_broker.supervisor import isolation as isolation_module
from tests.supervisor.children import command, new_tag, ready_line
from tests.supervisor.programs import run
from tests.support import debian
from tests.support.processes import find_tagged, wait_until, wait_until_sync

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "isolation.md"
HOSTILE = ROOT / "tests" / "children" / "hostile_child.py"
MIB = 1024 * 1024

#: The levels that confine, in the order of the table.
LEVELS: tuple[IsolationLevel, ...] = ("none", "limits", "landlock", "bwrap")

#: Where the tests' own programs are, and the interpreter with what it links to.
PROGRAMS = tuple(
    sorted({str(ROOT / "tests"), sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent)})
)

LIMITS = Limits(nofile=64, file_bytes=2 * MIB)


@pytest.fixture(scope="module")
def bwrap() -> str:
    """Return the folder of bwrap, got from the distribution where it is not installed."""
    return str(debian.program("bubblewrap", "/usr/bin/bwrap").parent)


@pytest.fixture
def tools(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what puts the tool of a level on our PATH."""

    def put(level: str) -> None:
        if level == "bwrap":
            folder = request.getfixturevalue("bwrap")
            monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{folder}")

    return put


async def _usable(isolation: Isolation) -> Isolation:
    """Return the isolation; skip, and say why, where the kernel or the container forbids it."""
    try:
        await probe_isolation(isolation)
    except IsolationUnavailable as exc:
        pytest.skip(str(exc))
    return isolation


def _isolation(level: IsolationLevel, *, folder: Path | None = None) -> Isolation:
    """Return the strictest isolation of a level in which the tests' own programs run."""
    if level in {"none", "limits"}:
        return Isolation(level=level, limits=LIMITS if level == "limits" else Limits())
    writable = () if folder is None else (str(folder),)
    return Isolation(
        level=level,
        limits=LIMITS,
        network=False,
        read_only=PROGRAMS,
        read_write=writable,
        tmp_bytes=4 * MIB,
    )


def _without_rights(config: Config, level: IsolationLevel) -> Config:
    """Take all capabilities from a child: the table is about a broker that is not root, and CI's may be.

    Not in bwrap, which does that itself; and a root without them could not give the new namespace a root.
    """
    if os.geteuid() or level == "bwrap":
        return config
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")
    return replace(config, cmd=[*drop, *config.cmd])


# The table


def _table() -> dict[str, dict[str, bool]]:
    """Return what the document says: of each attempt, whether it succeeds at each level."""
    lines = DOCUMENT.read_text().partition("<!-- tests/supervisor/test_isolation.py")[2].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    header, _, *rows = rows[: next(index for index, row in enumerate(rows) if row[0] == "limit")]
    assert tuple(header) == ("it tries to", *LEVELS)
    return {
        attempt: {level: {"yes": True, "no": False}[cell] for level, cell in zip(LEVELS, cells, strict=True)}
        for attempt, *cells in rows
    }


@dataclass(frozen=True)
class World:
    """What is there to be attacked.

    Attributes:
        victim: Another child of the same user.
        marker: What stands in its environment and on its command line.
        theirs: A folder that belongs to the broker, with the file `state.db` in it.
        own: The working directory of the hostile one.
        tcp: Port of a service.
        udp: Port of another, which answers.
        unix: Path of a named socket that is listened to.
        abstract: Name of an abstract one.
    """

    victim: Child
    marker: str
    theirs: Path
    own: Path
    tcp: int
    udp: int
    unix: Path
    abstract: str


@dataclass(frozen=True)
class Attempt:
    """One row of the table: what the hostile child is asked to do."""

    method: str
    params: Callable[[World], dict[str, object]] = lambda _world: {}


ATTEMPTS = {
    "read another child's environment (`/proc/PID/environ`)": Attempt(
        "read-environment", lambda world: {"marker": world.marker}
    ),
    "see another process's command line": Attempt("read-arguments", lambda world: {"marker": world.marker}),
    "read a file of the broker's": Attempt(
        "read-file", lambda world: {"path": str(world.theirs / "state.db")}
    ),
    "list a folder of the broker's": Attempt("list-folder", lambda world: {"path": str(world.theirs)}),
    "make a file in a folder of the broker's": Attempt(
        "write-file", lambda world: {"path": str(world.theirs / "new")}
    ),
    "empty a file of the broker's": Attempt(
        "truncate-file", lambda world: {"path": str(world.theirs / "state.db")}
    ),
    "change its own working directory": Attempt("write-file", lambda world: {"path": str(world.own / "new")}),
    "write one file above `file_bytes`": Attempt("fill-file", lambda world: {"path": str(world.own / "big")}),
    "fill its working directory with many files": Attempt(
        "fill-folder", lambda world: {"path": str(world.own)}
    ),
    "fill the temporary directory above `tmp_bytes`": Attempt("fill-folder"),
    "fork many processes (without a limit of `processes`)": Attempt("fork-many"),
    "open more files than `nofile`": Attempt("open-many", lambda _world: {"count": 100}),
    "raise its own limits": Attempt("raise-limits"),
    "leave a core dump": Attempt("dump-core"),
    "gain rights by a set-uid program": Attempt("gain-rights"),
    "signal another process": Attempt("signal-process", lambda world: {"victim": world.victim.pid}),
    "trace another process (*)": Attempt("trace-process", lambda world: {"victim": world.victim.pid}),
    "connect to a TCP port of this host": Attempt("connect-tcp", lambda world: {"port": world.tcp}),
    "listen on a TCP port": Attempt("listen-tcp"),
    "send UDP to a port of this host": Attempt("send-udp", lambda world: {"port": world.udp}),
    "connect to a named Unix socket of this host": Attempt(
        "connect-unix", lambda world: {"path": str(world.unix)}
    ),
    "connect to an abstract Unix socket of this host": Attempt(
        "connect-abstract", lambda world: {"name": world.abstract}
    ),
}

#: Those that are judged by what is seen from outside.
STAYING, FLOODING = "leave a process behind when it is stopped", "fill the broker's memory with output"

TABLE = _table()
CELLS = [pytest.param(attempt, level, id=f"{attempt}-{level}") for attempt in ATTEMPTS for level in LEVELS]


def test_the_table_has_the_attempts_of_the_tests() -> None:
    assert list(TABLE) == [*ATTEMPTS, STAYING, FLOODING]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Make a world with a victim in it."""
    theirs, own = tmp_path / "theirs", tmp_path / "own"
    for folder in (theirs, own):
        folder.mkdir()
    (theirs / "state.db").write_text("secret")
    marker = f"secret-{uuid4().hex}"
    abstract = f"abstract-{uuid4().hex}"
    with contextlib.ExitStack() as undo:
        tcp, udp, unix, hidden = (
            undo.enter_context(socket.socket(family, kind))
            for family, kind in (
                (socket.AF_INET, socket.SOCK_STREAM),
                (socket.AF_INET, socket.SOCK_DGRAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
            )
        )
        # The path of a Unix socket has at most 107 bytes, and pytest's folders are long.
        folder = Path(f"/tmp/{marker[:20]}")  # noqa: S108 - a name that nobody else has
        folder.mkdir()
        undo.callback(shutil.rmtree, folder)
        for listener, address in (
            (tcp, ("127.0.0.1", 0)),
            (unix, str(folder / "socket")),
            (hidden, f"\0{abstract}"),
        ):
            listener.bind(address)
            listener.listen()
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)  # noqa: FBT003 - the function has no keyword
        loop = asyncio.get_running_loop()
        loop.add_reader(udp, lambda: udp.sendto(b"answer", udp.recvfrom(64)[1]))
        undo.callback(loop.remove_reader, udp)
        # SIGUSR1 is ignored by a `sleep` that says so; else a successful attack would end the test's victim.
        victim = await start(
            _without_rights(
                Config(
                    cmd=["env", "--ignore-signal=USR1", "sh", "-c", "echo ready; cat; :", marker],
                    env={"TOKEN": marker},
                    eof_grace=5,
                ),
                "none",
            )
        )
        async with victim:
            await ready_line(victim)
            yield World(
                victim=victim,
                marker=marker,
                theirs=theirs,
                own=own,
                tcp=tcp.getsockname()[1],
                udp=udp.getsockname()[1],
                unix=folder / "socket",
                abstract=abstract,
            )


async def _start_hostile(isolation: Isolation, own: Path, **options: object) -> Child:
    config = Config(cmd=[sys.executable, "-I", "-S", str(HOSTILE)], cwd=own)
    child = await start(_without_rights(isolate(replace(config, **options), isolation), isolation.level))  # type: ignore[arg-type]
    try:
        await ready_line(child)
    except EndOfOutput:
        await child.wait()
        pytest.fail(f"the hostile child did not start: {child.stderr_tail}")
    return child


async def _ask(child: Child, method: str, **params: object) -> dict[str, object]:
    await child.stdin.send(json.dumps({"id": 1, "method": method, "params": params}).encode())
    while not (line := await child.stdout.receive()).startswith(b"{"):
        pass
    result = json.loads(line)["result"]
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize(("attempt", "level"), CELLS)
async def test_a_hostile_server_can_do_what_the_table_says(
    attempt: str, level: IsolationLevel, world: World, tools: Callable[[str], None]
) -> None:
    """Ours: `docs/isolation.md`."""
    tools(level)
    isolation = await _usable(_isolation(level))
    async with await _start_hostile(isolation, world.own) as child:
        row = ATTEMPTS[attempt]
        result = await _ask(child, row.method, **row.params(world))
        # It is still there, and answers: it has done what it could.
        await _ask(child, "gain-rights")
    expected = TABLE[attempt][level]
    if row.method == "trace-process" and _yama():
        expected = False
    assert result["done"] is expected, result


def _yama() -> bool:
    try:
        return Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip() != "0"
    except OSError:
        return False


@pytest.mark.parametrize("level", LEVELS)
async def test_a_hostile_server_leaves_nothing_behind(
    level: IsolationLevel, tmp_path: Path, tools: Callable[[str], None]
) -> None:
    """A daemon that ignores signals, in a session of its own, ends with the server."""
    assert TABLE[STAYING] == dict.fromkeys(LEVELS, False)
    tools(level)
    isolation = await _usable(_isolation(level))
    tag = new_tag()
    async with await _start_hostile(isolation, tmp_path, eof_grace=5.0) as child:
        await _ask(child, "stay-behind", marker=tag)
        await wait_until(lambda: bool(find_tagged(tag)), what="exec of the daemon")
    await wait_until(lambda: not find_tagged(tag), what="end of the daemon")


@pytest.mark.parametrize("level", LEVELS)
async def test_a_flood_of_output_is_not_kept(
    level: IsolationLevel, tmp_path: Path, tools: Callable[[str], None]
) -> None:
    """Lines without an end are cut, and nobody is made to remember more than the bounds say."""
    assert TABLE[FLOODING] == dict.fromkeys(LEVELS, False)
    tools(level)
    isolation = await _usable(_isolation(level))
    options = {"max_line_bytes": 64 * 1024, "stdout_buffer_bytes": 64 * 1024, "stderr_tail_lines": 8}
    async with await _start_hostile(isolation, tmp_path, **options) as child:
        await child.stdin.send(
            json.dumps({"id": 1, "method": "flood", "params": {"amount": 4 * MIB}}).encode()
        )
        seen, oversize = 0, 0
        while True:
            # At any time there is at most what the buffer holds, and what one read brings.
            lines = await child.stdout.receive_many()
            kept = [line for line in lines if isinstance(line, bytes)]
            assert sum(map(len, kept)) <= 2 * 64 * 1024 + 64 * 1024
            seen, oversize = seen + len(kept), oversize + len(lines) - len(kept)
            if kept and kept[-1].startswith(b"{"):
                break
        assert seen == 4 * 1024 + 1
        assert oversize == 1
        assert len(child.stderr_tail) <= 8


# What holds for a polite server at every level


async def _start(level: IsolationLevel, *cmd: object, **options: object) -> Child:
    config = Config(cmd=[str(word) for word in cmd])
    isolation = await _usable(_isolation(level))
    return await start(isolate(replace(config, **options), isolation))  # type: ignore[arg-type]


@pytest.mark.parametrize("level", LEVELS)
async def test_lines_go_both_ways_and_eof_reaches_the_child(
    level: IsolationLevel, tools: Callable[[str], None]
) -> None:
    tools(level)
    child = await _start(level, "sh", "-c", "cat; echo end >&2; exit 7", eof_grace=30.0)
    await child.stdin.send(b"hello")
    assert await child.stdout.receive() == b"hello"
    child.stdin.close()
    status = await child.wait()
    assert (status.code, status.phase) == (7, Phase.SELF)
    assert child.stderr_tail == ("end",)


@pytest.mark.parametrize("level", LEVELS)
async def test_sigterm_reaches_the_child_itself(level: IsolationLevel, tools: Callable[[str], None]) -> None:
    """It may take its time, and say something; what stands in front of it must not take it along."""
    tools(level)
    script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
    child = await _start(level, "sh", "-c", script, eof_grace=0.0, stop_grace=30.0)
    await ready_line(child)
    status = await child.stop()
    assert (status.code, status.phase) == (3, Phase.TERM)
    assert await child.stdout.receive() == b"bye"


@pytest.mark.parametrize("level", LEVELS)
async def test_a_child_without_a_handler_ends_by_sigterm(
    level: IsolationLevel, tools: Callable[[str], None]
) -> None:
    tools(level)
    child = await _start(level, "sh", "-c", "echo ready; exec sleep 300", eof_grace=0.0, stop_grace=30.0)
    await ready_line(child)
    status = await child.stop()
    assert (status.signal, status.phase) == (signal.SIGTERM, Phase.TERM)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
async def test_a_child_that_ends_by_a_signal_is_reported_so(
    level: IsolationLevel, number: signal.Signals, tools: Callable[[str], None]
) -> None:
    tools(level)
    child = await _start(level, "sh", "-c", f"kill -{number.value} $$")
    status = await child.wait()
    assert (status.code, status.signal, status.core) == (None, number, False)


@pytest.mark.parametrize("level", LEVELS)
async def test_a_stubborn_child_is_killed_with_all_it_has(
    level: IsolationLevel, tools: Callable[[str], None]
) -> None:
    tools(level)
    tag = new_tag()
    child = await _start(level, *command("stubborn", tag), eof_grace=0.05, stop_grace=0.05)
    await ready_line(child)
    status = await child.stop()
    assert status.phase is Phase.KILL
    assert not status.survivors
    await wait_until(lambda: not find_tagged(tag), what="end of everybody")


@pytest.mark.parametrize("containment", ["group", "shim"])
@pytest.mark.parametrize("level", LEVELS)
async def test_what_holds_the_descendants_goes_with_every_level(
    level: IsolationLevel, containment: str, tools: Callable[[str], None]
) -> None:
    tools(level)
    tag = new_tag()
    child = await _start(
        level, *command("daemon", tag), containment=containment, eof_grace=0.05, stop_grace=0.05
    )
    await ready_line(child)
    await child.stop()
    await wait_until(lambda: not find_tagged(tag), what="end of everybody")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["stubborn", "daemon"])
def test_a_broker_that_is_killed_takes_an_isolated_child_with_it(
    level: IsolationLevel, kind: str, tmp_path: Path, tools: Callable[[str], None]
) -> None:
    """F9, by the warden; pid namespaces included."""
    tools(level)
    tag = new_tag()
    path = os.environ["PATH"]
    result = run(
        f"""
        from stdio_broker.supervisor import Isolation, IsolationUnavailable, Limits, isolate, probe_isolation

        async def main():
            os.environ["PATH"] = {path!r}
            os.environ["TMPDIR"] = {str(tmp_path)!r}  # its temporary directories are left, for the next one
            confined = {level!r} not in ("none", "limits")
            isolation = Isolation(level={level!r}, read_only={PROGRAMS!r} if confined else ())
            try:
                await probe_isolation(isolation)
            except IsolationUnavailable as exc:
                sys.exit(f"skip: {{exc}}")
            await ready(await start(isolate(Config(cmd=command, eof_grace=0.1, stop_grace=0.1), isolation)))
            print("ready", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
        """,
        *command(kind, tag),
    )
    if "skip: " in result.stderr:
        pytest.skip(result.stderr.partition("skip: ")[2].strip())
    assert result.stdout == "ready\n", result.stderr
    wait_until_sync(lambda: not find_tagged(tag), what="end of everything that the test has started")


@pytest.mark.parametrize("level", LEVELS)
async def test_secrets_are_in_the_environment_and_in_no_argument(
    level: IsolationLevel, tools: Callable[[str], None]
) -> None:
    tools(level)
    secret = f"secret-{uuid4().hex}"
    config = Config(cmd=["env"], env={"TOKEN": secret})
    isolated = isolate(config, await _usable(_isolation(level)))
    assert not any(secret in str(word) for word in isolated.cmd)
    assert secret not in repr(isolated)
    child = await start(isolated)
    lines = [line async for line in child.stdout]
    assert f"TOKEN={secret}".encode() in lines
    await child.wait()


@pytest.mark.parametrize("level", LEVELS)
async def test_the_child_gets_the_environment_as_it_is(
    level: IsolationLevel, tools: Callable[[str], None]
) -> None:
    """Nothing that stands in front of it adds a variable, but for the temporary directory and the mark."""
    tools(level)
    child = await _start(level, "env", inherit_env=(), env={"PATH": os.environ["PATH"], "A": "1"})
    names = {line.partition(b"=")[0] async for line in child.stdout}
    await child.wait()
    assert {b"PATH", b"A"} <= names
    assert names <= {b"PATH", b"A", b"STDIO_BROKER_CHILD", b"TMPDIR", b"TMP", b"TEMP", b"PWD"}


@pytest.mark.parametrize("level", ["limits", "landlock", "bwrap"])
async def test_signals_are_as_a_program_expects_them(
    level: IsolationLevel, tools: Callable[[str], None]
) -> None:
    """What a launcher ignores or blocks itself, the child must not inherit."""
    tools(level)
    child = await _start(level, "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    lines = [line async for line in child.stdout]
    await child.wait()
    assert [int(line.split()[1], 16) & ~(3 << 31) for line in lines] == [0, 0]


@pytest.mark.parametrize("level", ["landlock", "bwrap"])
async def test_a_confined_child_has_a_temporary_directory_of_its_own(
    level: IsolationLevel, tools: Callable[[str], None]
) -> None:
    tools(level)
    script = 'echo x > "$TMPDIR/file" && echo "$TMPDIR" && pwd'
    child = await _start(level, "sh", "-c", script)
    folder = (await child.stdout.receive()).decode()
    directory = (await child.stdout.receive()).decode()
    await child.wait()
    assert directory == {"landlock": "/", "bwrap": "/tmp"}[level]  # noqa: S108 - the child's own
    if level == "landlock":
        assert "stdio-broker-tmp-" in folder
        await wait_until(lambda: not Path(folder).exists(), what="removal")
    else:
        assert not Path(folder, "file").exists()


@pytest.mark.parametrize("level", ["landlock", "bwrap"])
async def test_a_working_directory_in_read_only_is_read_only(
    level: IsolationLevel, tmp_path: Path, tools: Callable[[str], None]
) -> None:
    tools(level)
    isolation = await _usable(Isolation(level=level, read_only=(str(tmp_path),)))
    config = Config(cmd=["sh", "-c", "pwd; echo x > file"], cwd=tmp_path)
    child = await start(isolate(config, isolation))
    assert await child.stdout.receive() == str(tmp_path).encode()
    status = await child.wait()
    assert status.code != 0
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("level", ["landlock", "bwrap"])
async def test_paths_to_change_can_be_changed(
    level: IsolationLevel, tmp_path: Path, tools: Callable[[str], None]
) -> None:
    tools(level)
    isolation = await _usable(Isolation(level=level, read_write=(str(tmp_path),)))
    config = Config(
        cmd=["sh", "-c", f"mkdir {tmp_path}/a && echo x > {tmp_path}/a/b && mv {tmp_path}/a {tmp_path}/c"]
    )
    child = await start(isolate(config, isolation))
    assert (await child.wait()).code == 0, child.stderr_tail
    assert (tmp_path / "c" / "b").read_text() == "x\n"


async def test_in_bwrap_the_deeper_path_wins(tmp_path: Path, tools: Callable[[str], None]) -> None:
    tools("bwrap")
    inner = tmp_path / "inner"
    inner.mkdir()
    isolation = await _usable(Isolation(level="bwrap", read_write=(str(tmp_path),), read_only=(str(inner),)))
    config = Config(cmd=["sh", "-c", f"echo x > {tmp_path}/a; echo x > {inner}/b"])
    child = await start(isolate(config, isolation))
    await child.wait()
    assert (tmp_path / "a").exists()
    assert not (inner / "b").exists()


async def test_in_bwrap_nothing_but_what_is_bound_can_be_written_to(tools: Callable[[str], None]) -> None:
    """The rest is memory that nobody counts: `/` and `/dev`."""
    tools("bwrap")
    for path in ("/new", "/dev/new", "/usr/new", "/etc/new"):
        child = await _start("bwrap", "sh", "-c", f"echo x > {path}")
        assert (await child.wait()).code != 0, path


@pytest.mark.parametrize("level", ["landlock", "bwrap"])
async def test_a_confined_child_of_root_has_no_rights_of_root(
    level: IsolationLevel, tools: Callable[[str], None]
) -> None:
    tools(level)
    child = await _start(level, "grep", "-E", "^(Cap(Prm|Eff)|NoNewPrivs)", "/proc/self/status")
    lines = [line.split() async for line in child.stdout]
    await child.wait()
    assert {name: int(value, 16) for name, value in lines} == {
        b"CapPrm:": 0,
        b"CapEff:": 0,
        b"NoNewPrivs:": 1,
    }


# The rewriting


def test_the_default_level_is_limits() -> None:
    isolation = Isolation()
    assert isolation.level == "limits"
    assert isolation.limits == Limits()


def test_level_none_keeps_the_command_and_no_core() -> None:
    config = isolate(Config(cmd=["cat"]), Isolation(level="none"))
    assert config.cmd == ["cat"]
    assert config.limits == Limits(core_bytes=0, oom_score_adj=None)


def test_level_none_keeps_what_was_asked_for() -> None:
    config = isolate(
        Config(cmd=["cat"]), Isolation(level="none", limits=Limits(oom_score_adj=300, nofile=64))
    )
    assert config.limits == Limits(core_bytes=0, oom_score_adj=300, nofile=64)


def _found_in(folder: str) -> Callable[..., str]:
    return lambda name, **_: f"{folder}/{name}"


def test_level_limits_puts_setpriv_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    cat = shutil.which("cat")
    monkeypatch.setattr(shutil, "which", _found_in("/found"))
    config = isolate(Config(cmd=["cat", "-n"]), Isolation())
    assert config.cmd == ["/found/setpriv", "--no-new-privs", "--", "/found/cat", "-n"]
    monkeypatch.setattr(shutil, "which", lambda _name, path=None: cat if path else None)
    assert isolate(Config(cmd=["cat", "-n"]), Isolation()).cmd == [cat, "-n"]


def test_a_wrapper_is_filled_in() -> None:
    isolation = Isolation(level="wrapper", wrapper=("nsjail", "--", "{cmd}", "--end"))
    config = isolate(Config(cmd=["server", "a b"]), isolation)
    assert config.cmd == ["nsjail", "--", "server", "a b", "--end"]
    assert config.limits == Limits()


async def test_a_wrapper_runs_the_command() -> None:
    isolation = Isolation(level="wrapper", wrapper=("env", "A=1", "{cmd}"))
    await probe_isolation(isolation)
    child = await start(isolate(Config(cmd=["sh", "-c", "echo $A"]), isolation))
    assert await child.stdout.receive() == b"1"
    await child.wait()


@pytest.mark.parametrize("level", ["limits", "landlock", "bwrap"])
def test_a_program_that_is_not_there_is_named_before_anything_is_started(
    level: IsolationLevel, tools: Callable[[str], None]
) -> None:
    """What stands in front of it would be found, and say something of its own on stderr."""
    tools(level)
    with pytest.raises(SpawnError, match=r"no such command on the child's PATH \(/nowhere\)"):
        isolate(Config(cmd=["no-such"], env={"PATH": "/nowhere"}), Isolation(level=level))
    for path in ("/no/such", "/etc/passwd", "/usr"):
        with pytest.raises(SpawnError, match="there is no such file, or it is not executable"):
            isolate(Config(cmd=[path]), Isolation(level=level))


async def test_a_program_is_found_in_the_childs_directory(tmp_path: Path) -> None:
    """As execve does, which happens there."""
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\necho ready\n")
    program.chmod(0o700)
    child = await start(isolate(Config(cmd=["./server"], cwd=tmp_path), Isolation()))
    await ready_line(child)
    await child.wait()


@pytest.mark.parametrize("level", ["landlock", "bwrap"])
def test_a_program_that_the_child_could_not_see_is_named(
    level: IsolationLevel, tmp_path: Path, tools: Callable[[str], None]
) -> None:
    """Both the link and what it leads to."""
    tools(level)
    hidden, shown = tmp_path / "hidden", tmp_path / "shown"
    for folder in (hidden, shown):
        folder.mkdir()
    (hidden / "server").write_text("#!/bin/sh\n")
    (hidden / "server").chmod(0o700)
    (shown / "server").symlink_to(hidden / "server")
    for program in (hidden / "server", shown / "server"):
        with pytest.raises(SpawnError, match=re.escape(f"may not see {hidden}/server; add a folder")):
            isolate(Config(cmd=[program]), Isolation(level=level, read_only=(str(shown),)))


def test_what_bwrap_hides_is_not_brought_back(tools: Callable[[str], None]) -> None:
    """The system's own /proc, inside, would show everybody's environment again."""
    tools("bwrap")
    for path in ("/", "/proc", "/proc/1"):
        for isolation in (
            Isolation(level="bwrap", read_only=(path,)),
            Isolation(level="bwrap", read_write=(path,)),
        ):
            with pytest.raises(ValueError, match="none that brings back what bwrap hides"):
                isolate(Config(cmd=["cat"]), isolation)
        with pytest.raises(ValueError, match="none that brings back what bwrap hides"):
            isolate(Config(cmd=["cat"], cwd=path), Isolation(level="bwrap"))


def test_bwrap_leaves_no_orphans(tools: Callable[[str], None]) -> None:
    tools("bwrap")
    with pytest.raises(ValueError, match='orphans: expected "kill" with isolation "bwrap"'):
        isolate(Config(cmd=["cat"], orphans="leave"), Isolation(level="bwrap"))


def test_env_would_take_such_a_path_for_a_variable(tmp_path: Path, tools: Callable[[str], None]) -> None:
    tools("bwrap")
    program = tmp_path / "a=b"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    with pytest.raises(SpawnError, match='takes a path with "=" for a variable'):
        isolate(Config(cmd=[program]), Isolation(level="bwrap", read_only=(str(tmp_path),)))


def test_a_tmpdir_that_was_asked_for_is_kept_in_bwrap(tools: Callable[[str], None]) -> None:
    tools("bwrap")
    config = isolate(Config(cmd=["cat"], env={"TMPDIR": "/tmp/mine"}), Isolation(level="bwrap"))  # noqa: S108
    assert config.env["TMPDIR"] == "/tmp/mine"  # noqa: S108


def test_a_system_without_merged_usr_has_its_folders_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: Callable[[str], None]
) -> None:
    tools("bwrap")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib64").symlink_to("lib")
    monkeypatch.setattr(
        isolation_module,
        "SYSTEM",
        ("/usr", "/bin", *(f"{tmp_path}/{name}" for name in ("lib", "lib64", "none"))),
    )
    words = " ".join(map(str, isolate(Config(cmd=["cat"]), Isolation(level="bwrap")).cmd))
    assert f"--ro-bind {tmp_path}/lib {tmp_path}/lib --symlink lib {tmp_path}/lib64" in words
    assert f"{tmp_path}/none" not in words


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"level": "strict"},
            'level: expected one of "none", "limits", "landlock", "bwrap", "wrapper", found',
        ),
        ({"level": "bwrap", "read_only": "/a"}, "read_only: expected a tuple of strings, found '/a'"),
        ({"level": "bwrap", "read_write": (1,)}, "read_write: expected a tuple of strings, found"),
        (
            {"level": "bwrap", "read_only": ("a",)},
            "read_only: expected absolute paths without . and .., found 'a'",
        ),
        ({"level": "bwrap", "read_only": ("/a/../b",)}, "read_only: expected absolute paths"),
        ({"level": "bwrap", "read_only": ("//a",)}, "read_only: expected absolute paths"),
        ({"level": "bwrap", "read_only": ("/a\0",)}, "read_only: expected absolute paths"),
        ({"level": "bwrap", "tmp_bytes": 1}, "tmp_bytes: expected 1048576 or more, found 1"),
        ({"read_only": ("/a",)}, 'read_only: expected none with level "limits", which hides no files'),
        ({"level": "none", "read_write": ("/a",)}, 'read_write: expected none with level "none"'),
        (
            {"network": False},
            'network: expected true with level "limits", which cannot cut it off, found false',
        ),
        ({"wrapper": ("a", "{cmd}")}, 'wrapper: expected none with level "limits", found'),
        ({"level": "wrapper"}, 'wrapper: expected a program and arguments, one of them "{cmd}", found []'),
        ({"level": "wrapper", "wrapper": ("{cmd}",)}, "wrapper: expected a program and arguments"),
        (
            {"level": "wrapper", "wrapper": ("a", "{cmd}", "{cmd}")},
            "wrapper: expected a program and arguments",
        ),
        ({"level": "wrapper", "wrapper": "a {cmd}"}, "wrapper: expected a tuple of strings"),
        (
            {"level": "landlock", "read_only": ("/a/b",), "read_write": ("/a",)},
            "read_only: with landlock expected none inside read_write, found '/a/b' in '/a'",
        ),
    ],
)
def test_what_a_level_could_not_honour_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Isolation(**fields)  # type: ignore[arg-type]


def test_landlock_cannot_take_back_a_folder_in_the_working_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="with landlock expected none inside read_write"):
        isolate(
            Config(cmd=["cat"], cwd=tmp_path),
            Isolation(level="landlock", read_only=(str(tmp_path / "inner"),)),
        )


# Probing and describing


async def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which
    monkeypatch.setattr(
        shutil,
        "which",
        lambda name, path=None: None if name == "bwrap" else found(name, path=path),
    )
    with pytest.raises(IsolationUnavailable, match="bwrap is not installed") as caught:
        await probe_isolation(Isolation(level="bwrap"))
    assert caught.value.level == "bwrap"


async def test_without_an_interpreter_there_is_no_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(IsolationUnavailable, match="needs an interpreter"):
        await probe_isolation(Isolation(level="landlock"))


async def test_a_wrapper_that_is_not_there_is_said() -> None:
    with pytest.raises(IsolationUnavailable, match="no such command on our PATH"):
        await probe_isolation(Isolation(level="wrapper", wrapper=("no-such", "{cmd}")))


@pytest.mark.parametrize("level", ["landlock", "bwrap"])
async def test_a_path_that_is_not_there_fails_the_probe(
    level: IsolationLevel, tmp_path: Path, tools: Callable[[str], None]
) -> None:
    """And so the check of a configuration, not the first session of a user."""
    tools(level)
    await _usable(Isolation(level=level))
    missing = str(tmp_path / "missing")
    with pytest.raises(IsolationUnavailable, match=re.escape(missing)):
        await probe_isolation(Isolation(level=level, read_only=(missing,)))


async def test_a_limit_that_cannot_be_set_fails_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("its limit nofile cannot be set to 64: not permitted")

    monkeypatch.setattr("stdio_broker.supervisor.spawner.apply_limits", refuse)
    with pytest.raises(IsolationUnavailable, match="'limits' is not available here: its limit nofile"):
        await probe_isolation(Isolation())


@pytest.mark.parametrize(
    ("script", "message"),
    [("echo why >&2; exit 1", "why"), ("exit 3", "exited with code 3"), ("sleep 300", "SIGKILL")],
)
async def test_the_probe_says_what_the_level_said(
    script: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last word on stderr; else how it ended."""
    monkeypatch.setattr(isolation_module, "PROBE_TIMEOUT", 0.5 if "sleep" in script else 30.0)
    monkeypatch.setattr(isolation_module, "isolate", lambda *_: Config(cmd=["sh", "-c", script]))
    with pytest.raises(IsolationUnavailable, match=message):
        await probe_isolation(Isolation(level="bwrap"))


def test_the_description_says_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    level: IsolationLevel
    for level in ("none", "limits"):
        assert any(
            "NOT: protection from its siblings" in line for line in describe_isolation(Isolation(level=level))
        )
    for level in ("landlock", "bwrap"):
        text = "\n".join(describe_isolation(Isolation(level=level, read_only=("/a",), read_write=("/b",))))
        assert "siblings" not in text
        assert "NOT: protection of the network" in text
        assert "read-only: /a" in text
        assert "to change: /b" in text
        assert "NOT: protection of the network" not in "\n".join(
            describe_isolation(Isolation(level=level, network=False))
        )
    wrapper = Isolation(level="wrapper", wrapper=("nsjail", "{cmd}"))
    assert describe_isolation(wrapper)[0] == "whatever nsjail gives; its limits are the wrapper's"
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert "NOT: no_new_privs, because setpriv is not installed" in describe_isolation(Isolation())


def test_the_description_names_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = describe_isolation(Isolation(limits=Limits(nofile=64)))
    assert [line for line in lines if line.startswith("limit")] == [
        "limit nofile: 64",
        "limit core_bytes: 0",
        "limit oom_score_adj: 200",
    ]
    assert "limit oom_score_adj: 200" not in describe_isolation(Isolation(level="none"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "NOT: limit core_bytes 0, which needs Linux" in describe_isolation(Isolation())
