"""Very many children at once: what each costs, and that all of it comes back (F37).

What is asserted are bounds far above what is measured: a thousand tasks, threads, or buffers too many
break them, a busy machine does not. The figures themselves are shown by `pytest -rP`.
"""

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stdio_broker.supervisor import Child, Config, Phase, Supervisor
from tests.supervisor.programs import run
from tests.support.processes import children_of

pytestmark = [
    pytest.mark.both_loops,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="without pidfds each child costs a thread"
    ),
]

#: Children at once; 1,000 by hand.
CHILDREN = int(os.environ.get("STDIO_BROKER_CHILDREN", "300"))
#: As many are started at the same time: what a start needs for a moment is no child's.
AT_A_TIME = 10

#: Starts faster than anything else that answers, and ends at EOF.
CAT = Config(cmd=["cat"], eof_grace=300)

#: What a child may cost of our memory, in bytes: twice what is wanted, because allocators differ.
MAX_CHILD_BYTES = 10 * 1024
#: What an allocator may hold more of after than before, besides.
SLACK_BYTES = 2 * 1024 * 1024


@contextlib.contextmanager
def descriptor_limit(needed: int) -> Iterator[None]:
    """Have a limit that many children do not reach."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > hard:
        pytest.skip(f"needs {needed} file descriptors, and may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - the descriptor that lists them is counted each time


async def echo(child: Child, number: int) -> None:
    line = b"line %d" % number
    await child.stdin.send(line)
    assert await child.stdout.receive() == line


async def start_and_ask(supervisor: Supervisor, amount: int) -> list[Child]:
    """Start children, a few at the same time; return them when each has answered."""
    children: list[Child] = []
    while len(children) < amount:
        some = await asyncio.gather(*(supervisor.start(CAT) for _ in range(AT_A_TIME)))
        await asyncio.gather(*(echo(child, number) for number, child in enumerate(some)))
        children += some
    return children


@pytest.mark.timeout(60 + CHILDREN / 10)
async def test_a_thousand_children_cost_descriptors_and_little_else() -> None:
    """F37. 3.11's asyncio has a thread for each."""
    settled = CHILDREN // 5
    with descriptor_limit(4 * (CHILDREN + settled) + 200):
        before = descriptors(), children_of(os.getpid())
        async with Supervisor() as supervisor:
            # First use costs what no later child does.
            children = await start_and_ask(supervisor, settled)
            fds, threads = descriptors(), threading.active_count()
            began = time.monotonic()
            children += await start_and_ask(supervisor, CHILDREN)
            started_in = time.monotonic() - began
            assert supervisor.statistics().running == len(children)
            assert descriptors() - fds <= 4 * CHILDREN
            assert threading.active_count() == threads

            # Those that have been there for long still answer.
            await asyncio.gather(*(echo(child, number) for number, child in enumerate(children)))

            began = time.monotonic()
            await supervisor.stop_all()
            stopped_in = time.monotonic() - began
            # Not one after the other, and without using up a grace.
            assert stopped_in < 30
            ends = {(child.exit_status().phase, child.exit_status().survivors) for child in children}
            assert ends == {(Phase.EOF, False)}
        assert (descriptors(), children_of(os.getpid())) == before
    sys.stdout.write(
        f"{CHILDREN} children: {CHILDREN / started_in:.0f} started and asked per second, "
        f"{len(children)} stopped in {stopped_in:.2f} s\n"
    )


@pytest.mark.parametrize("module", ["asyncio", "uvloop"])
def test_a_child_costs_little_memory(module: str) -> None:
    """F37, in a process of its own: in this one there is room that other tests have left behind."""
    result = run(
        f"""
        import resource
        from pathlib import Path

        import {module}
        from stdio_broker.supervisor import Supervisor, raise_descriptor_limit

        def resident_bytes():
            return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

        async def ask(child):
            await child.stdin.send(b"hello")
            assert await child.stdout.receive() == b"hello"

        async def main():
            raise_descriptor_limit()
            async with Supervisor() as supervisor:
                # The first ones cost what no later one does.
                for amount in ({CHILDREN // 5}, {CHILDREN}):
                    before = resident_bytes()
                    for _ in range(amount // {AT_A_TIME}):
                        some = await asyncio.gather(*(supervisor.start(config) for _ in range({AT_A_TIME})))
                        await asyncio.gather(*map(ask, some))
                print((resident_bytes() - before) // {CHILDREN})

        with asyncio.Runner(loop_factory={module}.new_event_loop) as runner:
            runner.run(main())
        """,
        "cat",
    )
    assert result.returncode == 0, result.stderr
    sys.stdout.write(f"{int(result.stdout) / 1024:.1f} KB each, with {module}\n")
    assert int(result.stdout) <= MAX_CHILD_BYTES


@pytest.mark.timeout(60 + CHILDREN / 10)
async def test_as_many_again_need_no_more_memory_than_the_first_ones() -> None:
    """Ours: what a child cost is free again when it is done."""
    amount = CHILDREN // 5
    memory = []
    with descriptor_limit(4 * amount + 200):
        async with Supervisor() as supervisor:
            for _ in range(3):
                await start_and_ask(supervisor, amount)
                await supervisor.stop_all()
                memory.append(resident_bytes())
    # The allocator may keep what the first ones needed; but for each of these it kept nothing more.
    assert memory[2] - memory[1] <= 1024 * amount + SLACK_BYTES


#: So many have large pipes, at three each; then a user's further pipes are small (pipe(7)), but for those
#: of other programs of his.
WITH_LARGE_PIPES = 341


def test_a_user_whose_pipes_have_become_small_is_served_like_any_other() -> None:
    """F37: from the 1,025th pipe on they hold 8 KiB; a message of 100 KB then takes more turns."""
    python, nobody = "/usr/bin/python3", 65534
    usable = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if os.geteuid() != 0 or subprocess.run(usable, user=nobody, check=False).returncode != 0:
        pytest.skip("needs root, and a Python 3.11 that another user may run")
    result = run(
        f"""
        import fcntl
        from stdio_broker.supervisor import Supervisor, raise_descriptor_limit

        async def main():
            raise_descriptor_limit()
            async with Supervisor() as supervisor:
                children = [await supervisor.start(config) for _ in range({WITH_LARGE_PIPES + 59})]
                last = children[-20:]
                print({{fcntl.fcntl(child.stdin._fd, fcntl.F_GETPIPE_SZ) for child in last}})

                async def echo(child, line):
                    await child.stdin.send(line)
                    return await child.stdout.receive() == line

                print(all(await asyncio.gather(*(echo(child, b"x" * 100_000) for child in last))))
            print({{str(child.exit_status()) for child in children}})

        asyncio.run(main())
        """,
        "cat",
        python=python,
        user=nobody,
    )
    assert result.returncode == 0, result.stderr
    sizes, answered, ended = result.stdout.splitlines()
    if sizes != "{8192}":
        pytest.skip(f"this system lets a user have more large pipes than usual: {sizes}")
    assert (answered, ended) == ("True", "{'exited with code 0'}")


def test_a_start_costs_no_more_when_the_program_is_big() -> None:
    """The guarantee against fork, which copies the page tables: 0.8 ms become 10 ms with 600 MB."""
    result = run(
        """
        import statistics, time

        async def starts():
            costs = []
            for _ in range(30):
                begun = time.perf_counter()
                child = await start(Config(cmd=command, containment="group", warden=False))
                costs.append(time.perf_counter() - begun)
                await child.stop()
            return statistics.median(costs)

        async def main():
            await starts()
            small = await starts()
            ballast = bytearray(b"x") * 600_000_000
            print((await starts()) / small, len(ballast))

        asyncio.run(main())
        """,
        "cat",
    )
    ratio = float(result.stdout.split()[0])
    assert ratio < 4, result.stderr
