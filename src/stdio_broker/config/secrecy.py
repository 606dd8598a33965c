"""Which variables hold secrets, by their names and values. Pure."""

import re

__all__ = ["MIN_SECRET_CHARS", "is_token", "looks_secret", "names_secret"]

_SECRET_NAME = re.compile("auth|credential|key|pass|secret|token", re.IGNORECASE)

#: Shorter values are no secrets worth the name, and taking them out would make logs unreadable.
MIN_SECRET_CHARS = 6


def looks_secret(name: str) -> bool:
    """Return whether the name of a variable says that its value is a secret."""
    return _SECRET_NAME.search(name) is not None


# A word of a name, or what one ends with: not AUTHOR, not KEYCLOAK_URL.
_SECRET_WORD = re.compile(
    r"(?:.*(?:key|token|secret|password|passwd|passphrase|credentials?)|auth|pass|pat|pwd)", re.IGNORECASE
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def names_secret(name: str) -> bool:
    """Return whether a name says that its value is a secret, and hardly any other name does.

    For what is to be changed if so; `looks_secret` is for what is to be hidden.
    """
    return any(_SECRET_WORD.fullmatch(word) for word in _WORDS.findall(name))


# As their makers publish them for scanners: GitHub, GitLab, OpenAI and Anthropic, Slack, AWS, Google, npm,
# Forgejo and Gitea (40 hexadecimal digits), JSON web tokens, keys of ours; and passwords in URLs.
_TOKEN = re.compile(
    r"""
    gh[a-z]_\w{16,} | github_pat_\w{16,} | glpat-[\w-]{16,} | sk-[\w-]{16,} | xox[a-z]-[\w-]{8,}
  | AKIA[0-9A-Z]{16} | AIza[\w-]{30,} | npm_\w{30,} | stdiob_key_\w+ | eyJ[\w-]{8,}\.[\w-]+\.[\w-]*
  | (?<![0-9a-fA-F])[0-9a-f]{40}(?![0-9a-fA-F]) | ://[^/\s:@]*:[^/\s@]+@ | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY
  | Bearer\ [\w.~+/-]{16,}
    """,
    re.VERBOSE,
)


def is_token(value: str) -> bool:
    """Return whether a value has something in it that is a secret by its form."""
    return _TOKEN.search(value) is not None
