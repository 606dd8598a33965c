"""Writes what was measured: to the terminal, and into docs/performance.md with its plots. Measures nothing.

    python -m benchmarks.render [--document [FILE]] [--results FILE]

The plots of the scale benchmark and of the soak are drawn if those have left figures beside the results.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from benchmarks import document, draw, plots, report, supervisor
from benchmarks.results import RESULTS, Results
from benchmarks.scenarios import Figures
from benchmarks.tables import of_kinds
from benchmarks.tools import ROOT

__all__ = ["DOCUMENT", "printed", "write_document"]

DOCUMENT = ROOT / "docs" / "performance.md"

_PLOTS = "performance"  # the folder beside the document
_SHEETS = {"scale": "Many sessions, and the cost of each", "soak": "Mixed load, over time"}


def main() -> int:
    """Render the last figures again; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.render", description=__doc__)
    parser.add_argument("--document", type=Path, nargs="?", const=DOCUMENT, help="write it, and its plots")
    parser.add_argument("--results", type=Path, default=RESULTS, help="what to render")
    options = parser.parse_args()
    try:
        results = Results.read(options.results)
    except FileNotFoundError:
        print("nothing has been measured yet: `make bench` does", file=sys.stderr)
        return 1
    print(printed(results, options.results.parent))
    if options.document:
        write_document(results, options.document, options.results.parent)
    return 0


def printed(results: Results, folder: Path = RESULTS.parent) -> str:
    """Write everything for a terminal; the folder is where the soak leaves its figures."""
    more = []
    if results.starts:
        more = [of_kinds(results.starts, supervisor.SUPERVISOR).plain(), supervisor.ratios(results.starts)]
    return report.plain(results, _cycles(folder), more)


def write_document(results: Results, path: Path = DOCUMENT, folder: Path = RESULTS.parent) -> None:
    """Replace the generated parts of the document, and draw its plots.

    Raises:
        MarkerError: The document has no place for them.
    """
    text = document.replaced(path.read_text(), "results", _markdown(results, path.parent, _cycles(folder)))
    for name, title in _SHEETS.items():
        if sheet := _sheet(folder, name):
            address = _drawn(plots.of_sheet(name, title, sheet), path.parent)
            text = document.replaced(text, name, f"![{title}]({address})")
    path.write_text(text)


def _sheet(folder: Path, name: str) -> plots.Sheet | None:
    file = folder / f"{name}.json"
    return msgspec.json.decode(file.read_bytes(), type=plots.Sheet) if file.exists() else None


def _cycles(folder: Path) -> Figures:
    sheet = _sheet(folder, "soak-cycles")
    return sheet.figures if sheet else {}


def _markdown(results: Results, folder: Path, cycles: Figures) -> str:
    pictures = [(plot.title, _drawn(plot, folder)) for plot in plots.of_results(results)]
    more = []
    if results.starts:
        title, *lines = supervisor.ratios(results.starts).splitlines()
        table = of_kinds(results.starts, supervisor.SUPERVISOR).markdown()
        more = [table, title + "\n\n" + "\n".join(f"- {line}" for line in lines)]
    return report.markdown(results, cycles, pictures, more)


def _drawn(plot: plots.Plot, folder: Path) -> str:
    return draw.draw(plot, folder / _PLOTS).relative_to(folder).as_posix()


if __name__ == "__main__":
    sys.exit(main())
