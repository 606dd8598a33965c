"""Every kind of leak fails the test that leaks, and nothing else does.

The tests that leak run in a pytest of their own, in a process of its own: what they leak ends with it.
"""

from pathlib import Path

import pytest

# The folder above `tests`, which the inner pytest imports the plugin from.
_PROJECT = Path(__file__).parents[1]

# As our own conftest, but certain of a leak sooner.
_CONFTEST = """
from tests.support import leaks
from tests.support.plugin import *

leaks.TEAR_DOWN_TIMEOUT = 0.1
"""

# The garbage collector does not close what is kept before the leak check looks. Children end with the tests.
_PREAMBLE = """
import asyncio, os, socket, subprocess, sys, threading
import pytest
from hypothesis import given, settings, strategies

kept = []

@pytest.fixture(scope="module", autouse=True)
def _end_children():
    yield
    for child in kept:
        if isinstance(child, subprocess.Popen):
            child.kill()
            child.wait()
"""

_LEAKING_TESTS = """
def test_file():
    kept.append(open(os.devnull))

def test_socket():
    kept.extend(socket.socketpair())

def test_pipe():
    os.close(os.pipe()[0])

def test_event_loop():
    kept.append(asyncio.new_event_loop())

def test_thread():
    threading.Thread(target=threading.Event().wait, name="lost thread", daemon=True).start()

def test_child():
    kept.append(subprocess.Popen(["sleep", "61"]))

def test_zombie():
    kept.append(subprocess.Popen(["true"]))
    os.waitid(os.P_PID, kept[-1].pid, os.WEXITED | os.WNOWAIT)

async def test_task():
    kept.append(asyncio.create_task(asyncio.sleep(60), name="lost task"))

@settings(max_examples=2, database=None)
@given(strategies.booleans())
async def test_task_of_a_generated_example(example):
    kept.append(asyncio.create_task(asyncio.sleep(60), name="lost task of an example"))
"""

_NAMES_OF_LEAKS = [
    "fd * (/dev/null)",
    "fd * (socket:*)",
    "fd * (pipe:*)",
    "fd * (anon_inode:*eventpoll*)",
    "thread lost thread (ident *, daemon)",
    "child process * (sleep 61)",
    "child process * (zombie, not reaped)",
    "*task lost task (sleep at *",
    "*task lost task of an example (sleep at *",
]


def _run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tests: str) -> pytest.RunResult:
    monkeypatch.setenv("PYTHONPATH", str(_PROJECT))
    pytester.makeini("[pytest]\nanyio_mode = auto\nmarkers = both_loops")
    pytester.makeconftest(_CONFTEST)
    pytester.makepyfile(_PREAMBLE + tests)
    return pytester.runpytest_subprocess("-v")


def test_each_kind_of_leak_fails_its_own_test_and_is_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = _run(pytester, monkeypatch, _LEAKING_TESTS)
    # What is only seen when all is torn down is an error of the tear-down, after a test that passed.
    result.assert_outcomes(passed=7, errors=7, failed=2)
    # Not the summary at the end, which pytest cuts short unless it runs in CI.
    leaks = [
        line for line in result.outlines if line.startswith("E ") and "LeakError: the test leaked:" in line
    ]
    assert len(leaks) == len(_NAMES_OF_LEAKS), result.stdout.str()
    for name in _NAMES_OF_LEAKS:
        result.stdout.fnmatch_lines([f"E *{name}*"])


def test_what_a_test_closes_ends_and_reaps_is_no_leak(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = _run(
        pytester,
        monkeypatch,
        """
def test_files_threads_and_processes(tmp_path):
    (tmp_path / "file").write_text("text")
    thread = threading.Thread(target=os.getpid)
    thread.start()
    thread.join()
    subprocess.run(["true"], check=True)

async def test_tasks_and_worker_threads():
    asyncio.create_task(asyncio.sleep(0))
    await asyncio.to_thread(os.getpid)

@pytest.fixture
async def background():
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(asyncio.sleep(60))
        yield
        task.cancel()

async def test_a_task_that_a_fixture_owns(background):
    await asyncio.sleep(0)

def test_the_thread_that_starts_every_child_may_stay():
    threading.Thread(target=threading.Event().wait, name="stdio-broker-spawner", daemon=True).start()
""",
    )
    result.assert_outcomes(passed=4)


def test_only_a_module_marked_both_loops_runs_its_async_tests_on_both(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        test_marked="""
import asyncio
import pytest

pytestmark = pytest.mark.both_loops
seen = []

async def test_loop():
    seen.append(type(asyncio.get_running_loop()).__module__.partition(".")[0])

def test_sync():
    assert seen == ["asyncio", "uvloop"]
"""
    )
    result = _run(
        pytester,
        monkeypatch,
        """
async def test_loop():
    assert isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
""",
    )
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines_random(
        [
            "*test_marked.py::test_loop?asyncio? PASSED*",
            "*test_marked.py::test_loop?uvloop? PASSED*",
            "*::test_loop PASSED*",
        ]
    )
