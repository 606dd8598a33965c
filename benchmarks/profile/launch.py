"""Runs the broker with the sampler in its process.

Started by path, with `-P`, so that it imports no neighbour:

    python -P launch.py RESULT SAMPLER HERTZ  run --port 0 -- CHILD
    python -P launch.py counted               run --port 0 -- CHILD

The second form is for valgrind, which keeps a signal for itself that it shows to nobody but in the list of
valid signals. The result of the first is JSON: the frames that were met, and for each sample its time,
whether the kernel or the garbage collector was at work, the shared object and the symbol of the instruction,
and the stack as numbers of frames, innermost first.
"""

import contextlib
import ctypes
import functools
import gc
import json
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType

_SAMPLES_MAX = 400_000
_DEPTH = 48  # as in sampler.c
_SIGNAL_OF_VALGRIND = 64


class _Frame(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint64), ("offset", ctypes.c_int64))


class _Sample(ctypes.Structure):
    _fields_ = (
        ("pc", ctypes.c_uint64),
        ("time_ns", ctypes.c_uint64),
        ("in_kernel", ctypes.c_uint32),
        ("in_collector", ctypes.c_uint32),
        ("depth", ctypes.c_uint32),
        ("frames", _Frame * _DEPTH),
    )


class _Place(ctypes.Structure):
    """What dladdr(3) says of an address."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def main() -> None:
    """Run the broker, watched in the way that the first argument says."""
    first = sys.argv.pop(1)
    if first == "counted":
        valid = signal.valid_signals() - {_SIGNAL_OF_VALGRIND}
        signal.valid_signals = lambda: valid
        _run()
    else:
        library, hertz = sys.argv.pop(1), sys.argv.pop(1)
        _sample(Path(first), library, int(hertz))


def _run() -> None:
    runpy.run_module("stdio_broker", run_name="__main__", alter_sys=True)


def _sample(result: Path, library: str, hertz: int) -> None:
    # Not CDLL: that would let go of the GIL, and it is this thread's frames that are wanted.
    sampler = ctypes.PyDLL(library)
    clock = sampler.sampler_start(ctypes.c_long(hertz), ctypes.c_long(_SAMPLES_MAX))
    if clock < 0:
        sys.exit("profile: expected a clock of this thread's CPU time, found none")
    try:
        _run()
    finally:
        _write(result, sampler, fine=clock == 1)


def _write(path: Path, sampler: ctypes.PyDLL, *, fine: bool) -> None:
    count, lost = ctypes.c_uint32(), ctypes.c_uint32()
    sampler.sampler_samples.restype = ctypes.POINTER(_Sample)
    samples = sampler.sampler_samples(ctypes.byref(count), ctypes.byref(lost))
    numbers: dict[tuple[int, int], int] = {}
    rows = [_row(samples[index], numbers) for index in range(count.value)]
    # By address. What is not among them is gone, and must not be touched.
    codes = {id(code): code for code in _all_code()}
    frames = [_named(codes.get(code), offset) for code, offset in numbers]
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps({"fine": fine, "lost": lost.value, "frames": frames, "samples": rows}))
    unfinished.rename(path)


def _row(sample: _Sample, numbers: dict[tuple[int, int], int]) -> tuple[int, bool, bool, str, str, list[int]]:
    stack = [
        numbers.setdefault((frame.code, frame.offset), len(numbers))
        for frame in sample.frames[: sample.depth]
    ]
    file, symbol = _place(sample.pc)
    return sample.time_ns, bool(sample.in_kernel), bool(sample.in_collector), file, symbol, stack


@functools.lru_cache(maxsize=65536)
def _place(address: int) -> tuple[str, str]:
    place = _Place()
    _dladdr()(ctypes.c_void_p(address), ctypes.byref(place))
    return (place.file or b"").decode(), (place.symbol or b"").decode()


@functools.cache
def _dladdr() -> Callable[[ctypes.c_void_p, object], int]:
    found: Callable[[ctypes.c_void_p, object], int] = ctypes.CDLL(None).dladdr
    return found


def _all_code() -> Iterator[CodeType]:
    gc.unfreeze()  # what was frozen is not among the collector's objects
    for found in gc.get_objects():
        if isinstance(found, FunctionType):
            yield from _with_inner(found.__code__)
    # The modules that are running belong to no function.
    frame = sys._getframe()  # noqa: SLF001 - documented, and has no other name
    while frame.f_back:
        frame = frame.f_back
        yield frame.f_code


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def _named(code: CodeType | None, offset: int) -> tuple[str, str, int]:
    if code is None:
        return "", "?", 0
    line = 0
    with contextlib.suppress(StopIteration):
        line = next(line or 0 for start, end, line in code.co_lines() if start <= offset < end)
    return code.co_filename, code.co_qualname, line


if __name__ == "__main__":
    main()
