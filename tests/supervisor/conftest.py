"""What the tests of the supervisor share."""

from collections.abc import Iterator

import pytest

from stdio_broker.supervisor import spawner as spawner_module
from stdio_broker.supervisor.spawner import Spawner


@pytest.fixture(params=["pidfd", "thread"])
def each_watch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with both ways to notice an exit; return which one it is."""
    if request.param == "thread":
        monkeypatch.setattr(spawner_module, "_open_pidfd", lambda _pid: None)
    return str(request.param)


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    """Return a spawner that nobody else uses: at the end of the test it has served everything."""
    own = Spawner()
    yield own
    own.close()
