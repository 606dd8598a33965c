"""What every test gets: an event loop, a leak check, and in CI the same generated examples every time."""

import os

from hypothesis import settings

from tests.support.plugin import (
    anyio_backend,
    no_leaks,
    pytest_generate_tests,
    pytest_pyfunc_call,
    pytest_sessionstart,
)

__all__ = ["anyio_backend", "no_leaks", "pytest_generate_tests", "pytest_pyfunc_call", "pytest_sessionstart"]

# No deadline: how long one example takes says more about the machine than about the code.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")
