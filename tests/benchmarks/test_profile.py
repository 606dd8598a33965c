"""The pure parts of the profiler: which layer a sample belongs to, and what callgrind has counted."""

import pytest

from benchmarks.profile.instructions import own_costs
from benchmarks.profile.layers import Recorded, Row, Tally

_FRAMES = (
    ("/somewhere/src/stdio_broker/supervisor/stdin.py", "LineWriter._flush", 180),
    ("/venv/lib/python3.11/site-packages/uvicorn/server.py", "Server.main_loop", 240),
    ("/usr/lib/python3.11/dataclasses.py", "replace", 1500),
    ("/somewhere/src/stdio_broker/bridge/relay.py", "Relay.__init__", 70),
    ("/usr/lib/python3.11/asyncio/runners.py", "Runner.run", 118),
)
_PYTHON = "/usr/lib/libpython3.11.so.1.0"
_LIBC = "/lib/libc.so.6"


@pytest.mark.parametrize(
    ("row", "layer"),
    [
        ((0, False, False, _PYTHON, "", (3, 4)), "bridge"),
        ((0, False, False, _PYTHON, "", (2, 3, 4)), "bridge"),
        ((0, False, False, _PYTHON, "", (1, 4)), "uvicorn"),
        ((0, False, False, _PYTHON, "", (4,)), "asyncio"),
        ((0, False, False, _PYTHON, "", ()), "other"),
        ((0, False, False, "/x/site-packages/uvloop/loop.so", "", (1, 4)), "uvloop"),
        ((0, False, False, "/x/lib-dynload/_asyncio.cpython-311.so", "", (3, 4)), "asyncio"),
        ((0, False, True, _PYTHON, "", (3, 4)), "garbage collector"),
        ((0, True, False, _LIBC, "writev", (0, 4)), "kernel: the child's pipes"),
        ((0, True, False, _LIBC, "__write", (1, 4)), "kernel: sockets"),
        ((0, True, False, _LIBC, "read", (4,)), "kernel: sockets"),
        ((0, True, False, _LIBC, "epoll_pwait", (4,)), "kernel: waiting"),
        ((0, True, False, _LIBC, "getpid", (4,)), "kernel: other"),
    ],
)
def test_a_sample_belongs_to_one_layer(row: Row, layer: str) -> None:
    tally = _tally([row])
    assert {name for name, us in tally.sampled("legacy to legacy", 1).layers.items() if us} == {layer}


def test_a_call_is_shared_out_among_the_samples_of_the_window() -> None:
    rows: list[Row] = [(time, False, False, _PYTHON, "", (3, 4)) for time in (4, 5, 15, 16)]
    tally = _tally([*rows, (10, True, False, _LIBC, "read", (4,))], begin=5, end=15)
    sampled = tally.sampled("legacy to legacy", 1)
    assert sampled.samples == 3
    assert sampled.layers["bridge"] == pytest.approx(20)
    assert sum(sampled.layers.values()) == pytest.approx(sampled.cpu_us)
    relay = next(f for f in sampled.functions if f.name == "Relay.__init__")
    assert relay.place == "stdio_broker/bridge/relay.py:70"
    assert (relay.own_us, relay.kernel_us, relay.whole_us) == pytest.approx((20, 0, 20))
    loop = next(f for f in sampled.functions if f.name == "Runner.run")
    assert (loop.own_us, loop.kernel_us, loop.whole_us) == pytest.approx((10, 10, 30))


def _tally(rows: list[Row], begin: int = 0, end: int = 0) -> Tally:
    tally = Tally()
    tally.add_calls(100, 30.0)
    tally.add(Recorded(fine=True, lost=0, frames=_FRAMES, samples=rows), begin, end)
    return tally


def test_callgrind_own_costs_leave_out_what_a_callee_has_cost() -> None:
    """Rule of the format: the line below `calls=` is the inclusive cost of the call."""
    lines = [
        "events: Ir",
        "ob=(1) /lib/python.so",
        "fn=(1) main",
        "10 5",
        "+3 2",
        "cob=(2) /lib/other.so",
        "cfn=(2) work",
        "calls=1 20",
        "* 100",
        "ob=(2)",
        "fn=(2)",
        "20 60",
        "ob=(1)",
        "fn=(3) last",
        "-2 40",
        "totals: 107",
    ]
    assert own_costs(lines) == {"/lib/python.so": 47, "/lib/other.so": 60}
