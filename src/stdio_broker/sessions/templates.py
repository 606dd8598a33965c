"""Environment templates: what of a child's environment depends on whose child it is. Pure.

    ${credential.token}     the principal's credential for the server
    ${principal.name}       the principal's name at its issuer
    ${principal.issuer}     who vouches for the principal
    ${secret:NAME}          a secret of the operator's, the same for everybody
    $$                      a dollar sign

There are no expressions. What is wrong is found when a template is read, as far as it can be: what a
user brings may become a value, but never the value of a variable that decides what is executed or
whom a program trusts, and no more than one line.

Source: identity reference, section 9.6, and threats T15 and T16.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .principal import Principal

__all__ = [
    "MAX_VALUE_BYTES",
    "EnvironmentTemplate",
    "RenderError",
    "Rendered",
    "TemplateError",
    "flaw_of",
]

#: Longest value that anything is put into, in bytes.
MAX_VALUE_BYTES = 8192

_CREDENTIAL, _NAME, _ISSUER, _SECRET = "credential.token", "principal.name", "principal.issuer", "secret:"
_KNOWN = (_CREDENTIAL, _NAME, _ISSUER, f"{_SECRET}NAME")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_TOKENS = re.compile(r"\$\$|\$\{(?:([^{}$]*)\})?")
#: What may be quoted when it is no template: short, and no password with `${` in it.
_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,40}")
#: A name that stays one word, and one component of a path, wherever it is put.
_PLAIN_NAME = re.compile(r"\w[\w@.+-]*")

#: Control characters, halves of characters, and what some programs take for the end of a line.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})

# Names by which somebody could choose what is executed, or whom a program trusts with the token. In
# capitals, and compared so: proxies and npm's options are as good in small letters. It is no complete
# list, for there is none: each server has names of its own, which its operator gives values with care.
_FORBIDDEN_PREFIXES = (
    # The linker, and the C library (what it ignores in set-uid programs).
    *("LD_", "DYLD_", "GLIBC_", "MALLOC_", "RES_"),
    # Interpreters, their package managers, and virtual machines.
    *("PYTHON", "PIP_", "UV_", "NODE_", "NPM_CONFIG_", "BUN_", "DENO_", "ELECTRON_", "PERL5", "RUBY"),
    *("GEM_", "BUNDLE_", "PERL_", "PHP_", "LUA_", "JAVA_", "JDK_", "DOTNET_", "CORECLR_", "COR_", "COMPLUS_"),
    *("ERL_", "JULIA_", "GUILE_", "BASH_"),
    # Programs that others start, where they read their configuration, whom they trust.
    *("GIT_", "SSH_", "SSL_", "OPENSSL_", "GNUTLS_", "KRB5", "XDG_"),
    # Ours.
    "STDIO_BROKER_",
)
_FORBIDDEN_SUFFIXES = ("_PROXY", "_CA_BUNDLE", "_ASKPASS", "_PRELOAD", "_OPTS", "_JAVA_OPTIONS")
_FORBIDDEN_NAMES = frozenset(
    {
        *("PATH", "HOME", "SHELL", "PWD", "TMPDIR", "TMP", "TEMP", "IFS", "CDPATH", "ENV", "PS4", "FPATH"),
        *("SHELLOPTS", "BASHOPTS", "PROMPT_COMMAND", "ZDOTDIR", "CLASSPATH", "LIBPATH", "SHLIB_PATH"),
        *("GCONV_PATH", "LOCPATH", "NLSPATH", "TZDIR", "HOSTALIASES", "LOCALDOMAIN", "LOCALE_ARCHIVE"),
        *("TERMCAP", "TERMINFO", "TERMINFO_DIRS", "GETCONF_DIR", "RESOLV_HOST_CONF"),
        *("EDITOR", "VISUAL", "PAGER", "MANPAGER", "BROWSER", "LESSOPEN", "LESSCLOSE", "CURL_HOME"),
        *("GODEBUG", "GOENV", "GOFLAGS", "GOPATH", "GOPROXY", "GOROOT", "GOTOOLCHAIN", "CARGO_HOME"),
        *("RUSTC", "RUSTC_WRAPPER", "RUSTFLAGS", "MAKEFLAGS", "MAKEFILES", "TCLLIBPATH", "VIRTUAL_ENV"),
        *("PERLLIB", "PHPRC"),
        # Files that name programs to be run, or servers that do what they like with a token.
        *("KUBECONFIG", "DOCKER_HOST", "DOCKER_CONFIG", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
    }
)


class TemplateError(ValueError):
    """Templates that cannot be used.

    Attributes:
        problems: One sentence per mistake, each with the variable's name; never empty.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class RenderError(ValueError):
    """A value that no variable can have. The message does not contain it.

    Attributes:
        variable: The variable it was for.
    """

    def __init__(self, variable: str, flaw: str) -> None:
        super().__init__(f"{variable}: {flaw}")
        self.variable = variable


@dataclass(frozen=True, slots=True)
class Rendered:
    """The environment of one principal's children.

    Attributes:
        variables: Each variable's value.
        secrets: What was put into them that must not be shown.
    """

    variables: dict[str, str] = field(repr=False)
    secrets: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Text:
    text: str = field(repr=False)  # of the operator's, and maybe a secret


@dataclass(frozen=True, slots=True)
class _Placeholder:
    what: str


_Parts = tuple[_Text | _Placeholder, ...]


@dataclass(frozen=True, slots=True)
class EnvironmentTemplate:
    """Variables for a child, some of which are made for its principal. Made by `parse`.

    Attributes:
        needs_credential: Whether a variable is made of the principal's credential.
        needs_principal: Whether a variable is made of who the principal is.
        secret_names: The secrets of the operator's that variables are made of.
    """

    needs_credential: bool
    needs_principal: bool
    secret_names: frozenset[str]
    _variables: tuple[tuple[str, _Parts], ...]

    @classmethod
    def parse(cls, variables: Mapping[str, str]) -> "EnvironmentTemplate":
        """Read the templates of all variables.

        Raises:
            TemplateError: With every mistake in them.
        """
        problems: list[str] = []
        parsed: list[tuple[str, _Parts]] = []
        for name, template in variables.items():
            parts, flaws = _parse(template)
            parsed.append((name, parts))
            problems += [f"{name}: {flaw}" for flaw in (*flaws, *_flaws_of_variable(name, parts))]
        if problems:
            raise TemplateError(*problems)
        used = {part.what for _, parts in parsed for part in parts if isinstance(part, _Placeholder)}
        secrets = {what.removeprefix(_SECRET) for what in used if what.startswith(_SECRET)}
        return cls(_CREDENTIAL in used, bool(used & {_NAME, _ISSUER}), frozenset(secrets), tuple(parsed))

    @property
    def names(self) -> tuple[str, ...]:
        """The variables' names."""
        return tuple(name for name, _ in self._variables)

    def check(self, *, has_credentials: bool, secrets: Mapping[str, str]) -> None:
        """Find out whether there is what the variables are made of.

        Args:
            has_credentials: Whether principals can have credentials.
            secrets: The operator's secrets, by name.

        Raises:
            TemplateError: With everything that there is not, or that no variable can hold.
        """
        problems = [
            f"{variable}: {flaw}"
            for variable, parts in self._variables
            for part in parts
            if isinstance(part, _Placeholder)
            for flaw in _flaws_of_source(part.what, secrets, has_credentials=has_credentials)
        ]
        if problems:
            raise TemplateError(*problems)

    def render(self, *, principal: Principal, token: str | None, secrets: Mapping[str, str]) -> Rendered:
        """Return the environment of a principal's children.

        Args:
            principal: Whose.
            token: Its credential; None if it has none, and none is needed.
            secrets: The operator's secrets; those named in `secret_names` must be there.

        Raises:
            RenderError: A value cannot be put into its variable.
        """
        values = {_NAME: principal.subject, _ISSUER: principal.issuer}
        if token is not None:
            values[_CREDENTIAL] = token
        values |= {f"{_SECRET}{name}": value for name, value in secrets.items()}
        variables = {name: _render(name, parts, values) for name, parts in self._variables}
        used = {secrets[name] for name in self.secret_names}
        if token is not None and self.needs_credential:
            used.add(token)
        return Rendered(variables, frozenset(used))


def flaw_of(value: str) -> str | None:
    """Return what keeps a value out of a variable, without the value; None if nothing does."""
    if not value:
        return "is empty"
    if len(value) > MAX_VALUE_BYTES:  # and maybe so large that it is not worth another look
        return f"is longer than {MAX_VALUE_BYTES} bytes"
    if _has_control_character(value):
        return "contains a control character, such as a line end"
    if len(value.encode()) > MAX_VALUE_BYTES:
        return f"is longer than {MAX_VALUE_BYTES} bytes"
    return None


def _parse(template: str) -> tuple[_Parts, list[str]]:
    """Return the parts of a template, and what is wrong with it."""
    parts: list[_Text | _Placeholder] = []
    flaws: list[str] = []
    text, end = "", 0
    for token in _TOKENS.finditer(template):
        text += template[end : token.start()]
        end = token.end()
        if token[0] == "$$":
            text += "$"
        elif _is_known(token[1]):
            parts += [_Text(text), _Placeholder(token[1])]
            text = ""
        else:
            flaws.append(_flaw_of_placeholder(token[1]))
    parts.append(_Text(text + template[end:]))
    return tuple(part for part in parts if part != _Text("")), flaws


def _is_known(what: str | None) -> bool:
    if what is None:
        return False
    is_secret = what.startswith(_SECRET) and _SECRET_NAME.fullmatch(what.removeprefix(_SECRET))
    return what in {_CREDENTIAL, _NAME, _ISSUER} or bool(is_secret)


def _flaw_of_placeholder(what: str | None) -> str:
    if what is None or not _WORD.fullmatch(what):
        # It may be a password that has `${` in it.
        return "found a `${` that begins no template; expected `$${` for the text `${`"
    candidates = (*_KNOWN, _SECRET + (re.split("[:.]", what)[-1] or "NAME"))
    nearest = difflib.get_close_matches(what, candidates, n=1)
    expected = f"${{{nearest[0]}}}" if nearest else "one of " + ", ".join(f"${{{known}}}" for known in _KNOWN)
    return f"found ${{{what}}}, expected {expected}"


def _flaws_of_variable(name: str, parts: _Parts) -> Iterator[str]:
    if not _VARIABLE.fullmatch(name):
        yield "expected a name of letters, digits and _, which does not begin with a digit"
    placeholders = [part for part in parts if isinstance(part, _Placeholder)]
    if not placeholders:  # it is the operator's as it stands, and may be a certificate
        if any("\0" in part.text for part in parts if isinstance(part, _Text)):
            yield "expected text without NUL, which no variable can hold"
        return
    if any(_has_control_character(part.text) for part in parts if isinstance(part, _Text)):
        yield "expected no control characters, such as line ends, around a template"
    by_principal = [part for part in placeholders if not part.what.startswith(_SECRET)]
    if by_principal and _decides_what_is_executed(name):
        yield (
            f"expected no value that depends on the principal, found ${{{by_principal[0].what}}}: "
            "this variable can change what is executed, or who is trusted"
        )


def _decides_what_is_executed(name: str) -> bool:
    name = name.upper()
    return (
        name in _FORBIDDEN_NAMES or name.startswith(_FORBIDDEN_PREFIXES) or name.endswith(_FORBIDDEN_SUFFIXES)
    )


def _flaws_of_source(what: str, secrets: Mapping[str, str], *, has_credentials: bool) -> Iterator[str]:
    if what == _CREDENTIAL and not has_credentials:
        yield f"found ${{{what}}}, expected a source of credentials for the server"
    if not what.startswith(_SECRET):
        return
    name = what.removeprefix(_SECRET)
    if name not in secrets:
        nearest = difflib.get_close_matches(name, secrets, n=1)
        hint = f"; did you mean ${{{_SECRET}{nearest[0]}}}?" if nearest else ""
        yield f"found ${{{what}}}, and there is no secret {name!r}{hint}"
    elif flaw := flaw_of(secrets[name]):
        yield f"the secret {name!r} {flaw}"


def _render(variable: str, parts: _Parts, values: Mapping[str, str]) -> str:
    pieces = [
        part.text if isinstance(part, _Text) else _insert(variable, part.what, values, alone=len(parts) == 1)
        for part in parts
    ]
    value = "".join(pieces)
    # What stands there as it is was checked when it was read; a certificate may well be longer.
    made = any(isinstance(part, _Placeholder) for part in parts)
    if made and len(value.encode()) > MAX_VALUE_BYTES:
        raise RenderError(variable, f"is longer than {MAX_VALUE_BYTES} bytes")
    return value


def _insert(variable: str, what: str, values: Mapping[str, str], *, alone: bool) -> str:
    value = values.get(what)
    if value is None:
        raise RenderError(variable, f"there is no ${{{what}}}")
    if flaw := flaw_of(value):
        raise RenderError(variable, f"${{{what}}} {flaw}")
    if what == _NAME and not alone and not _PLAIN_NAME.fullmatch(value):
        # In /data/${principal.name} a user called ../anna would get what is anna's.
        raise RenderError(variable, f"${{{what}}} is not one word of letters, digits and _ @ . + -")
    return value


def _has_control_character(text: str) -> bool:
    return not text.isprintable() and any(unicodedata.category(c) in _FORBIDDEN_CATEGORIES for c in text)
