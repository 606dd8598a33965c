"""What a profile has found, as one file: tables are made of it, at once or later, alone or beside another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.results import Machine
from benchmarks.tools import ROOT

__all__ = ["Counted", "Function", "Profile", "Sampled"]

_FOLDER = ROOT / ".cache" / "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function of Python, or one line of it.

    Args:
        place: The file, and of a function the line that costs most.
        own_us: CPU per call in it, and in what is not Python and was called by it.
        kernel_us: How much of that is the kernel's.
        whole_us: The same, with what it calls in Python. Of a line that does not count.
    """

    name: str
    place: str
    own_us: float
    kernel_us: float
    whole_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Where the broker's CPU time went, in one cell under one load.

    Args:
        cell: The eras of client and child.
        cpu_us: CPU time of the broker's process per call, as the kernel accounts it.
        stackless: Samples without frames of Python; their layer is that of their instruction.
        layers: What each layer takes of `cpu_us`, in µs.
    """

    cell: str
    connections: int
    calls: int
    cpu_us: float
    samples: int
    stackless: int
    layers: Mapping[str, float]
    functions: Sequence[Function]
    lines: Sequence[Function]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How many instructions a call takes in user mode: what does not depend on the machine's mood.

    Args:
        calls: Of the shorter one of the two runs whose difference it is.
        per_call: Instructions.
        objects: The same by shared object.
    """

    cell: str
    calls: int
    per_call: float
    objects: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One tree, measured.

    Args:
        commit: What the tree was at; with a plus sign if it was changed since.
        fine: The sampler's clock was as fine as was asked for, not the kernel's tick.
    """

    name: str
    date: str
    commit: str
    machine: Machine
    fine: bool
    sampled: Sequence[Sampled]
    counted: Sequence[Counted]

    def write(self) -> Path:
        """Write it where `read` finds it; return where."""
        path = _path(self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        return path

    @classmethod
    def read(cls, name: str) -> "Profile":
        """Read what `write` has written.

        Raises:
            FileNotFoundError: There is no profile of that name.
            msgspec.ValidationError: It was written by another version of this program.
        """
        return msgspec.json.decode(_path(name).read_bytes(), type=cls)


def _path(name: str) -> Path:
    return _FOLDER / f"profile-{name}.json"
