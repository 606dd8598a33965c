"""The official conformance suite against the broker, with each kind of child of our own writing behind it.

A child speaks both eras of MCP, or only the legacy one (`initialize`), or only the modern one (2026-07-28).
In front of each the suite runs once per revision, and every scenario is one test. What must pass is written
out below, so a scenario that the suite no longer runs, or that broke before it wrote its checks, fails.

Two scenarios cannot pass over a child that speaks only the legacy era: 35 of the 37 that 2026-07-28 requires.
The checks that fail in them are named in `IMPOSSIBLE`, with the reason, and have to fail.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support.broker_process import running_broker
from tests.support.mcp_client import Message
from tests.support.modern_client import ModernClient
from tests.support.node import NODE, npm_folder

SERVER = Path(__file__).parents[1] / "children" / "conformance_server.py"
SUITE = "node_modules/@modelcontextprotocol/conformance/dist/index.js"
# By itself a run takes between 10 and 40 s on two cores, most of it the start of Python children.
SUITE_TIMEOUT = 240.0

KINDS = ("both", "legacy", "modern")
# Revision → which scenarios to run. Nobody froze a set of requirements for the first: all that there are.
REVISIONS = {
    "2025-06-18": ("--suite", "all", "--spec-version", "2025-06-18"),
    "2025-11-25": ("--requirements", "2025-11-25"),
    "2026-07-28": ("--requirements", "2026-07-28"),
}
MODERN = "2026-07-28"

# Scenarios of every revision.
COMMON = (
    "completion-complete",
    "prompts-get-embedded-resource",
    "prompts-get-simple",
    "prompts-get-with-args",
    "prompts-get-with-image",
    "prompts-list",
    "resources-list",
    "resources-read-binary",
    "resources-read-text",
    "resources-templates-read",
    "tools-call-audio",
    "tools-call-embedded-resource",
    "tools-call-error",
    "tools-call-image",
    "tools-call-mixed-content",
    "tools-call-simple-text",
    "tools-call-with-progress",
    "tools-list",
)
# Of those that open with `initialize`.
LEGACY = (
    "logging-set-level",
    "ping",
    "resources-subscribe",
    "resources-unsubscribe",
    "server-initialize",
    "tools-call-elicitation",
    "tools-call-sampling",
    "tools-call-with-logging",
)
REQUIRED = {
    "2025-06-18": (*COMMON, *LEGACY, "server-session-lifecycle"),
    "2025-11-25": (
        *COMMON,
        *LEGACY,
        "dns-rebinding-protection",
        "elicitation-sep1034-defaults",
        "elicitation-sep1330-enums",
        "server-sse-multiple-streams",
    ),
    "2026-07-28": (
        *COMMON,
        "caching",
        "dns-rebinding-protection",
        "input-required-result-basic-elicitation",
        "input-required-result-basic-list-roots",
        "input-required-result-basic-sampling",
        "input-required-result-capability-check",
        "input-required-result-ignore-extra-params",
        "input-required-result-missing-input-response",
        "input-required-result-multi-round",
        "input-required-result-multiple-input-requests",
        "input-required-result-non-tool-request",
        "input-required-result-request-state",
        "input-required-result-result-type",
        "input-required-result-tampered-state",
        "input-required-result-unsupported-methods",
        "input-required-result-validate-input",
        "sep-2164-resource-not-found",
        "server-sse-multiple-streams",
        "server-stateless",
    ),
}
# Run, but not scored: the suite's own reference server cannot do some, others came after the release.
NOT_SCORED = {
    "2025-06-18": (),
    "2025-11-25": ("json-schema-2020-12", "server-session-lifecycle"),
    "2026-07-28": (
        "http-custom-header-server-validation",
        "http-header-validation",
        "json-schema-2020-12",
    ),
}
# The tasks extension (SEP-2663), not scored either; a legacy child has no such thing. There is one more
# scenario, tasks-status-notifications, but it skips its only check.
TASKS = (
    "tasks-capability-negotiation",
    "tasks-dispatch-and-envelope",
    "tasks-lifecycle",
    "tasks-mrtr-composition",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-request-state-removal",
    "tasks-required-task-error",
    "tasks-wire-fields",
)
# (kind, revision, scenario) → the checks that have to fail.
IMPOSSIBLE: Mapping[tuple[str, str, str], frozenset[str]] = {
    # It wants the key `user_name`. The question of a legacy child has no key, so it gets one of ours.
    ("legacy", MODERN, "input-required-result-basic-elicitation"): frozenset(
        {"sep-2322-elicitation-incomplete"}
    ),
    # It answers under that key without having been asked: an answer to nothing, so we ask. Only a SHOULD.
    ("legacy", MODERN, "input-required-result-ignore-extra-params"): frozenset(
        {"sep-2322-ignore-unexpected-params"}
    ),
    # The child knows from `initialize` that it may not ask, and fails by itself, with an error of its own.
    ("legacy", MODERN, "server-stateless"): frozenset(
        {"sep-2575-missing-capability-http-400", "sep-2575-server-rejects-undeclared-capability"}
    ),
}

# What the suite's requests declare. A legacy child is told at `initialize`, so each of these is a process of
# its own, and some scenarios wait for less than a Python program takes to start.
DECLARED: tuple[Message, ...] = (
    {},
    {"elicitation": {}},
    {"sampling": {}},
    {"elicitation": {}, "sampling": {}},
    {"elicitation": {}, "sampling": {}, "roots": {"listChanged": True}},
)

pytestmark = pytest.mark.timeout(2 * SUITE_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the suite left behind."""

    folder: Path
    output: str


# Kind and revision of a run.
Key: TypeAlias = tuple[str, str]


def scenarios(kind: str, revision: str) -> Iterable[str]:
    """Return the scenarios that are to pass, but for `IMPOSSIBLE`."""
    yield from REQUIRED[revision]
    yield from NOT_SCORED[revision]
    if revision == MODERN and kind != "legacy":
        yield from TASKS


CASES = [
    (kind, revision, scenario)
    for kind in KINDS
    for revision in REVISIONS
    for scenario in scenarios(kind, revision)
]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[Key, Run]:
    """Run the suite for every kind and revision that was selected, all before the first test."""
    selected = (
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_scenario_of_the_suite_passes
    )
    keys = {(str(params["kind"]), str(params["revision"])) for params in selected}
    return asyncio.run(run_all(keys, tmp_path_factory.mktemp("conformance")))


@pytest.mark.parametrize(("kind", "revision", "scenario"), CASES)
def test_scenario_of_the_suite_passes(
    runs: Mapping[Key, Run], kind: str, revision: str, scenario: str
) -> None:
    """The official conformance suite's rules for the revision; issue 4."""
    checks = checks_of(runs[kind, revision], scenario)
    # Of a SHOULD the suite only warns. That makes no difference here.
    failed = [check for check in checks if check["status"] in {"FAILURE", "WARNING"}]
    expected = IMPOSSIBLE.get((kind, revision, scenario), frozenset())
    assert {check["id"] for check in failed} == expected, "\n".join(
        f"{check['id']}: {check.get('errorMessage')} {json.dumps(check.get('details'))[:2000]}"
        for check in failed
    )
    # Where nothing was checked the suite itself would pass.
    assert any(check["status"] == "SUCCESS" for check in checks), checks


async def test_a_stream_that_is_closed_for_a_while_is_polled(tmp_path: Path) -> None:
    """Scenario `server-sse-polling` (SEP-1699), which the suite does not score; off unless asked for."""
    which = ("--scenario", "server-sse-polling", "--spec-version", "2025-11-25")
    # The tool takes 0.5 s, and the suite comes back once only: closed once, not twice.
    async with running_broker(sys.executable, str(SERVER), options=["--poll-interval", "0.3"]) as broker:
        checks = checks_of(await run_some(broker.url, which, tmp_path), "server-sse-polling")
    found = {str(check["id"]): check["status"] for check in checks if check["status"] != "INFO"}
    assert found == {
        "server-sse-priming-event": "SUCCESS",
        "server-sse-retry-field": "SUCCESS",
        "server-sse-disconnect-resume": "SUCCESS",
    }


def checks_of(run: Run, scenario: str) -> list[dict[str, object]]:
    """Return what the suite found; a scenario that broke has left nothing."""
    results = list(run.folder.glob(f"server-{scenario}-20*/checks.json"))
    assert results, f"the suite left no result for {scenario}; it said:\n{run.output[-4000:]}"
    checks: list[dict[str, object]] = json.loads(results[0].read_text())
    return checks


async def run_all(keys: set[Key], folder: Path) -> Mapping[Key, Run]:
    """Run the suite for every key, with one broker for each kind; all end before the first test looks."""
    async with AsyncExitStack() as stack:
        urls = {}
        for kind in sorted({kind for kind, _ in keys}):
            command = (sys.executable, str(SERVER), "--era", kind)
            urls[kind] = (await stack.enter_async_context(running_broker(*command))).url
        # Scenarios of 2026-07-28 look at the clock, so they run before the machine is busy starting children.
        modern = await in_parallel(urls, [key for key in keys if key[1] == MODERN], folder)
        return modern | await in_parallel(urls, [key for key in keys if key[1] != MODERN], folder)


async def in_parallel(urls: Mapping[str, str], keys: Iterable[Key], folder: Path) -> dict[Key, Run]:
    """Run the suite for every key: the kinds at once, the revisions of a kind one after the other."""

    async def run_kind(kind: str) -> list[tuple[Key, Run]]:
        revisions = sorted(revision for of, revision in keys if of == kind)
        return [
            ((kind, revision), await run_suite(urls[kind], kind, revision, folder)) for revision in revisions
        ]

    keys = list(keys)
    async with asyncio.TaskGroup() as group:
        kinds = [group.create_task(run_kind(kind)) for kind in urls]
    return dict(run for kind in kinds for run in kind.result())


async def run_suite(url: str, kind: str, revision: str, folder: Path) -> Run:
    """Run the suite once."""
    if revision == MODERN:
        await warm(url)
    return await run_some(url, REVISIONS[revision], folder / f"{kind}-{revision}")


async def run_some(url: str, which: Sequence[str], output: Path) -> Run:
    """Run the scenarios that some options of the suite name."""
    command = [NODE, SUITE, "server", *which, "--output-dir", str(output), "--url", url]
    suite = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=npm_folder(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SUITE_TIMEOUT,
        check=False,  # its status says less than the checks
    )
    return Run(output, suite.stdout)


async def warm(url: str) -> None:
    """Have every child that the suite will need started; what is answered does not matter."""

    async def warm_one(capabilities: Message) -> None:
        async with ModernClient(url, capabilities=capabilities) as client:
            await client.exchange(client.request("tools/list"))

    async with asyncio.TaskGroup() as group:
        for capabilities in DECLARED:
            group.create_task(warm_one(capabilities))
