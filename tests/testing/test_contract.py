"""The fake child and a real one keep the same rules."""

import subprocess
import sys
from dataclasses import replace

import pytest

from stdio_broker.supervisor import Child, Config, start
from stdio_broker.testing import Behaviour, ChildContract
from tests.supervisor.children import ready_line
from tests.support.clock import run_in_virtual_time

from .stand_ins import FAKES, PROGRAMS, READY

pytestmark = pytest.mark.both_loops


class TestFakeChild(ChildContract):
    async def start(self, behaviour: Behaviour, config: Config) -> Child:
        return FAKES[behaviour](config)


class TestRealChild(ChildContract):
    async def start(self, behaviour: Behaviour, config: Config) -> Child:
        child = await start(replace(config, cmd=PROGRAMS[behaviour]))
        if behaviour in READY:
            await ready_line(child)
        return child


@pytest.mark.parametrize("rule", [name for name in dir(ChildContract) if name.startswith("test_")])
def test_the_fake_child_keeps_every_rule_in_virtual_time(rule: str) -> None:
    run_in_virtual_time(getattr(TestFakeChild(), rule)())


def test_neither_the_fake_nor_the_rules_need_a_test_library() -> None:
    """Users choose theirs, and some programs want a fake child outside of tests."""
    program = "import sys, stdio_broker.testing; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert {"pytest", "_pytest", "anyio", "hypothesis"}.isdisjoint(modules.split())
