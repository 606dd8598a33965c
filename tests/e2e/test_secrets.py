"""Canaries: every secret that a broker is given, looked for in everything that it and its commands put out.

Issue 5: nothing secret in argv, logs, errors, core dumps or other users' answers; style guide, "Logging".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import sys
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from stdio_broker.auth.database import Database
from stdio_broker.auth.store import KeyStore
from tests.support.broker_process import BrokerProcess, serving_broker
from tests.support.deployment import Deployment, server_table, stdio_broker
from tests.support.edge import CHILD
from tests.support.mcp_client import McpClient
from tests.support.modern_client import ModernClient
from tests.support.nodes import bearer_http
from tests.support.processes import command_of, descendants_of, wait_until, wardens_of

TELLTALE = (sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "children" / "telltale.py"))

USERS = ("anna", "ben")

#: So much of a secret is found as if it were all of it: it may have been shortened, or broken in two.
PART_CHARS = 10

#: Server → how it behaves, and where its users' credentials come from.
SERVERS = {
    "files": ("answers", "file"),
    "vars": ("dies", "env"),
    "program": ("garbage", "command"),
    "pooled": ("refuses", "static"),
    "crashing": ("crashes", "file"),
    "scripted": ("", "file"),
}

#: What prints the credential of whoever is asked for, and more than it should to its stderr.
PROGRAM = """#!/bin/sh
echo "asked for $STDIO_BROKER_PRINCIPAL with $VAULT" >&2
cat "$(dirname "$0")/program/$STDIO_BROKER_PRINCIPAL"
"""


def canary(what: str) -> str:
    return f"canary-{what}-{uuid.uuid4().hex}"


@dataclass(slots=True)
class Canaries:
    """Every secret of a deployment.

    Attributes:
        tokens: (user, server) → all credentials that the user has had there.
        operator: The operator's own: every child may know them, and nobody else.
        keys: User → key for the broker; no child is given one.
        others: What should never have been anywhere: a wrong key, for instance.
    """

    tokens: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    operator: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        tokens = [token for several in self.tokens.values() for token in several]
        return [*tokens, *self.operator, *self.keys.values(), *self.others]

    def token(self, user: str, server: str, value: str | None = None) -> str:
        """Make a credential, or note another user's for this one too."""
        token = value or canary(f"{user}-{server}")
        self.tokens.setdefault((user, server), []).append(token)
        return token

    def own(self, value: str) -> str:
        """Note a secret of the operator's."""
        self.operator.append(value)
        return value

    def allowed(self, user: str, server: str) -> set[str]:
        """Return what the answers to a user of a server may contain."""
        return {*self.tokens.get((user, server), ()), *self.operator}

    def found_in(self, text: str, *, but: Iterable[str] = ()) -> list[str]:
        """Return the secrets of which a text has any part that is long enough to be recognised."""
        allowed = set(but)
        return [one for one in self.all() if one not in allowed and any(part in text for part in _parts(one))]


def _parts(secret: str) -> Iterator[str]:
    """Yield all parts of a certain length of what no other secret has in it."""
    own = secret.rpartition("-")[2].removeprefix("stdiob_key_")
    return (own[start : start + PART_CHARS] for start in range(len(own) - PART_CHARS + 1))


@dataclass(frozen=True, slots=True)
class Site:
    """A deployment full of canaries.

    Attributes:
        deployment: Its files.
        canaries: Its secrets.
        env: The broker's own environment.
    """

    deployment: Deployment
    canaries: Canaries
    env: dict[str, str]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Give every user of every server a credential, in every way that there is, and one of them a key."""
    deployment, canaries, env = Deployment(tmp_path), Canaries(), {}
    shared = canary("static")
    for user in USERS:
        for server, (_, source) in SERVERS.items():
            token = canaries.token(user, server, shared if source == "static" else None)
            if source == "env":
                env[f"FORGE_TOKEN_{user.upper()}"] = token
            elif source != "static":
                deployment.secret(f"{server}/{user}", token)
    canaries.token("carl", "pooled", shared)  # that one is everybody's
    program = tmp_path / "ask"
    program.write_text(PROGRAM)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    deployment.secret("static.secret", shared)
    deployment.secret("named.secret", canaries.own(canary("named")))
    deployment.secret("filed.secret", canaries.own(canary("filed")))
    env["VARIED"] = canaries.own(canary("varied"))
    env["VAULT"] = canary("vault")
    canaries.others += [env["VAULT"], f"stdiob_key_{canary('wrong').replace('-', '')}"]
    limits = "starts_per_minute = 100000\nstart_burst = 10000"
    deployment.write(*_tables(canaries), limits=limits)
    canaries.keys["anna"] = deployment.key("anna")
    return Site(deployment, canaries, env)


def _tables(canaries: Canaries) -> list[str]:
    inline = canaries.own(canary("inline"))
    sources = {
        "env": 'credential = { source = "env", name = "FORGE_TOKEN_{PRINCIPAL}" }',
        "command": 'credential = { source = "command", command = ["./ask"], env = { VAULT = { env = '
        '"VAULT" } } }',
        "static": 'credential = { source = "static", value = { file = "static.secret" } }',
    }
    env = (
        'env = { TOKEN = "${credential.token}", SHARED = "Basic ${secret:named}", FILED = { file = '
        f'"filed.secret" }}, VARIED = {{ env = "VARIED" }}, PASSWORD = "{inline}" }}\nrefresh_interval = 0.2'
    )
    tables = ['[secrets]\nnamed = { file = "named.secret" }\n']
    for name, (behaviour, source) in SERVERS.items():
        credential = sources.get(source, f'credential = {{ source = "file", path = "{name}" }}')
        command = (*TELLTALE, behaviour) if behaviour else CHILD
        tables.append(server_table(name, lines=f"{credential}\n{env}", command=command))
    return tables


class Listening:
    """Clients whose every answer is kept, with whose it is.

    Attributes:
        answers: (user, server, the whole answer); no user is nobody.
    """

    def __init__(self, url: str, canaries: Canaries) -> None:
        self.answers: list[tuple[str, str, str]] = []
        self._url = url
        self._canaries = canaries

    def _http(self, user: str, server: str, key: str | None) -> httpx.AsyncClient:
        http = bearer_http(key)

        async def keep(response: httpx.Response) -> None:
            await response.aread()
            whole = f"{response.status_code} {response.headers.multi_items()} {response.text}"
            self.answers.append((user, server, whole))

        http.event_hooks["response"].append(keep)
        return http

    def legacy(self, user: str, server: str) -> McpClient:
        key = self._canaries.keys.get(user)
        return McpClient(f"{self._url}/{server}/mcp", self._http(user, server, key))

    def modern(self, user: str, server: str) -> ModernClient:
        key = self._canaries.keys.get(user)
        return ModernClient(f"{self._url}/{server}/mcp", self._http(user, server, key))

    async def strangers(self) -> None:
        """Ask for everything without a key, and with a wrong one."""
        for key in (None, self._canaries.others[-1]):
            async with self._http("", "", key) as http:
                for path in ("/readyz", "/healthz", "/", *(f"/{server}/mcp" for server in SERVERS)):
                    for verb in ("GET", "POST", "DELETE", "OPTIONS"):
                        await http.request(verb, self._url + path)

    def check(self) -> None:
        """Fail if an answer contains what its reader should not know."""
        assert len(self.answers) > 50
        for user, server, whole in self.answers:
            found = self._canaries.found_in(whole, but=self._canaries.allowed(user, server) if user else ())
            assert not found, f"in an answer to {user or 'nobody'} of {server}: {found}: {whole[:2000]}"


@contextlib.asynccontextmanager
async def watched_processes(broker: BrokerProcess, seen: set[str]) -> AsyncIterator[None]:
    """Note the arguments of all processes of a broker, again and again, within the block."""

    async def watch() -> None:
        while True:
            for pid in {broker.pid} | descendants_of(broker.pid) | wardens_of(broker.pid):
                seen.add(command_of(pid))
            await asyncio.sleep(0.005)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def use_everything(broker: BrokerProcess, site: Site, listening: Listening) -> None:
    """Use every server as every user, in both eras, and see what goes wrong."""
    for user in USERS:
        for server in SERVERS:
            async with listening.legacy(user, server) as client, listening.modern(user, server) as modern:
                await client.initialize()
                for method in ("notifications/initialized", "notifications/x"):
                    await client.notify(method)
                await client.post(client.request("tools/list"))
                await client.post(client.tool("environment"))
                await client.post(client.tool("complain", text=f"my key is {site.canaries.keys[user]}"))
                await client.post(client.tool("die", code=1))
                await modern.post(modern.request("server/discover"))
                await modern.post(modern.tool("environment"))
                await modern.post(modern.request("tools/list"))
    # Somebody with a good key, and no credential.
    for server in SERVERS:
        async with listening.legacy("carl", server) as client:
            await client.initialize()
    await listening.strangers()


async def rotate_and_revoke(broker: BrokerProcess, site: Site, listening: Listening) -> None:
    """Give a user another credential while it is used, and end another user's keys."""
    async with listening.legacy("anna", "scripted") as client, listening.legacy("ben", "files") as revoked:
        await client.open()
        await revoked.open()
        site.deployment.secret("scripted/anna", site.canaries.token("anna", "scripted"))
        await _logged(broker, "session.renewed")
        await client.ask("environment")
        site.deployment.revoke("--principal", "ben")
        await _logged(broker, "principal.revoked")
        await revoked.post(revoked.tool("environment"))


async def reload_with_mistakes(broker: BrokerProcess, site: Site) -> None:
    """Write secrets where they do not belong, and have that refused; then mend it."""
    good = site.deployment.config.read_text()
    inline, nested = canary("misplaced"), canary("nested")
    site.canaries.others += [inline, nested]
    mistakes = (
        f'[secrets]\nnamed = "{inline}"\n[servers.one]\ncommand = ["{inline}"]\nargs = "{nested}"\n'
        f'env = {{ TOKEN = ["{nested}"], OTHER = {{ fil = "{inline}" }} }}\n'
        f'credential = {{ source = "static", value = "{inline}" }}\n[storage]\nurl = "postgres:{inline}"\n'
    )
    site.deployment.write_text(mistakes)
    os.kill(broker.pid, signal.SIGHUP)
    await _logged(broker, "configuration.refused")
    done = stdio_broker("check", "--config", str(site.deployment.config), env=site.env)
    assert done.returncode == 2
    assert not site.canaries.found_in(done.stdout + done.stderr)
    site.deployment.write_text(good)


async def _logged(broker: BrokerProcess, event: str) -> None:
    # In whichever form.
    await wait_until(lambda: event in broker.stderr_text(), what=event)


def core_limits(pids: Iterable[int]) -> set[str]:
    """Return the limits on core dumps of these processes, as far as they are still there."""
    limits = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
            limits |= {" ".join(line.split()[4:6]) for line in lines if line.startswith("Max core file size")}
    return limits


@pytest.mark.timeout(180)
@pytest.mark.parametrize("log_format", ["json", "human"])
async def test_no_secret_is_anywhere_but_in_its_own_child_and_the_answers_to_its_owner(
    site: Site, log_format: str
) -> None:
    """Issue 5: a canary test greps every output for every secret."""
    canaries, seen = site.canaries, set[str]()
    async with Database(f"sqlite:///{site.deployment.directory / 'keys.db'}") as database:
        for user in ("ben", "carl"):
            canaries.keys[user] = (await KeyStore(database).create(user)).text
    options = ["--log-level", "debug", "--log-format", log_format]
    async with (
        serving_broker(site.deployment.config, options=options, env=site.env) as broker,
        watched_processes(broker, seen),
    ):
        listening = Listening(broker.url, canaries)
        await use_everything(broker, site, listening)
        await rotate_and_revoke(broker, site, listening)
        if sys.platform == "linux":
            async with listening.legacy("anna", "scripted") as client:
                await client.open()
                # One byte: less than any core has, and not handed to programs that collect them, core(5).
                assert core_limits(descendants_of(broker.pid)) == {"1 1"}
        await reload_with_mistakes(broker, site)
        await broker.stop()
        output = broker.stdout_text() + broker.stderr_text()
    listening.check()
    assert not canaries.found_in(output), output
    # That is no test if nothing was said in the first place.
    for said in ("started with", "about to die with", "TOKEN=[redacted]", "my key is [redacted]"):
        assert said in output
    for one in canaries.tokens["anna", "files"]:
        assert any(one in whole for user, _, whole in listening.answers if user == "anna")
    arguments = "\n".join(seen)
    assert "telltale.py" in arguments
    assert not canaries.found_in(arguments), arguments
    for path in site.deployment.directory.glob("keys.db*"):
        content = path.read_bytes()
        assert not canaries.found_in(content.decode("latin-1")), path


COMMANDS = (
    ("check",),
    ("check", "--principal", "anna", "--verbose"),
    ("check", "--principal", "anna", "--json"),
    ("config", "explain"),
    ("key", "list"),
    ("key", "list", "--json"),
)


def test_no_command_shows_a_secret(site: Site) -> None:
    """Issue 5: `config explain` shows the names of variables; errors and tables show no value of any."""
    for command in COMMANDS:
        done = stdio_broker(*command, "--config", str(site.deployment.config), env=site.env)
        assert done.stdout
        assert "Traceback" not in done.stderr
        assert not site.canaries.found_in(done.stdout + done.stderr), done.stdout + done.stderr
        if "--json" in command and "check" in command:
            _check_report(json.loads(done.stdout))


def _check_report(report: dict[str, Any]) -> None:
    """What `check` says of a telltale is there, without the secrets in it."""
    servers = {server["name"]: server for server in report["servers"]}
    assert servers["files"]["server_name"] == "[redacted]"
    assert servers["files"]["tools"] == ["[redacted]"]
    assert "TOKEN=[redacted]" in servers["pooled"]["reason"]
    assert "started with" in servers["crashing"]["stderr"][0]
    assert "TOKEN=[redacted]" in servers["crashing"]["stderr"][0]


@pytest.mark.parametrize("command", [["serve"], ["key", "list"], ["key", "create", "--principal", "anna"]])
def test_the_password_of_the_database_is_not_shown(command: list[str], tmp_path: Path) -> None:
    """errors.StorageError: says nothing of its URL, which may hold a password."""
    password = canary("password")
    deployment = Deployment(tmp_path)
    deployment.write(server_table("one"))
    text = deployment.config.read_text().replace('"sqlite:///keys.db"', '{ env = "DATABASE" }')
    deployment.write_text(text)
    env = {"DATABASE": f"postgresql://broker:{password}@127.0.0.1:1/broker"}
    options = ["--log-level", "debug"] if command == ["serve"] else []
    done = stdio_broker(*command, "--config", str(deployment.config), *options, env=env)
    assert done.returncode == 1
    assert "storage" in done.stderr
    assert password not in done.stdout + done.stderr
