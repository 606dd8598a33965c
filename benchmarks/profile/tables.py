"""Lays profiles out as tables: one alone, or two side by side. Pure."""

from collections.abc import Iterator

from benchmarks.profile.layers import LAYERS
from benchmarks.profile.result import Counted, Function, Profile, Sampled
from benchmarks.tables import Table, number

__all__ = ["about", "of_one", "of_two"]

_SHOWN = 25


def about(profile: Profile) -> str:
    """Say what was measured, and where."""
    machine = profile.machine
    clock = "" if profile.fine else "; sampled only as often as the kernel ticks"
    return (
        f"{profile.name}: commit {profile.commit or '(none)'}, {profile.date}, "
        f"{machine.cores} × {machine.cpu}, {machine.kernel}, {machine.python}, load {machine.load}{clock}"
    )


def of_one(profile: Profile) -> list[Table]:
    """Lay out a profile: its layers, its functions, its lines, its instructions."""
    tables = []
    for sampled in profile.sampled:
        title = _title(sampled)
        tables.append(_layers(sampled, f"{title}: layers"))
        tables.append(_functions(sampled, f"{title}: functions by their own time"))
        tables.append(_lines(sampled, f"{title}: lines"))
    if profile.counted:
        rows = [[c.cell, number(c.per_call), _objects(c)] for c in profile.counted]
        header = ["cell", "instructions/call", "of which"]
        tables.append(Table(title="Instructions in user mode", header=header, rows=rows, text=True))
    return tables


def of_two(before: Profile, after: Profile) -> list[Table]:
    """Lay out two profiles side by side: what both have measured."""
    tables = [_layers_of_two(old, new) for old, new in _sampled_pairs(before, after)]
    rows = [
        [old.cell, number(old.per_call), number(new.per_call), _change(old.per_call, new.per_call)]
        for old in before.counted
        for new in after.counted
        if old.cell == new.cell
    ]
    if rows:
        header = ["", "before", "after", "change"]
        tables.append(Table(title="Instructions of a call in user mode", header=header, rows=rows))
    return tables


def _sampled_pairs(before: Profile, after: Profile) -> Iterator[tuple[Sampled, Sampled]]:
    for old in before.sampled:
        for new in after.sampled:
            if (old.cell, old.connections) == (new.cell, new.connections):
                yield old, new


def _title(sampled: Sampled) -> str:
    plural = "" if sampled.connections == 1 else "s"
    return f"{sampled.cell}, {sampled.connections} connection{plural}"


def _layers(sampled: Sampled, title: str) -> Table:
    rows = [
        [layer, number(sampled.layers[layer], 2), _share(sampled, layer)]
        for layer in LAYERS
        if sampled.layers[layer]
    ]
    rows.append(["all", number(sampled.cpu_us, 2), ""])
    return Table(title=title, header=["layer", "µs", "share"], rows=rows)


def _layers_of_two(old: Sampled, new: Sampled) -> Table:
    rows = [
        [
            layer,
            number(old.layers[layer], 1),
            number(new.layers[layer], 1),
            _share(old, layer),
            _share(new, layer),
        ]
        for layer in LAYERS
        # What rounds to nothing on both sides tells nothing.
        if max(old.layers[layer], new.layers[layer]) >= 0.05
    ]
    rows.append(["all", number(old.cpu_us, 1), number(new.cpu_us, 1), "", _change(old.cpu_us, new.cpu_us)])
    header = ["layer", "before µs", "after µs", "share before", "share after"]
    return Table(title=f"CPU of the broker per call, {_title(old)}", header=header, rows=rows)


def _functions(sampled: Sampled, title: str) -> Table:
    rows = [
        [_named(f), number(f.own_us, 2), number(f.kernel_us, 2), number(f.whole_us, 2)]
        for f in sampled.functions[:_SHOWN]
    ]
    header = ["function (its hottest line)", "own µs", "of it kernel", "with callees"]
    return Table(title=title, header=header, rows=rows)


def _lines(sampled: Sampled, title: str) -> Table:
    rows = [[_named(f), number(f.own_us, 2), number(f.kernel_us, 2)] for f in sampled.lines[:_SHOWN]]
    return Table(title=title, header=["line", "own µs", "of it kernel"], rows=rows)


def _named(function: Function) -> str:
    return f"{function.name} ({function.place})"


def _share(sampled: Sampled, layer: str) -> str:
    return f"{100 * sampled.layers[layer] / sampled.cpu_us:.1f} %"


def _change(old: float, new: float) -> str:
    return f"× {new / old:.2f}"


def _objects(counted: Counted) -> str:
    shown = list(counted.objects.items())[:6]
    return ", ".join(f"{name} {100 * value / counted.per_call:.1f} %" for name, value in shown)
