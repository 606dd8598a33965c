"""Whatever ends the program, or the event loop, ends the children; and what the program was started with.

Most of these need a process of their own: they end it, fork it, or change what belongs to all of it.
"""

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import uvloop

from stdio_broker.supervisor import Child, Config, ExitStatus, Phase, exit_watch, start
from stdio_broker.supervisor import spawner as spawner_module
from stdio_broker.supervisor import tree as tree_module
from stdio_broker.supervisor.spawner import Spawner
from tests.supervisor.children import (
    NO_SIGNALS,
    SIGNAL_MASKS,
    command,
    ignored_signals,
    new_tag,
    ready_line,
    start_ready,
)
from tests.supervisor.programs import run
from tests.support.processes import children_of, find_tagged, is_alive, wait_until, wait_until_sync

LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

each_loop = pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])

STUBBORN = Config(cmd=command("stubborn"), eof_grace=300, stop_grace=300)


@pytest.fixture
def tag() -> Iterator[str]:
    """Return a tag; fail if a process that carries it is left."""
    made = new_tag()
    yield made
    wait_until_sync(lambda: not find_tagged(made), what="end of everything that the test has started")


# In this process: the leak check sees what is left.


@each_loop
def test_when_the_loop_is_shut_down_living_children_are_killed_and_reaped(
    loop_factory: LoopFactory, each_watch: str
) -> None:
    """F35: asyncio's own subprocesses stay, as zombies at last."""
    children: list[Child] = []

    async def main() -> None:
        children.extend([await start_ready(STUBBORN) for _ in range(3)])

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert {child.exit_status().phase for child in children} == {Phase.KILL}


@each_loop
def test_control_c_ends_a_program_and_its_children(loop_factory: LoopFactory, each_watch: str) -> None:
    """F35."""
    children: list[Child] = []

    async def main() -> None:
        children.append(await start_ready(STUBBORN))
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert children[0].exit_status().phase is Phase.KILL


@each_loop
def test_control_c_during_a_stop_hurries_it(loop_factory: LoopFactory, each_watch: str) -> None:
    children: list[Child] = []

    async def main() -> None:
        async with await start_ready(STUBBORN) as child:
            children.append(child)
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert children[0].exit_status().phase is Phase.KILL


@each_loop
def test_an_exit_right_behind_the_start_leaves_no_child(loop_factory: LoopFactory, each_watch: str) -> None:
    """F35. The child's own task has not run yet; it is cancelled before its first step."""
    children: list[Child] = []

    async def main() -> None:
        children.append(await start(STUBBORN))
        sys.exit(3)

    with pytest.raises(SystemExit), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert children[0].exit_status().phase is Phase.KILL
    assert children[0].pid is None


@each_loop
def test_a_loop_that_is_closed_over_a_living_child_ends_it_when_it_is_collected(
    loop_factory: LoopFactory,
) -> None:
    """F35: nobody cancelled its task, so only the garbage collector can tell."""
    loop = loop_factory()
    child = loop.run_until_complete(start_ready(STUBBORN))
    pid = child.pid
    assert pid is not None
    loop.set_exception_handler(lambda *_: None)  # it says that a pending task was destroyed
    loop.close()
    assert is_alive(pid)
    del child
    gc.collect()
    wait_until_sync(lambda: pid not in children_of(os.getpid()))


def test_a_loop_that_is_closed_after_the_reaping_leaves_only_descriptors_to_close(
    tmp_path: Path,
) -> None:
    """F35, at the latest moment: it waits for what is left of the group."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    child = loop.run_until_complete(start_ready(Config(cmd=command("polite"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exit_watch.PidfdWatch, "group_alive", lambda *_, **__: True)
        stopping = loop.create_task(child.stop())

        loop.run_until_complete(wait_until(_reaped(child)))
        loop.close()
        del child, stopping
        gc.collect()


def _reaped(child: Child) -> Callable[[], bool]:
    return lambda: child.pid is None


@each_loop
def test_what_may_still_run_at_the_end_of_the_program_is_killed(loop_factory: LoopFactory) -> None:
    """As `atexit` does; and it does no harm to what has ended."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        child = runner.run(start_ready(STUBBORN))
        tree_module._kill_at_exit()  # noqa: SLF001 - the test cannot end its own process
        assert runner.run(child.wait()) == ExitStatus(code=None, signal=signal.SIGKILL, phase=Phase.SELF)
        tree_module._kill_at_exit()  # noqa: SLF001 - as above


def test_a_child_that_may_not_be_signalled_does_not_break_the_end_of_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    async def main() -> None:
        child = await start_ready(Config(cmd=command("polite")))
        monkeypatch.setattr(exit_watch.PidfdWatch, "signal_group", refuse)
        tree_module._kill_at_exit()  # noqa: SLF001 - as above
        monkeypatch.undo()
        await child.stop()

    asyncio.run(main())


def test_the_end_of_the_program_waits_for_what_was_cancelled_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawner_module, "_default", None)
    spawner_module._close_at_exit()  # noqa: SLF001 - nothing was started
    spawner = Spawner()
    monkeypatch.setattr(spawner_module, "_default", spawner)
    spawner.discard(asyncio.run(spawner.spawn(["cat"], env={}, cwd=None)))
    spawner_module._close_at_exit()  # noqa: SLF001 - the test cannot end its own process
    assert not children_of(os.getpid())


def test_a_process_made_by_fork_leaves_the_children_of_its_parent_alone() -> None:
    """F36, without forking: what the hooks do, and what the copies do when they are collected."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    child = loop.run_until_complete(start_ready(Config(cmd=command("stubborn"))))
    pid = child.pid
    assert pid is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spawner_module, "_default", spawner_module._default)  # noqa: SLF001 - to restore it
        patch.setattr(spawner_module, "_default_lock", None)
        patch.setattr(os, "getpid", lambda: 1)
        tree_module._forget_after_fork()  # noqa: SLF001 - what this test is about
        spawner_module._forget_after_fork()  # noqa: SLF001 - as above
        assert spawner_module._default is None  # noqa: SLF001 - as above
        tree_module._kill_at_exit()  # noqa: SLF001 - as above
        loop.close()
        del child
        gc.collect()
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# In a process of its own.


@pytest.mark.parametrize(
    "ending",
    ["pass", "sys.exit(0)", "loop.close()", "loop.close(); del child", "del child, loop"],
    ids=["end", "exit", "closed", "closed-and-dropped", "dropped"],
)
def test_a_program_that_ends_without_stopping_its_children_kills_them(ending: str, tag: str) -> None:
    """F35: polite children would end by EOF, and this one would stay (the seed's bug 6)."""
    result = run(
        f"""
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        child = loop.run_until_complete(start(config))
        loop.run_until_complete(ready(child))
        print("ready")
        {ending}
        """,
        *command("stubborn", tag),
    )
    assert (result.stdout, result.returncode) == ("ready\n", 0), result.stderr


def test_a_program_that_ends_while_it_starts_a_child_kills_it(tag: str, tmp_path: Path) -> None:
    """F35: the last thing that was cancelled may not have been killed yet."""
    program = tmp_path / "slow-python"
    program.write_bytes(Path(sys.executable).resolve().read_bytes())
    program.chmod(0o755)
    holder = subprocess.Popen(command("hold-lease", program, 0.2), stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n"
    result = run(
        """
        async def main():
            starting = asyncio.ensure_future(start(config))
            await asyncio.sleep(0.05)
            starting.cancel()

        asyncio.run(main())
        """,
        str(program),
        *command("stubborn", tag)[1:],
    )
    assert result.returncode == 0, result.stderr
    holder.kill()
    assert holder.stdout.read() == b"wanted\n"
    holder.stdout.close()
    holder.wait()


def test_a_forked_copy_of_the_program_may_end_in_any_way_and_start_children_of_its_own(tag: str) -> None:
    """F36."""
    result = run(
        """
        async def main():
            child = await ready(await start(config))
            copy = os.fork()
            if copy == 0:
                return None
            assert os.waitpid(copy, 0)[1] == 0
            await child.stdin.send(b"still here")
            assert await child.stdout.receive() == b"still here"
            return await child.stop()

        loop = asyncio.new_event_loop()
        status = loop.run_until_complete(main())
        if status is None:
            asyncio.set_event_loop(None)
            events = asyncio.new_event_loop()
            own = events.run_until_complete(start(config))
            events.run_until_complete(ready(own))
            print(events.run_until_complete(own.stop()), flush=True)
            sys.exit(0)
        print(status)
        """,
        *command("echo", tag),
    )
    assert (result.stdout, result.returncode) == ("exited with code 0\n" * 2, 0), result.stderr


@pytest.mark.parametrize("watch", ["pidfd", "thread"])
def test_with_sigchld_ignored_the_exit_status_is_unknown_and_nobody_waits_for_ever(watch: str) -> None:
    """F31: never 255, and never a hang."""
    result = run(
        f"""
        from stdio_broker.supervisor import spawner
        if {watch!r} == "thread":
            spawner._open_pidfd = lambda pid: None
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

        async def main():
            child = await ready(await start(config))
            child.stdin.close()
            print(await child.wait(), child.pid)

        asyncio.run(main())
        """,
        *command("leave-at-eof", 3),
    )
    assert result.stdout == "ended with an unknown status None\n", result.stderr
    assert "Error" not in result.stderr


def test_what_the_program_ignores_is_not_ignored_in_its_children_once_it_has_said_so() -> None:
    """F31: nohup, and shells that start programs in the background."""
    result = run(
        """
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        drop_inherited_ignores()
        os.kill(os.getpid(), signal.SIGTERM)  # we go on ignoring it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

        async def main():
            child = await start(config)
            print(*[line.decode() async for line in child.stdout], await child.wait(), sep="\\n")

        asyncio.run(main())
        """,
        *SIGNAL_MASKS,
    )
    blocked, ignored, ended = result.stdout.splitlines()
    assert (blocked, ended) == (NO_SIGNALS[0], "exited with code 0"), result.stderr
    assert ignored_signals(ignored) == []


def test_a_signal_that_a_program_blocks_everywhere_is_not_delivered_to_the_spawners_thread() -> None:
    """A program that fetches SIGTERM with sigwait would be killed by it."""
    result = run(
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

        async def main():
            child = await start(config)
            await child.stop()

        asyncio.run(main())
        os.kill(os.getpid(), signal.SIGTERM)
        print(signal.sigwait({signal.SIGTERM}).name)
        """,
        "cat",
    )
    assert (result.stdout, result.returncode) == ("SIGTERM\n", 0), result.stderr


def test_a_program_without_standard_descriptors_may_start_children(tmp_path: Path) -> None:
    """A daemon that has closed 0, 1 and 2: the pipes get these numbers."""
    report = tmp_path / "report"
    result = run(
        """
        report = command.pop(0)
        for fd in (0, 1, 2):
            os.close(fd)

        async def main():
            child = await ready(await start(Config(cmd=command)))
            await child.stdin.send(b"hello")
            line = await child.stdout.receive()
            return line, await child.stop()

        loop = asyncio.new_event_loop()
        line, status = loop.run_until_complete(main())
        loop.close()
        with open(report, "w") as file:
            file.write(f"{line.decode()}: {status}")
        """,
        str(report),
        *command("echo"),
    )
    assert result.returncode == 0
    assert report.read_text() == "hello: exited with code 0"


def test_an_unprivileged_user_with_small_pipes_is_served_too() -> None:
    """F37: from pipe 1025 on, an unprivileged user's pipes hold 8 KiB; nothing here depends on 64."""
    nobody = 65534
    python = "/usr/bin/python3"
    usable = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if os.geteuid() != 0 or subprocess.run(usable, user=nobody, check=False).returncode != 0:
        pytest.skip("needs root, and a Python 3.11 that another user may run")
    result = run(
        """
        async def main():
            child = await ready(await start(config))
            line = b"x" * 300_000
            await child.stdin.send(line)
            assert await child.stdout.receive() == line
            print(await child.stop())

        pipes = [os.pipe() for _ in range(1100)]
        asyncio.run(main())
        """,
        python,
        *command("echo")[1:],
        python=python,
        user=nobody,
    )
    assert result.stdout == "exited with code 0\n", result.stderr


async def test_the_program_that_the_tests_start_says_what_it_was_asked_to() -> None:
    child = await start(Config(cmd=command("say-bytes", 1, "ready x\\n")))
    assert await ready_line(child) == b"x"
    await child.wait()
