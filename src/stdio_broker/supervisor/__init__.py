"""Child processes that cannot leak: started, fed, watched, stopped and reaped. Knows no protocol.

    from stdio_broker.supervisor import Config, start

    child = await start(Config(cmd=["cat"]))
    await child.stdin.send(b"hello")
    print(await child.stdout.receive())
    status = await child.stop()          # EOF → SIGTERM → SIGKILL, on the whole process group

Usable alone; imports neither a web framework nor anything of the broker but its errors.
"""

import sys

if sys.platform == "win32":
    raise ImportError("stdio_broker.supervisor needs a POSIX system (Linux, macOS); Windows is not supported")

from ..errors import (
    CapacityError,
    ChildError,
    ChildExitError,
    ChildGone,
    EndOfOutput,
    IsolationUnavailable,
    LineTooLong,
    NotExited,
    SpawnError,
)
from .child import Child, start
from .config import Config, Level
from .descriptors import raise_descriptor_limit
from .dumps import forbid_dumps
from .environment import MINIMAL, build_environment
from .isolation import Isolation, IsolationLevel, isolate
from .isolation import probe as probe_isolation
from .isolation_description import describe as describe_isolation
from .lifecycle import State
from .limits import Limits
from .restart import Breaker, BreakerState, BreakerStatistics, RestartPolicy, RestartsExhausted
from .signals import drop_inherited_ignores
from .splitter import OversizeLine
from .status import ExitStatus, Phase
from .stdin import LineWriter
from .stdout import LineReader
from .supervisor import Supervisor, SupervisorStatistics

__all__ = [
    "MINIMAL",
    "Breaker",
    "BreakerState",
    "BreakerStatistics",
    "CapacityError",
    "Child",
    "ChildError",
    "ChildExitError",
    "ChildGone",
    "Config",
    "EndOfOutput",
    "ExitStatus",
    "Isolation",
    "IsolationLevel",
    "IsolationUnavailable",
    "Level",
    "Limits",
    "LineReader",
    "LineTooLong",
    "LineWriter",
    "NotExited",
    "OversizeLine",
    "Phase",
    "RestartPolicy",
    "RestartsExhausted",
    "SpawnError",
    "State",
    "Supervisor",
    "SupervisorStatistics",
    "build_environment",
    "describe_isolation",
    "drop_inherited_ignores",
    "forbid_dumps",
    "isolate",
    "probe_isolation",
    "raise_descriptor_limit",
    "start",
]
