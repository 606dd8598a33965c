"""A configuration, and a change of it, never opens more than it says.

Source: issue 5, "Principals" (mode `none` refuses to be reached from other machines) and "Reload".
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.broker_process import serving_broker
from tests.support.deployment import Deployment, legacy, server_table, stdio_broker

ELSEWHERE = ["0.0.0.0", "::", "", "192.0.2.1", "localhost.example", "127.0.0.1.example"]  # noqa: S104 - refused


@pytest.mark.parametrize("host", ELSEWHERE)
def test_no_variable_opens_a_node_without_keys_to_other_machines(tmp_path: Path, host: str) -> None:
    """Issue 5: mode `none` is for loopback only; identity reference, CVE-2025-49596."""
    deployment = Deployment(tmp_path)
    deployment.write(server_table("one"), mode="none")
    done = stdio_broker("serve", "--config", str(deployment.config), env={"STDIO_BROKER_HTTP__HOST": host})
    assert done.returncode == 2
    assert "STDIO_BROKER_HTTP__HOST" in done.stderr
    assert "expected a loopback address" in done.stderr


def test_no_variable_takes_the_keys_away_from_a_node_that_other_machines_reach(tmp_path: Path) -> None:
    """The same, from the other side."""
    deployment = Deployment(tmp_path)
    deployment.write(server_table("one"), mode="keys")
    deployment.write_text(deployment.config.read_text().replace("port = 0", 'port = 0\nhost = "0.0.0.0"'))
    done = stdio_broker("serve", "--config", str(deployment.config), env={"STDIO_BROKER_AUTH__MODE": "none"})
    assert done.returncode == 2
    assert "expected a loopback address" in done.stderr


async def test_a_reload_does_not_change_who_anybody_is(tmp_path: Path) -> None:
    """Ours: with another `auth.mode` the lists of principals are for others: half of it opens servers."""
    deployment = Deployment(tmp_path)
    credential = '[servers.one.credential]\nsource = "file"\npath = "tokens"\n'
    variable = '[servers.one.env]\nTOKEN = "${credential.token}"\n'
    deployment.write(server_table("one", lines='principals = ["anna"]'), variable, credential)
    for name in ("anna", "bernd"):
        deployment.secret(f"tokens/{name}", f"of-{name}")
    keys = {name: deployment.key(name) for name in ("anna", "bernd")}
    async with (
        serving_broker(deployment.config) as broker,
        legacy(broker.url, "one", keys["anna"]) as anna,
        legacy(broker.url, "one", keys["bernd"]) as bernd,
    ):
        await anna.open()
        pid = await anna.ask("pid")
        deployment.write(server_table("one"), variable, credential, mode="none")
        os.kill(broker.pid, signal.SIGHUP)
        event = await broker.wait_event("configuration.refused")
        assert event["problems"] == ['auth.mode: expected "keys" until a restart, found "none"']
        assert (await bernd.post(bernd.initialize_request())).status_code == 403
        assert await anna.ask("pid") == pid


@pytest.mark.parametrize("mode", [0o666, 0o646])
def test_a_file_that_everybody_may_change_is_refused(tmp_path: Path, mode: int) -> None:
    """Ours: it says what is run as the broker's user, and a change of it is taken over within a second."""
    deployment = Deployment(tmp_path)
    deployment.write(server_table("one"))
    deployment.config.chmod(mode)
    for command in (("config", "explain"), ("serve",), ("key", "list")):
        done = stdio_broker(*command, "--config", str(deployment.config))
        assert done.returncode == 2, done.stderr
        assert "every user of this machine may change the file" in done.stderr
    deployment.config.chmod(0o664)
    assert stdio_broker("config", "explain", "--config", str(deployment.config)).returncode == 0
