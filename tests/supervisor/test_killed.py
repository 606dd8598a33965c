"""What is left of a program that is killed: nothing, whatever its children do."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.supervisor.children import command, new_tag
from tests.supervisor.programs import run
from tests.support.processes import find_tagged, wait_until_sync

#: What is started; each says `ready` when all of it runs. In the order of supervision.md, F4 to F9.
KINDS = {
    "polite": ["polite", "TAG"],
    "deaf": ["deaf", "TAG"],
    "stubborn": ["stubborn", "TAG"],
    "wrapper": ["wrapper", "TAG", "stubborn"],
    "leaving-wrapper": ["leaving-wrapper", "TAG"],
    "session": ["escaping-wrapper", "TAG"],
    "daemon": ["daemon", "TAG"],
}

GRACES = "eof_grace=0.1, stop_grace=0.1"


@pytest.fixture
def tag() -> Iterator[str]:
    """Return a tag; fail if a process that carries it is left after the test."""
    made = new_tag()
    yield made
    wait_until_sync(lambda: not find_tagged(made), what="end of everything that the test has started")


def _command(kind: str, tag: str) -> list[str]:
    mode, *arguments = KINDS[kind]
    return command(mode, *(tag if argument == "TAG" else argument for argument in arguments))


@pytest.mark.parametrize("ending", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
@pytest.mark.parametrize("containment", ["auto", "group", "shim"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_is_killed_takes_its_children_with_it(
    kind: str, containment: str, ending: str, tag: str
) -> None:
    """F9: EOF, SIGTERM, SIGKILL, by the warden or the shim; `tag` sees to it that nothing is left."""
    result = run(
        f"""
        async def main():
            await ready(await start(Config(cmd=command, containment={containment!r}, {GRACES})))
            print("ready", flush=True)
            {ending}

        asyncio.run(main())
        """,
        *_command(kind, tag),
    )
    assert result.stdout == "ready\n", result.stderr
    assert result.returncode in {0, -signal.SIGKILL}
    assert result.stderr == ""


@pytest.mark.parametrize("containment", ["auto", "group"])
def test_that_its_warden_was_killed_before_makes_no_difference(containment: str, tag: str) -> None:
    """F10: there is another one, as soon as there is none."""
    result = run(
        f"""
        from stdio_broker.supervisor.warden import default_lifeline

        async def main():
            await ready(await start(Config(cmd=command, containment={containment!r}, {GRACES})))
            first = default_lifeline().pid
            os.kill(first, signal.SIGKILL)
            while default_lifeline().pid in (first, None):
                await asyncio.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
        """,
        *_command("session", tag),
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert "warden.died" in result.stderr


@pytest.mark.parametrize("containment", ["auto", "group"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_moment_around_the_start_of_a_process_is_covered_too(
    moment: str, containment: str, tag: str
) -> None:
    """F11: killed between the start of a child and telling the warden about it, or right behind that."""
    result = run(
        f"""
        from stdio_broker.supervisor.containment import Contained
        from stdio_broker.supervisor.warden import Lifeline

        def killed(*arguments):
            if {moment!r} == "after":
                tell(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        tell, Lifeline.started = Lifeline.started, killed
        asyncio.run(start(Config(cmd=command, containment={containment!r}, {GRACES})))
        """,
        *_command("stubborn", tag),
    )
    assert result.returncode == -signal.SIGKILL, result.stderr


def test_without_a_warden_children_get_their_eof_and_nothing_else(tag: str) -> None:
    """What `warden=False` gives up."""
    result = run(
        """
        async def main():
            await ready(await start(Config(cmd=command, containment="group", warden=False)))
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
        """,
        *_command("stubborn", tag),
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    (left,) = find_tagged(tag)
    os.kill(left, signal.SIGKILL)


def test_a_forked_copy_of_the_program_does_not_keep_its_children_alive(tag: str) -> None:
    """F36: the copy has the pipes as well, so there is no EOF, and each child is told by SIGTERM."""
    result = run(
        f"""
        async def main():
            await ready(await start(Config(cmd=command, {GRACES})))
            if os.fork() == 0:
                os.close(0), os.close(1), os.close(2)
                signal.pause()
            print("ready", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
        """,
        *_command("deaf", tag),
    )
    assert result.stdout == "ready\n", result.stderr
    # The program has the tag among its arguments, and so has its copy.
    wait_until_sync(lambda: len(find_tagged(tag)) == 1, what="end of the child")
    (copy,) = find_tagged(tag)
    os.kill(copy, signal.SIGKILL)


def test_a_hundred_children_of_every_kind_are_gone_after_the_graces(tag: str) -> None:
    """Design §7. The graces run side by side."""
    commands = [_command(kind, tag) for kind in KINDS for _ in range(100 // len(KINDS))]
    result = run(
        f"""
        async def main():
            commands = {commands!r}
            children = [await start(Config(cmd=each, {GRACES})) for each in commands]
            for child in children:
                await ready(child)
            print("ready", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
        """,
        "unused",
    )
    assert result.stdout == "ready\n", result.stderr
    started = time.monotonic()
    wait_until_sync(lambda: not find_tagged(tag), what="end of all children")
    assert time.monotonic() - started < 20
