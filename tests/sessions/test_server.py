"""The recipe of a server, and what it comes to for a principal."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from stdio_broker.errors import CredentialMissing, CredentialUnavailable
from stdio_broker.sessions import ANONYMOUS, Principal, ServerRecipe
from stdio_broker.sessions import server as server_module
from stdio_broker.sessions.credentials import Credential
from stdio_broker.sessions.server import Launch
from stdio_broker.sessions.templates import EnvironmentTemplate, TemplateError
from stdio_broker.supervisor import Config, Supervisor

ANNA = Principal(issuer="https://id.example.com", subject="anna")
BERND = Principal(issuer="https://id.example.com", subject="bernd")
CONFIG = Config(cmd=["server", "--fast"], env={"MODE": "x"})


class Tokens:
    """A source of credentials that a test can change."""

    def __init__(self, tokens: dict[Principal, str], *, per_principal: bool = True) -> None:
        self.tokens = tokens
        self.per_principal = per_principal
        self.asked = 0

    async def resolve(self, principal: Principal) -> Credential:
        self.asked += 1
        if principal not in self.tokens:
            raise CredentialMissing("forge")
        return Credential(self.tokens[principal])


def recipe_of(
    variables: dict[str, str],
    credentials: Tokens | None = None,
    config: Config = CONFIG,
    **named_secrets: str,
) -> ServerRecipe:
    return ServerRecipe(
        "forge",
        config,
        frozenset({"0p3r4t0r"}),
        environment=EnvironmentTemplate.parse(variables),
        credentials=credentials,
        named_secrets=named_secrets,
    )


async def test_a_recipe_without_templates_comes_to_the_same_for_everybody() -> None:
    """Ours: `run` has no templates, and pays nothing for them."""
    recipe = ServerRecipe("forge", CONFIG, frozenset({"s3cr3t"}))
    launch = await recipe.resolve(ANNA)
    assert launch.config is CONFIG
    assert launch.secrets == {"s3cr3t"}
    assert not recipe.per_principal
    assert await recipe.resolve(BERND) is launch
    assert await recipe.sample() is launch


async def test_each_principals_children_get_the_principals_own_credential() -> None:
    """Issue 5: each user's own credential in their own child and nowhere else."""
    tokens = Tokens({ANNA: "t0k3n-4", BERND: "t0k3n-b"})
    recipe = recipe_of({"TOKEN": "${credential.token}", "WHO": "${principal.name}"}, tokens)
    assert recipe.per_principal
    annas, bernds = await recipe.resolve(ANNA), await recipe.resolve(BERND)
    assert annas.config.env == {"MODE": "x", "TOKEN": "t0k3n-4", "WHO": "anna"}
    assert bernds.config.env == {"MODE": "x", "TOKEN": "t0k3n-b", "WHO": "bernd"}
    assert annas.secrets == {"0p3r4t0r", "t0k3n-4"}
    assert bernds.secrets == {"0p3r4t0r", "t0k3n-b"}
    assert annas.generation != bernds.generation
    assert (annas.config.cmd, annas.config.stop_grace) == (CONFIG.cmd, CONFIG.stop_grace)


async def test_a_variable_of_the_template_replaces_one_of_the_config() -> None:
    """Ours."""
    launch = await recipe_of({"MODE": "y"}).resolve(ANNA)
    assert launch.config.env == {"MODE": "y"}


async def test_a_rotated_credential_makes_another_generation_and_the_old_one_comes_back_with_it() -> None:
    """Design decision 3: a lease is of a credential generation."""
    tokens = Tokens({ANNA: "0ld"})
    recipe = recipe_of({"TOKEN": "${credential.token}"}, tokens)
    before = await recipe.resolve(ANNA)
    assert await recipe.resolve(ANNA) is before
    tokens.tokens[ANNA] = "n3w"
    after = await recipe.resolve(ANNA)
    assert after.config.env == {"MODE": "x", "TOKEN": "n3w"}
    assert after.secrets == {"0p3r4t0r", "n3w"}
    assert after.generation != before.generation
    tokens.tokens[ANNA] = "0ld"
    assert (await recipe.resolve(ANNA)).generation == before.generation


async def test_a_source_is_not_asked_for_what_no_variable_is_made_of() -> None:
    """Ours: a server that needs no credential works for who has none."""
    tokens = Tokens({})
    recipe = recipe_of({"WHO": "${principal.name}"}, tokens)
    assert recipe.per_principal
    assert (await recipe.resolve(ANNA)).config.env["WHO"] == "anna"
    assert tokens.asked == 0


async def test_secrets_of_the_operators_are_the_same_for_everybody() -> None:
    """Ours: such a server can be tried at the start."""
    recipe = recipe_of({"DATABASE": "postgres://app:${secret:db}@db/app"}, db="p4ss")
    assert not recipe.per_principal
    launch = await recipe.resolve(ANNA)
    assert launch.config.env["DATABASE"] == "postgres://app:p4ss@db/app"
    assert launch.secrets == {"0p3r4t0r", "p4ss"}
    assert await recipe.sample() is launch


def test_a_recipe_that_could_never_be_resolved_is_refused_with_every_reason() -> None:
    """Issue 5: all mistakes at once."""
    with pytest.raises(TemplateError) as caught:
        recipe_of({"A": "${credential.token}", "B": "${secret:db}"})
    assert [problem[:2] for problem in caught.value.problems] == ["A:", "B:"]


async def test_a_source_without_a_credential_says_so_through_the_recipe() -> None:
    """Ours."""
    recipe = recipe_of({"TOKEN": "${credential.token}"}, Tokens({ANNA: "t0k3n"}))
    with pytest.raises(CredentialMissing):
        await recipe.resolve(BERND)


async def test_a_probe_has_no_principals_credential_even_if_the_source_knows_nobody_by_name() -> None:
    """Ours: at the start nobody is there whose credential could be used."""
    tokens = Tokens({ANONYMOUS: "t0k3n"})
    recipe = recipe_of({"TOKEN": "${credential.token}"}, tokens)
    with pytest.raises(CredentialMissing):
        await recipe.sample()
    assert tokens.asked == 0
    # But where authentication is off, nobody is who everybody is.
    assert (await recipe.resolve(ANONYMOUS)).config.env == {"MODE": "x", "TOKEN": "t0k3n"}


async def test_a_probe_works_with_a_credential_that_everybody_has() -> None:
    """Ours: one account for all is the operator's, and there from the start."""
    recipe = recipe_of({"TOKEN": "${credential.token}"}, Tokens({ANONYMOUS: "t0k3n"}, per_principal=False))
    assert not recipe.per_principal
    assert (await recipe.sample()).config.env == {"MODE": "x", "TOKEN": "t0k3n"}


async def test_a_probe_of_a_server_that_wants_a_name_is_anonymous() -> None:
    """Ours."""
    launch = await recipe_of({"WHO": "${principal.name}"}).sample()
    assert launch.config.env["WHO"] == "anonymous"


async def test_a_value_that_cannot_be_used_is_told_to_the_operator_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ours: the user can do nothing about it, and the operator must not see it."""
    recipe = recipe_of({"TOKEN": "${credential.token}"}, Tokens({ANNA: "b4d\nLD_PRELOAD=x"}))
    with pytest.raises(CredentialUnavailable) as caught:
        await recipe.resolve(ANNA)
    (record,) = caplog.records
    facts = vars(record)
    assert (record.message, facts["server"], facts["principal"]) == (
        "server.environment_refused",
        "forge",
        "anna",
    )
    assert facts["problem"].startswith("TOKEN: ${credential.token} contains a control character")
    assert "b4d" not in str(facts) + str(caught.value)
    assert caught.value.__cause__ is None


async def test_nothing_secret_is_in_a_repr() -> None:
    """Ours: a repr ends in a log sooner or later."""
    recipe = recipe_of(
        {"TOKEN": "${credential.token}", "B": "${secret:db} 1nl1n3"}, Tokens({ANNA: "t0k3n"}), db="p4ss"
    )
    launch = await recipe.resolve(ANNA)
    shown = repr(recipe) + repr(launch) + repr(Credential("t0k3n"))
    assert not any(secret in shown for secret in ("t0k3n", "p4ss", "1nl1n3", "0p3r4t0r"))


async def test_the_memory_of_a_recipe_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Style guide: every table has a bound."""
    monkeypatch.setattr(server_module, "MAX_LAUNCHES", 2)
    recipe = recipe_of({"WHO": "${principal.name}"})
    launches = [await recipe.resolve(Principal("id", name)) for name in ("a", "b", "c")]
    assert await recipe.resolve(Principal("id", "b")) is launches[1]
    assert await recipe.resolve(Principal("id", "c")) is launches[2]
    again = await recipe.resolve(Principal("id", "a"))
    assert again is not launches[0]
    assert again.generation == launches[0].generation


# Generations.


def test_equal_configs_are_of_one_generation_however_they_are_written() -> None:
    """Design decision 6: a changed recipe is what moves a session, not a reload."""
    one = Config(cmd=["a", "b"], env={"X": "1", "Y": "2"}, eof_grace=2, inherit_env={"A", "B", "C"})
    other = Config(
        cmd=("a", pathlib.Path("b")), env={"Y": "2", "X": "1"}, eof_grace=2.0, inherit_env={"C", "B", "A"}
    )
    assert Launch(one).generation == Launch(other).generation
    assert Launch(one, frozenset({"secret"})).generation == Launch(one).generation


CHANGES: list[Callable[[Config], Config]] = [
    lambda config: dataclasses.replace(config, cmd=["server", "--slow"]),
    lambda config: dataclasses.replace(config, cmd=["server --fast"]),
    lambda config: dataclasses.replace(config, cmd=["server", "--fast", ""]),
    lambda config: dataclasses.replace(config, env={"MODE": "y"}),
    lambda config: dataclasses.replace(config, env={"MODE": "x", "N": ""}),
    lambda config: dataclasses.replace(config, env={"MODE": None}),
    lambda config: dataclasses.replace(config, env={"MODE": "None"}),
    lambda config: dataclasses.replace(config, env={"M": "ODEx"}),
    lambda config: dataclasses.replace(config, inherit_env="all"),
    lambda config: dataclasses.replace(config, inherit_env=("all",)),
    lambda config: dataclasses.replace(config, cwd="/"),
    lambda config: dataclasses.replace(config, eof_grace=0.25),
    lambda config: dataclasses.replace(config, max_line_bytes=1000),
    lambda config: dataclasses.replace(config, containment="group"),
]


def test_each_change_makes_a_generation_of_its_own() -> None:
    """Ours: a child of another generation is not what would be started now."""
    generations = [Launch(CONFIG).generation, *(Launch(change(CONFIG)).generation for change in CHANGES)]
    assert len(set(generations)) == len(generations)


def test_every_field_of_a_config_but_the_listener_is_part_of_a_generation() -> None:
    """Ours: a field that is added is not forgotten."""
    for field in dataclasses.fields(Config):
        changed = copy.copy(CONFIG)
        object.__setattr__(changed, field.name, "another value")  # whether it would be allowed or not
        same = Launch(changed).generation == Launch(CONFIG).generation
        assert same == (field.name == "on_stderr"), field.name


def test_what_a_repr_hides_is_part_of_a_generation() -> None:
    """Ours: secrets are left out of reprs, and a rotated one must be seen all the same."""

    @dataclasses.dataclass(frozen=True)
    class Hidden:
        value: str = dataclasses.field(repr=False)

    canonical = server_module._canonical  # noqa: SLF001 - the property is its own
    assert canonical(Hidden("a")) != canonical(Hidden("b"))
    assert canonical([Hidden("a"), None, 1.5]) == canonical((Hidden("a"), None, 1.5))


def test_a_generation_reveals_nothing_to_who_can_guess_the_config() -> None:
    """Ours: it is in logs and in places where others can see it."""
    program = (
        "from stdio_broker.supervisor import Config\n"
        "from stdio_broker.sessions.server import Launch\n"
        "print(Launch(Config(cmd=['server', '--fast'], env={'MODE': 'x'})).generation)\n"
    )
    source = str(pathlib.Path(__file__).parents[2] / "src")
    other = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": source},
    )
    generation = Launch(CONFIG).generation
    assert len(other.stdout.strip()) == len(generation)
    assert other.stdout.strip() != generation


# A child of a launch.


async def test_a_rotated_token_is_in_its_own_childs_environment_and_out_of_its_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Identity reference, section 9.6: known secret values of this child are redacted."""
    caplog.set_level(logging.DEBUG, logger="stdio_broker.sessions.server")
    program = "import os, sys; t = os.environ['TOKEN']; print(t); print('bad token', t, file=sys.stderr)"
    tokens = Tokens({ANNA: "f1rst-t0k3n"})
    config = Config(cmd=[sys.executable, "-I", "-S", "-c", program])
    recipe = recipe_of({"TOKEN": "${credential.token}"}, tokens, config)
    async with Supervisor() as supervisor:
        for token in ("f1rst-t0k3n", "s3c0nd-t0k3n"):
            tokens.tokens[ANNA] = token
            launch = await recipe.resolve(ANNA)
            child = await supervisor.start(launch.config_for_log(session="s1"))
            assert await child.stdout.receive() == token.encode()
            await child.wait()
    lines = [vars(record) for record in caplog.records if record.message == "child.stderr"]
    assert [(line["session"], line["line"]) for line in lines] == [("s1", "bad token [redacted]")] * 2
    assert not any(
        token in json.dumps(line, default=str) for line in lines for token in tokens.tokens.values()
    )


async def test_without_debugging_nobody_listens_to_stderr(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: it costs a call for each line."""
    caplog.set_level(logging.INFO, logger="stdio_broker.sessions.server")
    launch = Launch(CONFIG)
    assert launch.config_for_log(session="s1") is CONFIG
