"""Credentials that lie ready: each principal's own, and nobody else's."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stdio_broker.auth.credential_names import path_of, path_pattern, variable_of, variable_pattern
from stdio_broker.auth.credentials import EnvironmentCredentials, FileCredentials, StaticCredential
from stdio_broker.errors import CredentialMissing, CredentialUnavailable
from stdio_broker.sessions import Principal
from stdio_broker.sessions.credentials import CredentialSource
from stdio_broker.sessions.templates import MAX_VALUE_BYTES

ISSUER = "https://id.example.com"
ANNA = Principal(ISSUER, "anna")
BERND = Principal(ISSUER, "bernd")

#: Names that try to get somewhere, and any others; halves of characters included.
names = st.one_of(
    st.text(st.characters(exclude_categories=()), min_size=1, max_size=30),
    st.text("./\\~%\0-_@aA2eE5fF", min_size=1, max_size=12),
)


def write(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


async def token_of(source: CredentialSource, principal: Principal = ANNA) -> str:
    return (await source.resolve(principal)).token


async def test_a_static_credential_is_everybodys() -> None:
    """Ours: the operator's explicit word."""
    source = StaticCredential("t0k3n")
    assert not source.per_principal
    assert await token_of(source) == await token_of(source, BERND) == "t0k3n"
    assert "t0k3n" not in repr(source) + repr(await source.resolve(ANNA))


def test_a_static_credential_that_is_no_value_is_refused_without_it() -> None:
    """Ours."""
    with pytest.raises(
        ValueError, match="expected a credential, found one that contains a control char"
    ) as it:
        StaticCredential("s3cr3t\nx")
    assert "s3cr3t" not in str(it.value)


# Files.


async def test_each_principal_has_a_file(tmp_path: Path) -> None:
    """Issue 5: a file per principal."""
    write(tmp_path / "anna", "annas\n")
    write(tmp_path / "bernd", "bernds")
    for pattern in (tmp_path, f"{tmp_path}/", f"{tmp_path}/{{principal}}"):
        source = FileCredentials("forge", pattern, issuer=ISSUER)
        assert source.per_principal
        assert (await token_of(source), await token_of(source, BERND)) == ("annas", "bernds")


async def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    """Issue 5: a rotation reaches the children without a restart."""
    source = FileCredentials("forge", tmp_path, issuer=ISSUER)
    write(tmp_path / "anna", "0ld")
    assert await token_of(source) == "0ld"
    write(tmp_path / "new", "n3w")
    (tmp_path / "new").rename(tmp_path / "anna")
    assert await token_of(source) == "n3w"


async def test_the_same_name_at_another_issuer_is_another_principal(tmp_path: Path) -> None:
    """Design, section 1: a principal is an issuer and a subject."""
    write(tmp_path / "anna", "annas")
    source = FileCredentials("forge", tmp_path, issuer=ISSUER)
    with pytest.raises(CredentialMissing):
        await source.resolve(Principal("https://evil.example", "anna"))
    write(tmp_path / "a" / "anna", "from-a")
    write(tmp_path / "https%3A%2F%2Fb" / "anna", "from-b")
    both = FileCredentials("forge", f"{tmp_path}/{{issuer}}/{{principal}}")
    assert await token_of(both, Principal("a", "anna")) == "from-a"
    assert await token_of(both, Principal("https://b", "anna")) == "from-b"
    with pytest.raises(CredentialMissing):
        await both.resolve(Principal("", "anna"))


@pytest.mark.parametrize("name", ["", "nobody", "x" * 300, "a\0b", "\ud800"])
async def test_without_a_file_there_is_no_credential(name: str, tmp_path: Path) -> None:
    """Ours; a name too long for a file is one without."""
    with pytest.raises(CredentialMissing, match="'forge'"):
        await FileCredentials("forge", tmp_path, issuer=ISSUER).resolve(Principal(ISSUER, name))


async def test_the_operator_reads_where_a_file_was_looked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: names are encoded, so it may be somewhere else than expected."""
    caplog.set_level(logging.INFO)
    with pytest.raises(CredentialMissing) as caught:
        await FileCredentials("forge", tmp_path, issuer=ISSUER).resolve(Principal(ISSUER, "a b"))
    facts = vars(caplog.records[0])
    assert (facts["message"], facts["place"]) == ("credential.missing", f"{tmp_path}/a%20b")
    assert (facts["server"], facts["principal"], facts["issuer"]) == ("forge", "a b", ISSUER)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o610])
async def test_a_file_that_is_others_to_use_is_refused(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours, as ssh does with keys: who can read it has it, and who can write it chooses it."""
    write(tmp_path / "anna", "t0k3n", mode)
    await refused(
        tmp_path, caplog, f"expected a file that only its owner may use (chmod 0600), found {mode:04o}"
    )


async def refused(tmp_path: Path, caplog: pytest.LogCaptureFixture, problem: str) -> None:
    """Expect that anna's file is refused, and the operator told why."""
    caplog.clear()
    with pytest.raises(CredentialUnavailable) as caught:
        await FileCredentials("forge", tmp_path, issuer=ISSUER).resolve(ANNA)
    (record,) = caplog.records
    facts = vars(record)
    assert (record.levelname, record.message) == ("WARNING", "credential.unavailable")
    assert facts["problem"] == f"{tmp_path}/anna: {problem}"
    assert "t0k3n" not in str(facts) + str(caught.value)
    assert caught.value.retry_after > 0
    assert str(tmp_path) not in str(caught.value)


async def test_a_link_is_refused_wherever_it_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ours: who can make one there could show us any file that we can read."""
    write(tmp_path / "bernd", "t0k3n")
    (tmp_path / "anna").symlink_to(tmp_path / "bernd")
    await refused(tmp_path, caplog, os.strerror(40 if os.uname().sysname == "Linux" else 62))


@pytest.mark.parametrize("kind", ["directory", "fifo"])
async def test_what_is_no_regular_file_is_refused_and_never_waited_for(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: to open a FIFO waits for its other end, on the event loop."""
    path = tmp_path / "anna"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    else:
        path.mkdir(0o700)
    await refused(tmp_path, caplog, "expected a regular file")


@pytest.mark.parametrize(
    ("content", "flaw"),
    [
        (b"", "what is there is empty"),
        (b"\r\n", "what is there is empty"),
        (b"t0k3n\nLD_PRELOAD=x", "what is there contains a control character, such as a line end"),
        (b"t0k3n\0", "what is there contains a control character, such as a line end"),
        (b"t0k3n\xff", "what is there is not UTF-8"),
        (b"x" * (MAX_VALUE_BYTES + 1), "what is there is longer than 8192 bytes"),
        (b"x" * (1 << 20), "what is there is longer than 8192 bytes"),
    ],
)
async def test_what_is_no_token_is_refused(
    content: bytes, flaw: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Identity reference, section 9.6: no NUL, CR, LF; 8 KiB at most."""
    write(tmp_path / "anna", content)
    await refused(tmp_path, caplog, flaw)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
async def test_the_longest_token_is_read_whole(end: bytes, tmp_path: Path) -> None:
    """Identity reference, section 9.6: 8 KiB."""
    write(tmp_path / "anna", b"x" * MAX_VALUE_BYTES + end)
    token = await token_of(FileCredentials("forge", tmp_path, issuer=ISSUER))
    assert token == "x" * MAX_VALUE_BYTES


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("tokens/{principal}", "expected an absolute path"),
        ("", "expected an absolute path|expected {issuer}"),
        ("/a\0b", "expected an absolute path"),
        ("/t/{principal}/{princpal}", "found {princpal}, expected {principal}"),
        ("/t/{PRINCIPAL}", "found {PRINCIPAL}, expected {principal}"),
        ("/t/{isuer}", "found {isuer}, expected {issuer}"),
        ("/t/{principal}/{principal}", "expected each placeholder once"),
        ("/t/{principal}/{x", "expected no braces but"),
        ("/t/{issuer}{principal}", "expected a / between {issuer} and {principal}"),
        ("/t/{issuer}-{principal}", "expected a / between {issuer} and {principal}"),
        ("/t/{principal}", "expected {issuer} in the path, or one issuer"),
    ],
)
def test_a_pattern_that_cannot_keep_principals_apart_is_refused(pattern: str, problem: str) -> None:
    """Ours: found at the start, not when the second one comes."""
    with pytest.raises(ValueError, match=problem):
        FileCredentials("forge", pattern)


@given(subject=names, issuer=names)
@example("..", "..")
@example(".", ".")
@example("/etc/passwd", "x")
@example("../anna", "x")
def test_no_name_leads_out_of_the_directory(subject: str, issuer: str) -> None:
    """Ours: a name that a user brings chooses a file, but only there."""
    principal = Principal(issuer, subject)
    for pattern in (
        "/t/{issuer}/{principal}",
        "/t/{issuer}/d/{principal}.token",
        "/t/.{issuer}/.{principal}",
    ):
        path = path_of(path_pattern(pattern), principal)
        assert path is not None
        assert path.count("/") == pattern.count("/")
        assert os.path.normpath(path) == path
        assert path.isascii()
        assert "\0" not in path


@given(subject=names, issuer=names)
@example("a/b", "c")
@example(".a", "%2Ea")
def test_the_path_of_a_file_tells_whose_it_is(subject: str, issuer: str) -> None:
    """Issue 5: never another's credential. What can be read back, is different for different principals."""
    for separator in "/:":
        pattern = path_pattern(f"/t/{{issuer}}{separator}{{principal}}")
        path = path_of(pattern, Principal(issuer, subject))
        assert path is not None
        parts = path.removeprefix("/t/").split(separator)
        assert [unquote(part, errors="surrogatepass") for part in parts] == [issuer, subject]


# Variables.

VARIABLES = {
    "TOKEN_ANNA": "annas",
    "TOKEN_ANNA_B": "anna-bs",
    "TOKEN_ANNA__40EXAMPLE__2ECOM": "anna-at-examples",
    "TOKEN___41NNA": "Annas",
    "TOKEN_": "nobodys",
    "TOKEN_EMPTY": "",
    "TOKEN_BAD": "t0k3n\nx",
    "TOKEN_LATIN": "t0k3n\udcff",
    "PATH": "/bin",
}


def variables(pattern: str = "TOKEN_{PRINCIPAL}") -> EnvironmentCredentials:
    return EnvironmentCredentials("forge", pattern, issuer=ISSUER, environment=VARIABLES)


@pytest.mark.parametrize(
    ("name", "token"),
    [("anna", "annas"), ("anna-b", "anna-bs"), ("anna@example.com", "anna-at-examples"), ("Anna", "Annas")],
)
async def test_each_principal_has_a_variable(name: str, token: str) -> None:
    """Issue 5: environment."""
    source = variables()
    assert source.per_principal
    assert await token_of(source, Principal(ISSUER, name)) == token


@pytest.mark.parametrize("name", ["", "anna_b", "anna.b", "ANNA", "anna-", "nobody"])
async def test_a_name_that_only_looks_alike_has_no_variable(name: str) -> None:
    """Ours: two principals never share one."""
    with pytest.raises(CredentialMissing, match="'forge'"):
        await variables().resolve(Principal(ISSUER, name))


async def test_another_issuers_principal_has_no_variable() -> None:
    """Design, section 1: a principal is an issuer and a subject."""
    with pytest.raises(CredentialMissing):
        await variables().resolve(Principal("https://evil.example", "anna"))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("empty", "TOKEN_EMPTY: what is there is empty"),
        ("bad", "TOKEN_BAD: what is there contains a control character, such as a line end"),
        ("latin", "TOKEN_LATIN: what is there is not UTF-8"),
    ],
)
async def test_a_variable_without_a_token_is_refused(
    name: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Identity reference, section 9.6."""
    with pytest.raises(CredentialUnavailable):
        await variables().resolve(Principal(ISSUER, name))
    facts = vars(caplog.records[0])
    assert facts["problem"] == problem
    assert "t0k3n" not in str(facts)


async def test_our_own_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 5."""
    monkeypatch.setenv("MY_ANNA_TOKEN", "fr0m-0urs")
    source = EnvironmentCredentials("forge", "MY_{PRINCIPAL}_TOKEN", issuer=ISSUER)
    assert await token_of(source) == "fr0m-0urs"


@pytest.mark.parametrize(
    "pattern", ["{PRINCIPAL}", "TOKEN", "TOKEN{PRINCIPAL}", "T-_{PRINCIPAL}", "_{PRINCIPAL}", "T_{principal}"]
)
def test_a_pattern_that_could_name_anything_is_refused(pattern: str) -> None:
    """Ours: else a user called `path` would have what is in PATH for a credential."""
    with pytest.raises(ValueError, match="expected the name of a variable such as TOKEN_"):
        variables(pattern)


def decoded(part: str) -> str:
    """Return the name that a part of a variable's name stands for."""

    def decode(found: re.Match[str]) -> bytes:
        kind: Literal["escape", "hyphen", "other"] = found.lastgroup  # type: ignore[assignment]
        if kind == "escape":
            return bytes.fromhex(found[0][2:])
        return b"-" if kind == "hyphen" else found[0].lower().encode()

    tokens = re.finditer(r"(?P<escape>__[0-9A-F]{2})|(?P<hyphen>_)|(?P<other>[A-Z0-9])", part)
    return b"".join(map(decode, tokens)).decode(errors="surrogatepass")


@given(name=names)
@example("user--2e")
@example("a-_-b")
@example("a-2e")
def test_the_name_of_a_variable_tells_whose_it_is(name: str) -> None:
    """Issue 5: never another's credential. What can be read back, is different for different names."""
    part = variable_of(variable_pattern("T_{PRINCIPAL}"), name).removeprefix("T_")
    assert re.fullmatch(r"[A-Z0-9_]+", part)
    assert decoded(part) == name
