"""The modes of the scripted child: what the words of its command line make of it.

A mode has the name of its function, with dashes. They are applied in the order in which they are given.
"""

from __future__ import annotations

import json
import os
import signal
import time

from .wire import notify, write

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing at run time would cost 7 ms
    from collections.abc import Callable
    from typing import TypeAlias

    from .child import Child

    Mode: TypeAlias = Callable[[Child, str], None]

__all__ = ["MODES"]

MODES: dict[str, Mode] = {}


def mode(function: Mode) -> Mode:
    """Offer a function as the mode of its name, with dashes."""
    MODES[function.__name__.replace("_", "-")] = function
    return function


# Which revisions it speaks.


@mode
def era(child: Child, value: str) -> None:
    """Speak `legacy` (default), `modern`, or `both`: then the first request decides, for the whole process.

    As servers of the Python SDK do: `initialize`, or anything without the modern `_meta`, decides for legacy,
    and modern requests get -32600 then; the modern `_meta` decides for modern, and `initialize` gets -32022.
    """
    child.era = value
    child.dual = value == "both"


@mode
def versions(child: Child, value: str) -> None:
    """Name these versions, commas between; in modern refuse requests of others, but not `server/discover`."""
    child.versions = value.split(",")


@mode
def sloppy(child: Child, _value: str) -> None:
    """Leave out of modern results resultType ("complete"), ttlMs, cacheScope and serverInfo."""
    child.sloppy = True


@mode
def silent_discover(child: Child, _value: str) -> None:
    """Never answer `server/discover`, in no era."""
    child.answers_discover = False


@mode
def discover_error(child: Child, value: str) -> None:
    """Answer `server/discover` with an error of this code, in each era; -32022 comes with its data."""
    child.discover_error = int(value)


@mode
def discover_result(child: Child, value: str) -> None:
    """Answer `server/discover` with this JSON for a result, in each era, and nothing added."""
    child.discover_result = json.loads(value)


@mode
def initialize_error(child: Child, value: str) -> None:
    """Answer `initialize` with an error of this code that names the modern versions, in each era."""
    facts = {"supported": child.versions}
    child.initialize_error = (int(value), f"supported: {', '.join(child.versions)}", facts)


@mode
def silent(child: Child, _value: str) -> None:
    """Never answer `initialize`."""
    child.answers_initialize = False


@mode
def refuse(child: Child, value: str) -> None:
    """Answer `initialize` with an error."""
    child.initialize_error = (-32602, value or "refused", {"why": ["x", 1.50]})


@mode
def version(child: Child, value: str) -> None:
    """Choose this version in `initialize`, whatever is asked for."""
    child.version = value


# What it says and offers.


@mode
def capabilities(child: Child, value: str) -> None:
    """Have these capabilities, JSON, instead of tools (listChanged) and logging."""
    child.capabilities = json.loads(value)


@mode
def resources(child: Child, _value: str) -> None:
    """Have the capability resources too, with listChanged and subscribe."""
    child.capabilities["resources"] = {"listChanged": True, "subscribe": True}


@mode
def prompts(child: Child, _value: str) -> None:
    """Have the capability prompts too, with listChanged."""
    child.capabilities["prompts"] = {"listChanged": True}


@mode
def completions(child: Child, _value: str) -> None:
    """Have the capability completions too."""
    child.capabilities["completions"] = {}


@mode
def instructions(child: Child, value: str) -> None:
    """Give these instructions."""
    child.instructions = value


@mode
def pages(child: Child, value: str) -> None:
    """Give every list in so many pages, with the cursors "1", "2" and so on."""
    child.pages = int(value)


@mode
def headers(child: Child, _value: str) -> None:
    """List the tools with `x-mcp-header` too, at the end."""
    child.annotates = True


@mode
def without(child: Child, value: str) -> None:
    """Know no such method; may be given several times."""
    child.absent.add(value)


@mode
def die_on(child: Child, value: str) -> None:
    """End with code 3 at a request of this method; may be given several times."""
    child.deadly.add(value)


# How it starts and ends.


@mode
def ignore_eof(child: Child, _value: str) -> None:
    """Live on when stdin ends."""
    child.ends_at_eof = False


@mode
def ignore_sigterm(_child: Child, _value: str) -> None:
    """Live on after SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@mode
def exit_at_start(_child: Child, value: str) -> None:
    """Complain and end with this code."""
    os.write(2, b"first complaint\nlast complaint\n")
    os._exit(int(value))


@mode
def start_stderr(_child: Child, value: str) -> None:
    """Write this to stderr first."""
    os.write(2, value.encode() + b"\n")


@mode
def banner(_child: Child, _value: str) -> None:
    """Write to stdout what does not belong there: text, no UTF-8, an empty line, JSON that is no JSON-RPC."""
    write(b"Welcome to mcp-child!\n\xff\xfe\x80 caf\xe9\n\n")
    write(b'{"hello": "world"}\n[]\n"text"\n\x1b[31mred\x1b[0m\r\n')


@mode
def early_log(_child: Child, _value: str) -> None:
    """Log before `initialize` is answered."""
    notify("notifications/message", {"level": "info", "data": "early"})


@mode
def slow_start(_child: Child, value: str) -> None:
    """Take so many seconds before reading anything."""
    time.sleep(float(value))


@mode
def start_when(_child: Child, value: str) -> None:
    """Read nothing until this file exists."""
    while not os.path.exists(value):  # noqa: PTH110 - pathlib costs 10 ms
        time.sleep(0.01)
