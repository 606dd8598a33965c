"""Every mistake in a configuration file, in the words that its user reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stdio_broker.config import load_configuration
from stdio_broker.errors import ConfigError
from tests.config.files import SERVER, load, mistakes, secret_file

#: Each file that is wrong, and what is said of it.
CASES = [
    (text.strip("\n") + "\n", told.strip("\n").split("\n"))
    for case in (Path(__file__).parent / "mistakes.txt").read_text(encoding="utf-8").split("=== file\n")[1:]
    for text, _, told in [case.partition("--- said\n")]
]

#: The same for what would not fit there, or has no line end.
HUGE = {
    'port = "': "broker.toml, line 1: unterminated string, and the file ends",
    f"a = {'[' * 2000}": "broker.toml: lists or tables are nested too deeply",
    f"a = {'9' * 5000}": "broker.toml: a number has more digits than any number that is expected here",
    f'[auth]\nmode = "{"x" * 100}"\n{SERVER}': (
        f'broker.toml: auth.mode: expected "none" or "keys", found "{"x" * 60}…"'
    ),
    f"[limits]\nmax_sessions = -{'9' * 100}\n{SERVER}": (
        "broker.toml: limits.max_sessions: expected a whole number of sessions, 1 or more, found a number"
    ),
    "": "broker.toml: servers: no server at all; expected a table such as [servers.git] with a `command`",
}


@pytest.mark.parametrize(("text", "told"), CASES, ids=[told[0][:60] for _, told in CASES])
def test_a_mistake_is_told_in_these_words(tmp_path: Path, text: str, told: list[str]) -> None:
    """Issue 5: with the key, what was found and what was expected; a secret is never repeated."""
    found = mistakes(tmp_path, text)
    assert found == told
    assert "hunter2" not in " ".join(found)


@pytest.mark.parametrize(("text", "told"), HUGE.items(), ids=range(len(HUGE)))
def test_a_mistake_that_is_huge_is_told_in_few_words(tmp_path: Path, text: str, told: str) -> None:
    """Ours: the same, for what would not fit on a screen, or has no line at all."""
    assert mistakes(tmp_path, text) == [told]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Issue 5: of one layer or another, of one server or another."""
    found = mistakes(
        tmp_path,
        """
        [http]
        prot = 1
        allowed_hosts = ["a b"]
        [secrets.a]
        env = "MISSING"
        [secrets.b]
        evn = "x"
        [servers.one]
        comand = "x"
        [servers.two]
        command = "y"
        env = { A = "${secret:a}", B = "${secret:b}", C = "${secret:c}" }
        cwd = "nowhere"
        """,
        {"STDIO_BROKER_HTTP__PORT": "x", "STDIO_BROKER_HTTP__PROT": "1"},
    )
    assert found == [
        "STDIO_BROKER_HTTP__PROT: unknown key 'prot'; did you mean \"port\"?",
        'STDIO_BROKER_HTTP__PORT: http.port: expected a whole number, 0 to 65535, found "x"',
        'broker.toml: http.prot: unknown key; did you mean "port"?',
        'broker.toml: secrets.b.evn: unknown key; did you mean "env"?',
        "broker.toml: servers.one.command: missing; expected a text",
        'broker.toml: servers.one.comand: unknown key; did you mean "command"?',
        "broker.toml: secrets.a: the broker's environment has no such variable",
        "broker.toml: http.allowed_hosts[0]: expected a host name, such as mcp.example, found 'a b'",
        # Not of ${secret:a} and ${secret:b}, which are there.
        "broker.toml: servers.two.env.C: found ${secret:c}, and there is no secret 'c'",
        "broker.toml: servers.two.cwd: expected a directory, found none",
    ]


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    """Ours: no traceback, whatever it is."""
    for name, reason in (("missing.toml", "No such file or directory"), ("", "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load_configuration(tmp_path / name, {})
        assert caught.value.problems == (f"{tmp_path / name}: cannot be read: {reason}",)


def test_a_file_of_other_bytes_is_a_mistake(tmp_path: Path) -> None:
    """TOML 1.0.0: a file must be UTF-8."""
    file = tmp_path / "broker.toml"
    file.write_bytes(b"# \xc3\xa4\n[http] # \xff\n")
    with pytest.raises(ConfigError) as caught:
        load_configuration(file, {})
    assert caught.value.problems == (f"{file}, line 2: expected UTF-8, found other bytes",)


def test_a_byte_order_mark_is_none(tmp_path: Path) -> None:
    """Ours: some editors write one."""
    assert load(tmp_path, f"\ufeff{SERVER}").servers[0].recipe.name == "git"


@pytest.mark.parametrize(
    ("mode", "found"), [(0o604, "0604"), (0o602, "0602"), (0o644, "0644"), (0o777, "0777")]
)
def test_a_secret_that_others_may_use_is_refused(tmp_path: Path, mode: int, found: str) -> None:
    """Issue 5; ssh does the same with private keys."""
    secret_file(tmp_path / "s", mode=mode)
    assert mistakes(tmp_path, f'{SERVER}[secrets.a]\nfile = "s"\n') == [
        (
            f"broker.toml: secrets.a: every user of this machine may use the file (mode {found}); expected "
            "0600 or 0640, as `chmod o= FILE` makes it"
        )
    ]
    for fine in (0o600, 0o400, 0o640):
        (tmp_path / "s").chmod(fine)
        assert load(tmp_path, f'{SERVER}[secrets.a]\nfile = "s"\n').sources[1] == tmp_path / "s"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the secret is empty"),
        (b"\n", "the secret is empty"),
        (b"hunter2\0", "the secret contains a NUL character"),
        (b"hunter2\xff", "the file is not text in UTF-8"),
        (b"x" * (64 * 1024 + 1), "the file is longer than 65536 bytes"),
    ],
)
def test_a_file_without_a_secret_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    """Ours: found when the file is read, not when a user comes."""
    secret_file(tmp_path / "s").write_bytes(content)
    assert mistakes(tmp_path, f'{SERVER}[secrets.a]\nfile = "s"\n') == [f"broker.toml: secrets.a: {told}"]


def test_what_is_no_file_is_no_secret(tmp_path: Path) -> None:
    """Ours: a named pipe would make the broker wait for a writer."""
    (tmp_path / "directory").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("directory", "pipe"):
        assert mistakes(tmp_path, f'{SERVER}[secrets.a]\nfile = "{name}"\n') == [
            "broker.toml: secrets.a: expected a file, found something else"
        ]


def test_a_file_that_leads_nowhere_is_no_secret(tmp_path: Path) -> None:
    """Ours: with the system's reason, where there is no better one."""
    (tmp_path / "loop").symlink_to("loop")
    assert mistakes(tmp_path, f'{SERVER}[secrets.a]\nfile = "loop"\n') == [
        "broker.toml: secrets.a: the file cannot be read: Too many levels of symbolic links"
    ]


def test_a_secret_with_several_lines_is_none_for_a_template(tmp_path: Path) -> None:
    """sessions.templates: no line end is put into a value that has more in it."""
    secret_file(tmp_path / "s", "one\ntwo\n")
    found = mistakes(tmp_path, f'{SERVER}env = {{ A = "x ${{secret:s}}" }}\n[secrets.s]\nfile = "s"\n')
    assert found == [
        "broker.toml: servers.git.env.A: the secret 's' contains a control character, such as a line end"
    ]
