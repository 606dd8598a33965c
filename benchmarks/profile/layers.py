"""To which layer a sample belongs, and what each layer and each function takes of a call. Pure.

What is not Python is told apart by the shared object of the instruction. The interpreter works for a Python
function, whose module is the layer; a module without a layer of its own (`dataclasses`, `enum`) works for
whoever has called it. The kernel's work is told apart by what was asked of it, and by whom.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from benchmarks.profile.result import Function, Sampled

__all__ = ["LAYERS", "Recorded", "Row", "Tally"]

Frame: TypeAlias = tuple[str, str, int]
"""File, qualified name, line."""

Row: TypeAlias = tuple[int, bool, bool, str, str, Sequence[int]]
"""A sample, as launch.py writes it."""

_SOCKETS = "kernel: sockets"
_PIPES = "kernel: the child's pipes"
_WAITING = "kernel: waiting"
_KERNEL = "kernel: other"
_COLLECTOR = "garbage collector"
_OTHER = "other"
_PACKAGES = ("http", "auth", "sessions", "bridge", "protocol", "supervisor")
_OBJECTS = {"/uvloop/": "uvloop", "/httptools/": "httptools", "/msgspec/": "msgspec", "/_asyncio.": "asyncio"}
_MODULES = {
    **{f"stdio_broker/{package}/": package for package in _PACKAGES},
    "uvicorn/": "uvicorn",
    "asyncio/": "asyncio",
    "_weakrefset.py": "asyncio",  # the set of all tasks
    "httptools/": "httptools",
    "msgspec/": "msgspec",
}
_FUNCTIONS = 40
_LINES = 60

# From the outside in, and back out.
LAYERS = (
    _SOCKETS,
    _WAITING,
    "uvloop",
    "httptools",
    "uvicorn",
    "http",
    "auth",
    "sessions",
    "bridge",
    "protocol",
    "msgspec",
    "supervisor",
    _PIPES,
    "asyncio",
    _COLLECTOR,
    _KERNEL,
    _OTHER,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the sampler has written.

    Args:
        fine: As of `Profile`.
        lost: Samples for which there was no room.
    """

    fine: bool
    lost: int
    frames: Sequence[Frame]
    samples: Sequence[Row]


@dataclass(slots=True, kw_only=True)
class Tally:
    """The samples of a cell, of all rounds together."""

    calls: int = 0
    cpu_us: float = 0.0
    samples: int = 0
    stackless: int = 0
    layers: Counter[str] = field(default_factory=Counter)
    own: Counter[Frame] = field(default_factory=Counter)
    kernel: Counter[Frame] = field(default_factory=Counter)
    whole: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, recorded: Recorded, begin_ns: int, end_ns: int) -> None:
        """Count what was sampled between two times."""
        frames = [(module(file), name, line) for file, name, line in recorded.frames]
        for time_ns, in_kernel, in_collector, file, symbol, stack in recorded.samples:
            if begin_ns <= time_ns <= end_ns:
                found = [frames[number] for number in stack]
                self._count(found, in_kernel=in_kernel)
                of_kernel = _kernel_layer(symbol, found) if in_kernel else None
                of_collector = _COLLECTOR if in_collector else None
                self.layers[of_collector or of_kernel or _layer(file, found)] += 1

    def add_calls(self, calls: int, cpu_us: float) -> None:
        """Count the calls of a run, and what each has taken."""
        self.cpu_us += cpu_us * calls
        self.calls += calls

    def sampled(self, cell: str, connections: int) -> Sampled:
        """Return what each layer and each function has taken of a call."""
        cpu_us = self.cpu_us / self.calls
        each = cpu_us / self.samples
        return Sampled(
            cell=cell,
            connections=connections,
            calls=self.calls,
            cpu_us=cpu_us,
            samples=self.samples,
            stackless=self.stackless,
            layers={layer: self.layers[layer] * each for layer in LAYERS},
            functions=self._functions(each),
            lines=[self._line(frame, count, each) for frame, count in self.own.most_common(_LINES)],
        )

    def _count(self, stack: Sequence[Frame], *, in_kernel: bool) -> None:
        self.samples += 1
        if not stack:
            self.stackless += 1
            return
        self.own[stack[0]] += 1
        self.kernel[stack[0]] += in_kernel
        self.whole.update({(file, name) for file, name, _ in stack})

    def _functions(self, each: float) -> list[Function]:
        own: Counter[tuple[str, str]] = Counter()
        kernel: Counter[tuple[str, str]] = Counter()
        hottest: dict[tuple[str, str], int] = {}
        for (file, name, line), count in self.own.most_common():
            hottest.setdefault((file, name), line)
            own[file, name] += count
            kernel[file, name] += self.kernel[file, name, line]
        return [
            Function(
                name=name,
                place=f"{file}:{hottest[file, name]}",
                own_us=count * each,
                kernel_us=kernel[file, name] * each,
                whole_us=self.whole[file, name] * each,
            )
            for (file, name), count in own.most_common(_FUNCTIONS)
        ]

    def _line(self, frame: Frame, count: int, each: float) -> Function:
        file, name, line = frame
        own = count * each
        return Function(
            name=name,
            place=f"{file}:{line}",
            own_us=own,
            kernel_us=self.kernel[frame] * each,
            whole_us=own,
        )


def module(file: str) -> str:
    """Return the part of a file's path that does not depend on where it is installed."""
    for folder, kept in (("/site-packages/", ""), ("/src/stdio_broker/", "stdio_broker/")):
        _, found, rest = file.rpartition(folder)
        if found:
            return kept + rest
    _, found, rest = file.rpartition("/lib/python")
    return rest.partition("/")[2] if found else file.rpartition("/")[2]


def _kernel_layer(symbol: str, stack: Sequence[Frame]) -> str:
    call = symbol.lstrip("_").removeprefix("libc_")
    if "poll" in call:
        return _WAITING
    if not call.startswith(("read", "write", "recv", "send")):
        return _KERNEL
    return _PIPES if stack and _module_layer(stack[0][0]) == "supervisor" else _SOCKETS


def _layer(file: str, stack: Sequence[Frame]) -> str:
    of_object = _first(_OBJECTS, lambda mark: mark in file)
    if of_object:
        return of_object
    return next((layer for frame in stack if (layer := _module_layer(frame[0]))), _OTHER)


def _module_layer(file: str) -> str | None:
    return _first(_MODULES, file.startswith)


def _first(layers: Mapping[str, str], holds: Callable[[str], bool]) -> str | None:
    return next((layer for mark, layer in layers.items() if holds(mark)), None)
