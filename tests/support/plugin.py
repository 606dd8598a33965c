"""The pytest plugin of this suite: event loops, and a leak check around every test.

`tests/conftest.py` takes its names from here; the tests of the leak check load it into a pytest of their own.
"""

import inspect
import signal
from collections.abc import Iterator
from typing import TypeAlias

import pytest
import uvloop

from stdio_broker.supervisor.warden import default_lifeline
from tests.support.leaks import Resources, checked_for_pending_tasks, fail_on_leaks

__all__ = ["anyio_backend", "no_leaks", "pytest_generate_tests", "pytest_pyfunc_call", "pytest_sessionstart"]

_Backend: TypeAlias = tuple[str, dict[str, object]]

_BACKENDS: dict[str, _Backend] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"loop_factory": uvloop.new_event_loop}),
}


def pytest_sessionstart() -> None:
    """Open what is opened once per process and never closed, before a test can be blamed for it.

    That is what libuv opens, and the warden: a process, a thread and a socket. And if these tests run in
    the background of a shell, SIGINT and SIGQUIT are ignored, and under nohup SIGHUP: for us, and for the
    children of tests.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    uvloop.new_event_loop().close()
    lifeline = default_lifeline()
    lifeline.forget(lifeline.announce(eof_grace=0, stop_grace=0, orphans="leave", folder=""))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every async test below a `both_loops` marker once on each event loop."""
    if "anyio_backend" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_loops"):
        metafunc.parametrize("anyio_backend", list(_BACKENDS), indirect=True, scope="module")


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> _Backend:
    """Return the loop of the async tests: asyncio's own, unless the module is marked `both_loops`."""
    return _BACKENDS[getattr(request, "param", "asyncio")]


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail the test if file descriptors, threads or child processes are left when all else is torn down.

    Autouse fixtures are set up first, and so torn down last: after the event loop of the test is closed.
    """
    before = Resources.now()
    yield
    fail_on_leaks(before)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Look for pending tasks at the end of every async test, while its loop still runs."""
    test = pyfuncitem.obj
    if hasattr(test, "hypothesis"):
        # Every example is a test of its own. At the first call the runner puts a synchronous function in the
        # place of the inner test, so this happens once.
        if inspect.iscoroutinefunction(test.hypothesis.inner_test):
            test.hypothesis.inner_test = checked_for_pending_tasks(test.hypothesis.inner_test)
    elif inspect.iscoroutinefunction(test):
        pyfuncitem.obj = checked_for_pending_tasks(test)
    return (yield)
