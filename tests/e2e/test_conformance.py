"""The official conformance suite against the broker, with the fixture server as its child.

One run of the suite per revision, one test per scenario. What must pass is written out below, so a scenario
that the suite no longer runs, or that broke before it wrote its checks, fails. No failure is expected.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.broker_process import running_broker
from tests.support.node import NODE, npm_folder

SERVER = Path(__file__).parents[1] / "children" / "conformance_server.py"
SUITE = "node_modules/@modelcontextprotocol/conformance/dist/index.js"
# A run takes about 35 s on two cores, most of it the start of a Python child per scenario.
SUITE_TIMEOUT = 240.0

# The scenarios of both revisions.
COMMON = (
    "completion-complete",
    "logging-set-level",
    "ping",
    "prompts-get-embedded-resource",
    "prompts-get-simple",
    "prompts-get-with-args",
    "prompts-get-with-image",
    "prompts-list",
    "resources-list",
    "resources-read-binary",
    "resources-read-text",
    "resources-subscribe",
    "resources-templates-read",
    "resources-unsubscribe",
    "server-initialize",
    "tools-call-audio",
    "tools-call-elicitation",
    "tools-call-embedded-resource",
    "tools-call-error",
    "tools-call-image",
    "tools-call-mixed-content",
    "tools-call-sampling",
    "tools-call-simple-text",
    "tools-call-with-logging",
    "tools-call-with-progress",
    "tools-list",
)
REQUIRED_2025_06_18 = (*COMMON, "server-session-lifecycle")
REQUIRED_2025_11_25 = (
    *COMMON,
    "dns-rebinding-protection",
    "elicitation-sep1034-defaults",
    "elicitation-sep1330-enums",
    "server-sse-multiple-streams",
)
# Run but not scored: the suite's own reference server cannot do the first, the second came after the release.
NOT_SCORED_2025_11_25 = ("json-schema-2020-12", "server-session-lifecycle")

pytestmark = pytest.mark.timeout(SUITE_TIMEOUT + 60)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the suite left behind."""

    folder: Path
    output: str


@pytest.fixture(scope="module")
def run_2025_06_18(tmp_path_factory: pytest.TempPathFactory) -> Run:
    # Nobody froze a set of requirements for this revision: everything that the suite has for it.
    arguments = ("--suite", "all", "--spec-version", "2025-06-18")
    return asyncio.run(run_suite(*arguments, folder=tmp_path_factory.mktemp("2025-06-18")))


@pytest.fixture(scope="module")
def run_2025_11_25(tmp_path_factory: pytest.TempPathFactory) -> Run:
    arguments = ("--requirements", "2025-11-25")
    return asyncio.run(run_suite(*arguments, folder=tmp_path_factory.mktemp("2025-11-25")))


@pytest.mark.parametrize("scenario", REQUIRED_2025_06_18)
def test_scenario_of_the_suite_passes_at_2025_06_18(run_2025_06_18: Run, scenario: str) -> None:
    """The official conformance suite's rules for the revision 2025-06-18."""
    check_scenario(run_2025_06_18, scenario)


@pytest.mark.parametrize("scenario", REQUIRED_2025_11_25 + NOT_SCORED_2025_11_25)
def test_scenario_of_the_suite_passes_at_2025_11_25(run_2025_11_25: Run, scenario: str) -> None:
    """The official conformance suite's frozen requirements for the revision 2025-11-25."""
    check_scenario(run_2025_11_25, scenario)


async def run_suite(*arguments: str, folder: Path) -> Run:
    """Run the suite once; the broker is gone again before the first test looks at the result."""
    command = [NODE, SUITE, "server", *arguments, "--output-dir", str(folder)]
    async with running_broker(sys.executable, str(SERVER)) as broker:
        suite = subprocess.run(
            [*command, "--url", broker.url],
            cwd=npm_folder(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SUITE_TIMEOUT,
            check=False,  # its status says less than the checks
        )
    return Run(folder, suite.stdout)


def check_scenario(run: Run, scenario: str) -> None:
    """Fail with what the suite found; also when no check succeeded, where the suite itself would pass."""
    results = list(run.folder.glob(f"server-{scenario}-20*/checks.json"))
    assert results, f"the suite left no result for {scenario}; it said:\n{run.output[-4000:]}"
    checks = json.loads(results[0].read_text())
    failed = [check for check in checks if check["status"] == "FAILURE"]
    assert not failed, "\n".join(
        f"{check['id']}: {check.get('errorMessage')} {json.dumps(check.get('details'))}" for check in failed
    )
    assert any(check["status"] == "SUCCESS" for check in checks), (
        f"{scenario} passed without a check: {checks}"
    )
