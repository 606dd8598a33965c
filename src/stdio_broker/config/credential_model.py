"""The `credential` of a server, as classes: where `${credential.token}` comes from, for each principal."""

# ruff: noqa: RUF012 - pydantic copies a default

from typing import Annotated, Literal

from pydantic import Field

from .keys import Grace, Reference, Seconds, Table, Value, about

__all__ = [
    "CommandCredential",
    "Credential",
    "EnvironmentCredential",
    "FileCredential",
    "StaticCredential",
]


class StaticCredential(Table):
    """One credential of the operator's for everybody: to the server all of them are one user."""

    source: Literal["static"]
    value: Annotated[
        Reference,
        about("Where it is.", why="Never inline: configuration files are copied, shown and committed."),
    ]


class FileCredential(Table):
    """A file for each principal, with the credential and nothing else."""

    source: Literal["file"]
    path: Annotated[
        str,
        Field(repr=False),
        about(
            "Path of the files; `{principal}` stands for the principal's name. Without it: a directory of "
            "files that are named by it.",
            why="A person or a secret manager puts a file there, and it is read each time; replace one by "
            "renaming.",
        ),
    ]


class EnvironmentCredential(Table):
    """A variable of the broker's own for each principal."""

    source: Literal["env"]
    name: Annotated[
        str,
        Field(repr=False),
        about(
            "Name of the variables; `{PRINCIPAL}`, after an underscore, stands for the principal's name in "
            "capitals (`anna-b` is ANNA_B, `anna@b` ANNA__40B).",
            why="For a handful of users in a container.",
        ),
    ]


class CommandCredential(Table):
    """A program that prints each principal's credential and exits with 0, or with 3 if there is none."""

    source: Literal["command"]
    command: Annotated[
        list[str],
        Field(repr=False),
        about(
            "Program and arguments. Whose credential it is asked for is in its environment: "
            "STDIO_BROKER_PRINCIPAL, STDIO_BROKER_ISSUER, STDIO_BROKER_SERVER.",
            why="Whatever keeps your secrets has a command line. No shell is involved.",
        ),
    ]
    env: Annotated[
        dict[str, Value],
        Field(repr=False),
        about(
            "More variables for it; each a text, or where it is.",
            why="It gets the same short list of the broker's own as children do.",
        ),
    ] = {}
    timeout: Annotated[
        Seconds,
        about("How long it may take.", unit="seconds", why="A client waits for it."),
    ] = 10.0
    ttl: Annotated[
        Grace,
        about(
            "How long its answer is taken for good; 0: it is asked each time.",
            unit="seconds",
            why="Soon enough for a rotation, and not a process for each request.",
        ),
    ] = 30.0


Credential = Annotated[
    StaticCredential | FileCredential | EnvironmentCredential | CommandCredential,
    Field(discriminator="source"),
]
