"""`stdio-broker check`, as an operator meets it."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import Deployment, server_table, stdio_broker
from tests.support.processes import find_tagged


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


def check(deployment: Deployment, *options: str) -> tuple[int, str, str]:
    done = stdio_broker("check", "--config", str(deployment.config), *options)
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout
    return done.returncode, done.stdout, done.stderr


def report(deployment: Deployment, *options: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code, and what is said of each server."""
    code, out, _ = check(deployment, "--json", *options)
    parsed = json.loads(out)
    assert parsed["ok"] is (code == 0)
    return code, {server["name"]: server for server in parsed["servers"]}


def test_it_shows_a_table_of_what_the_servers_are(deployment: Deployment) -> None:
    """design.md, 5: era, name, version, tools, start-up time, memory; exit code 0."""
    deployment.write(
        server_table("old", "pages=2"), server_table("both", "era=both", lines='isolation = "none"')
    )
    code, out, _ = check(deployment)
    assert code == 0
    head, old, both = (line.split() for line in out.splitlines())
    assert head == ["SERVER", "ERAS", "MCP", "NAME", "VERSION", "TOOLS", "START", "MEMORY", "ISOLATION"]
    assert old[:5] == ["old", "legacy", "2025-11-25", "mcp-child", "1.0"]
    assert both[:2] == ["both", "legacy+modern"]
    assert (old[-1], both[-1]) == ("limits", "none")
    assert int(old[5]) > 20
    assert old[7] == "s"
    assert ("MiB" in old) is (sys.platform == "linux")
    # Aligned: each column begins where its head does.
    lines = out.splitlines()
    assert {line.index("2025-11-25") for line in lines[1:]} == {lines[0].index("MCP")}


def test_if_one_fails_the_others_are_tried_and_the_reason_is_told(deployment: Deployment) -> None:
    """design.md, 5: non-zero exit if any fails; with the reason, and the last lines of its stderr."""
    tag = uuid.uuid4().hex
    deployment.write(
        server_table("ends", "exit-at-start=3"),
        server_table("missing", command=("/nonexistent/program",)),
        server_table("silent", "silent", lines="start_timeout = 0.5"),
        server_table("caged", lines='isolation = { level = "wrapper", wrapper = ["no-such-cage", "{cmd}"] }'),
        server_table("fine", lines=f'env = {{ TAG = "{tag}" }}'),
    )
    code, out, _ = check(deployment)
    assert code == 1
    for said in (
        "exited with code 3 before it answered `initialize`",
        "    last complaint",
        "missing failed: cannot start '/nonexistent/program': there is no such file",
        "it did not answer `initialize` within 0.5 s",
        "its `start_timeout`",
        "isolation 'wrapper' is not available here",
    ):
        assert said in out
    assert [line.split()[:2] for line in out.splitlines()[1:6]] == [
        *([name, "failed"] for name in ("ends", "missing", "silent", "caged")),
        ["fine", "legacy"],
    ]
    code, servers = report(deployment)
    assert code == 1
    assert {name: one["status"] for name, one in servers.items()} == {
        **dict.fromkeys(("ends", "missing", "silent", "caged"), "failed"),
        "fine": "ok",
    }
    assert servers["ends"]["stderr"] == ["first complaint", "last complaint"]
    assert "exited with code 3" in servers["ends"]["reason"]
    assert not find_tagged(tag)


def test_the_names_of_tools_are_shown_to_who_asks(deployment: Deployment) -> None:
    """Issue 5: tools (number; names with `--verbose`, or in JSON)."""
    deployment.write(server_table("one"), server_table("bare", "capabilities={}"))
    _, short, _ = check(deployment)
    _, out, _ = check(deployment, "--verbose")
    assert "echo" not in short
    assert "\ntools of one: ask, pid, seen" in out
    assert "\ntools of bare: none" in out
    code, servers = report(deployment)
    assert code == 0
    assert "echo" in servers["one"]["tools"]
    assert servers["bare"]["tools"] == []
    assert servers["one"]["path"] == "/one/mcp"
    assert 0 < servers["one"]["start_seconds"] < 30


def test_a_server_that_needs_a_credential_is_tried_with_that_of_a_principal(deployment: Deployment) -> None:
    """Issue 5: `--principal NAME` tries it with that one's; without it that is said, and is no failure."""
    lines = 'credential = { source = "file", path = "tokens" }\nenv = { TOKEN = "${credential.token}" }\n'
    deployment.write(
        server_table("forge", lines=lines), server_table("private", lines='principals = ["ben"]')
    )
    deployment.secret("tokens/anna", "the-token-of-anna")
    code, out, _ = check(deployment)
    assert code == 0
    assert "forge was not tried: needs a credential; use --principal" in out
    code, servers = report(deployment, "--principal", "anna")
    assert code == 0
    assert servers["forge"]["status"] == "ok"
    assert servers["private"]["status"] == "not tried"
    assert servers["private"]["reason"] == "anna may not use it"
    code, servers = report(deployment, "--principal", "ben")
    assert code == 1
    assert servers["forge"]["reason"] == "ben has no credential for it"
    assert servers["private"]["status"] == "ok"


def test_what_is_wrong_with_a_credential_is_in_the_log(deployment: Deployment) -> None:
    """Ours: users are not told, but whoever checks is the operator."""
    lines = (
        'credential = { source = "command", command = ["false"] }\nenv = { TOKEN = "${credential.token}" }\n'
    )
    deployment.write(server_table("forge", lines=lines))
    code, out, err = check(deployment, "--principal", "anna")
    assert code == 1
    assert "forge failed: " in out
    assert "expected exit code 0 or 3, it exited with code 1" in err


@pytest.mark.parametrize(("mode", "name"), [("none", "anna"), ("keys", "../anna")])
def test_a_principal_that_there_cannot_be_is_a_mistake(mode: str, name: str, deployment: Deployment) -> None:
    """design.md, 5: 2 for usage."""
    deployment.write(server_table("one"), mode=mode)
    code, out, err = check(deployment, "--principal", name)
    assert (code, out) == (2, "")
    assert err.startswith("stdio-broker: --principal: ")


def test_without_authentication_everybody_has_the_credential_of_nobody(deployment: Deployment) -> None:
    """Ours: there is one principal then, and it is tried."""
    lines = 'credential = { source = "file", path = "tokens" }\nenv = { TOKEN = "${credential.token}" }\n'
    deployment.write(server_table("forge", lines=lines), mode="none")
    code, out, _ = check(deployment)
    assert (code, "anonymous has no credential for it" in out) == (1, True)
    deployment.secret("tokens/anonymous", "the-token-of-everybody")
    assert check(deployment)[0] == 0


def test_what_a_server_calls_itself_cannot_break_the_table(deployment: Deployment) -> None:
    """Ours: a stranger's text, on the operator's terminal."""
    program = (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    message = json.loads(line)\n"
        "    info = {'name': 'x\\x1b[2J\\nfine  legacy' + 'y' * 100, 'version': ''}\n"
        "    result = {'protocolVersion': '2025-11-25', 'capabilities': {}, 'serverInfo': info}\n"
        "    print(json.dumps({'jsonrpc': '2.0', 'id': message['id'], 'result': result}), flush=True)\n"
    )
    deployment.write(server_table("odd", command=(sys.executable, "-I", "-S", "-c", program)))
    code, out, _ = check(deployment)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert len(out.splitlines()[1]) < 160
    assert "x\\x0afine  legacyyyy" in out
    assert "y…  -" in out
