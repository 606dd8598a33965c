"""Figures that nobody has measured, for tests of what is made of figures."""

from collections.abc import Mapping, Sequence

from benchmarks.results import About, Machine, Results, Round

__all__ = ["peer", "results", "rounds", "subject"]

_MACHINE = Machine(
    cores=2, cpu="a CPU", architecture="x86_64", kernel="Linux 6.1", python="CPython 3.11", load=0
)


def subject(name: str, kind: str = "broker", child: str = "per session") -> About:
    return About(name=name, kind=kind, era="legacy", child=child)


def peer(name: str, child: str = "shared") -> About:
    return subject(name, "peer", child)


def rounds(key: str, values: Sequence[float | None], scenario: str = "many") -> list[Round]:
    """Return a round for each value; None: the scenario failed in it."""
    return [
        Round(figures={}, asked=[scenario], failures={scenario: "no answer"})
        if value is None
        else Round(figures={key: value}, asked=[scenario])
        for value in values
    ]


def results(subjects: Sequence[About], measured: Mapping[str, Sequence[Round]]) -> Results:
    return Results(
        date="2026-01-02",
        command="a command",
        rounds=max((len(of) for of in measured.values()), default=0),
        seconds=1,
        whole=True,
        machine=_MACHINE,
        versions={"stdio-broker": "1"},
        notes=["a note"],
        subjects=subjects,
        measured=measured,
    )
