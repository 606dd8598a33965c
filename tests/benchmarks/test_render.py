"""Documents and plots, written by a process of its own: matplotlib keeps its fonts open."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.tools import ROOT
from tests.benchmarks.figures import peer, results, rounds, subject

_DOCUMENT = """by hand

<!-- bench: results -->
<!-- end of bench: results -->

<!-- bench: soak -->
<!-- end of bench: soak -->
"""
_SERIES = {"name": "RSS", "x": [1, 2, 3], "y": [3, None, 5], "x_label": "minutes", "y_label": "MB"}


def _render(folder: Path) -> dict[str, bytes]:
    measured = {"ours": rounds("many_rps", [90]), "bad": rounds("many_rps", [None])}
    results([subject("ours"), peer("bad")], measured).write(folder / "results.json")
    (folder / "soak.json").write_text(json.dumps({"series": [_SERIES], "figures": {"left": 0}}))
    document = folder / "performance.md"
    document.write_text(_DOCUMENT)
    options = ["--results", str(folder / "results.json"), "--document", str(document)]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.render", *options],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=50,
    )
    return {path.name: path.read_bytes() for path in (document, *sorted(folder.glob("performance/*")))}


def test_the_same_figures_give_the_same_bytes_without_a_date(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        found.append(_render(tmp_path / name))
    assert found[0] == found[1]
    assert list(found[0]) == ["performance.md", "many.svg", "soak.svg"]
    assert b"<dc:date>" not in b"".join(found[0].values())
    text = found[0]["performance.md"].decode()
    assert text.startswith("by hand\n")
    assert "](performance/many.svg)" in text
    assert "](performance/soak.svg)" in text
