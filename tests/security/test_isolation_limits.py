"""What isolation does not do, where one might think that it does; and a little of what it does.

The rest is in `supervisor.test_isolation`. Source: docs/isolation.md; identity reference, T17.
"""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from stdio_broker.errors import IsolationUnavailable
from stdio_broker.supervisor import (
    Child,
    Config,
    Isolation,
    IsolationLevel,
    isolate,
    probe_isolation,
    start,
)
from tests.support import debian

confining = pytest.mark.parametrize("level", ["landlock", "bwrap"])

#: Where the interpreter of the tests is.
PROGRAMS = tuple(sorted({sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent)}))

#: Says where a marker stands in the environment of another process, or that it stands nowhere.
SPY = 'echo ready; read marker; grep -ls "$marker" /proc/[0-9]*/environ; echo over'


@pytest.fixture
def tools(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what puts the tool of a level on our PATH."""

    def put(level: str) -> None:
        if level == "bwrap":
            folder = debian.program("bubblewrap", "/usr/bin/bwrap").parent
            monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{folder}")

    return put


def without_rights(config: Config, level: str) -> Config:
    """Take all capabilities from a child: a broker should not be root, and the user of the tests may be."""
    if os.geteuid() or level == "bwrap":
        return config
    return Config(
        cmd=["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", *config.cmd], env=config.env
    )


async def started(level: IsolationLevel, *cmd: str, **env: str) -> Child:
    """Start a program at a level, and wait for its first line; skip where the machine cannot."""
    isolation = Isolation(level=level, read_only=() if level == "limits" else PROGRAMS)
    try:
        await probe_isolation(isolation)
    except IsolationUnavailable as exc:
        pytest.skip(str(exc))
    isolated = isolate(Config(cmd=cmd, env=env, eof_grace=5), isolation)
    child = await start(isolated if level == "landlock" else without_rights(isolated, level))
    assert await child.stdout.receive() == b"ready", child.stderr_tail
    return child


async def spied(spy: Child, marker: str) -> bool:
    """Return whether a spy finds a marker."""
    await spy.stdin.send(marker.encode())
    return await spy.stdout.receive() != b"over"


@confining
async def test_isolation_keeps_a_server_in_and_nobody_out(
    level: IsolationLevel, tools: Callable[[str], None]
) -> None:
    """docs/isolation.md: one server at `limits` reads the credentials of all, however these are isolated.

    And none of those that are isolated reads any.
    """
    tools(level)
    marker = f"secret-{uuid.uuid4().hex}"
    async with (
        await started(level, "sh", "-c", "echo ready; cat", TOKEN=marker),
        await started("limits", "sh", "-c", SPY) as spy,
        await started(level, "sh", "-c", SPY) as isolated,
    ):
        assert await spied(spy, marker)
        assert not await spied(isolated, marker)


@pytest.mark.parametrize(("level", "reaches"), [("landlock", False), ("bwrap", True)])
async def test_with_a_network_bwrap_reaches_abstract_sockets_and_landlock_does_not(
    level: IsolationLevel,
    reaches: bool,  # noqa: FBT001 - a parameter of the test
    tools: Callable[[str], None],
) -> None:
    """docs/isolation.md, "Network": abstract Unix sockets belong to the network, and to no folder."""
    tools(level)
    name = f"abstract-{uuid.uuid4().hex}"
    connect = (
        "import socket,sys; print('ready', flush=True)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect('\\0' + sys.stdin.readline().strip()); print('in', flush=True)\n"
        "except OSError: print('out', flush=True)"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        async with await started(level, sys.executable, "-I", "-S", "-c", connect) as child:
            await child.stdin.send(name.encode())
            assert await child.stdout.receive() == (b"in" if reaches else b"out")


async def test_the_temporary_directory_of_a_sibling_is_closed() -> None:
    """docs/isolation.md, "Paths": each has one of its own, in one folder with the others'."""
    write = 'echo ready; echo hello >$TMPDIR/note; echo "$TMPDIR"; cat'
    look = 'echo ready; read folder; cat "$folder/note" 2>/dev/null; ls "${folder%/*}" 2>/dev/null; echo over'
    async with (
        await started("landlock", "sh", "-c", write) as one,
        await started("landlock", "sh", "-c", look) as other,
    ):
        await other.stdin.send(await one.stdout.receive())
        assert await other.stdout.receive() == b"over"
