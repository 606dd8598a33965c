"""What can be found out of a server by starting it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from stdio_broker.errors import SpawnError
from stdio_broker.sessions import ProbeFailed, ServerRecipe
from stdio_broker.sessions.examine import MAX_PAGES, Examination, examine
from stdio_broker.supervisor import Config, Supervisor
from tests.support.edge import CHILD, child_config
from tests.support.processes import children_of, wait_until

#: A server with one answer to `tools/list`, its argument; null is none.
SERVER = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    if message["method"] == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {}}
    elif message["method"] == "tools/list":
        result = json.loads(sys.argv[1])
    else:
        result = {}
    if result is not None:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""

TELLTALE = (sys.executable, "-I", "-S", str(Path(CHILD[-1]).with_name("telltale.py")))


async def examined(config: Config, *, timeout: float = 20.0) -> Examination:
    """Examine a server; fail if that leaves a child."""
    secrets = frozenset(value for value in config.env.values() if value is not None)
    launch = await ServerRecipe("child", config, secrets).sample()
    async with Supervisor() as supervisor:
        try:
            return await examine(launch, supervisor, client_name="test", client_version="1", timeout=timeout)
        finally:
            assert supervisor.statistics().running == 0


def listing(answer: object) -> Config:
    """Return how to run a server that lists its tools like this."""
    return Config(cmd=(sys.executable, "-I", "-S", "-c", SERVER, json.dumps(answer)))


@pytest.mark.parametrize(
    ("era", "eras", "version"),
    [
        ("legacy", ("legacy",), "2025-11-25"),
        ("modern", ("modern",), "2026-07-28"),
        ("both", ("legacy", "modern"), "2025-11-25"),
    ],
)
async def test_it_tells_the_eras_the_name_and_the_tools_of_a_server(
    era: str, eras: tuple[str, ...], version: str
) -> None:
    """design.md, 5, `check`: era, name, version, tools, start-up time, memory."""
    found = await examined(child_config(f"era={era}", "pages=3"))
    assert (found.eras, found.version) == (eras, version)
    assert (found.name, found.server_version) == ("mcp-child", "1.0")
    assert {"echo", "wait", "pid"} <= set(found.tools)
    assert len(found.tools) == len(set(found.tools))
    assert not found.has_more_tools
    assert 0 < found.start_seconds < 20
    if sys.platform == "linux":
        assert found.memory_bytes is not None
        assert found.memory_bytes > 1024 * 1024


async def test_a_server_that_says_nothing_to_the_modern_question_is_legacy() -> None:
    """MCP 2026-07-28, stdio, "Backward Compatibility": silence is an answer, too."""
    assert (await examined(child_config("silent-discover"))).eras == ("legacy",)


async def test_a_server_without_tools_is_not_asked_for_them() -> None:
    """MCP 2025-11-25, basic/lifecycle, "Operation": only what was negotiated is used."""
    found = await examined(child_config("capabilities={}", "die-on=tools/list"))
    assert found.tools == ()


async def test_the_tools_are_not_read_without_end() -> None:
    """Style guide, "Data": every wait has a bound."""
    endless = listing({"tools": [{"name": "again"}], "nextCursor": "on"})
    found = await examined(endless)
    assert (len(found.tools), found.has_more_tools) == (MAX_PAGES, True)


async def test_a_cursor_that_is_null_is_none() -> None:
    """Ours: some servers write out what is not there."""
    found = await examined(listing({"tools": [{"name": "one"}], "nextCursor": None}))
    assert (found.tools, found.has_more_tools) == (("one",), False)


@pytest.mark.parametrize(
    "answer", [{}, {"tools": {}}, {"tools": [1]}, {"tools": [{}]}, {"tools": [{"name": 1}]}], ids=str
)
async def test_a_list_of_tools_that_is_none_is_a_failure(answer: object) -> None:
    """MCP 2025-11-25, server/tools: each tool has a name."""
    with pytest.raises(ProbeFailed, match="no list of tools"):
        await examined(listing(answer))


async def test_a_server_that_does_not_list_its_tools_in_time_is_a_failure() -> None:
    """Ours: what it was asked last is told."""
    with pytest.raises(ProbeFailed, match=r"did not answer `tools/list` within 1 s") as caught:
        await examined(listing(None), timeout=1.0)
    assert caught.value.exit_status is None


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_server_that_refuses_to_list_its_tools_is_a_failure(era: str) -> None:
    """Ours: it has said that it has tools."""
    with pytest.raises(ProbeFailed, match=r"answers `tools/list` with an error: no method"):
        await examined(child_config(f"era={era}", "without=tools/list"))


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_server_that_ends_instead_leaves_its_status(era: str) -> None:
    """Ours: the operator gets all that there is to see."""
    with pytest.raises(ProbeFailed) as caught:
        await examined(child_config(f"era={era}", "die-on=tools/list"))
    assert caught.value.method == "tools/list"
    assert caught.value.exit_status is not None
    assert caught.value.exit_status.code == 3


async def test_what_it_calls_itself_is_shown_without_its_secrets() -> None:
    """design.md, 6.8: tokens go to their child only; it may put them anywhere."""
    found = await examined(Config(cmd=(*TELLTALE, "answers"), env={"TOKEN": "hunter2-hunter2"}))
    assert (found.name, found.server_version, found.tools) == ("[redacted]", "[redacted]", ("[redacted]",))


async def test_a_command_that_cannot_be_started_is_a_spawn_error() -> None:
    """errors.SpawnError."""
    with pytest.raises(SpawnError):
        await examined(Config(cmd=("/nonexistent",)))


async def test_an_examination_that_is_cancelled_leaves_no_child(caplog: pytest.LogCaptureFixture) -> None:
    """Style guide, "Concurrency": whoever opens a thing closes it."""
    caplog.set_level(logging.INFO, "stdio_broker")
    task = asyncio.create_task(examined(child_config("silent")))
    await wait_until(lambda: "child.started" in caplog.messages)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert not children_of(os.getpid())
