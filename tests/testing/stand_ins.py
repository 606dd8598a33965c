"""Children that behave as the contract asks: fake ones and real ones."""

from collections.abc import Callable

from stdio_broker.supervisor import Config, ExitStatus
from stdio_broker.testing import Behaviour, FakeChild
from stdio_broker.testing.contract import COMPLAINT, FLOOD_LINE, FLOOD_LINES, SPEECH
from tests.supervisor.children import command

__all__ = ["FAKES", "PROGRAMS", "READY"]


def _leaves(config: Config) -> FakeChild:
    child = FakeChild(config)
    child.exit(ExitStatus(code=3, signal=None))
    return child


def _dies(config: Config) -> FakeChild:
    child = FakeChild(config)
    child.exit(ExitStatus(code=None, signal=9))
    return child


def _speaks(config: Config) -> FakeChild:
    child = FakeChild(config)
    child.stdout.write(SPEECH[:6])
    child.stdout.write(SPEECH[6:])
    child.exit()
    return child


def _complains(config: Config) -> FakeChild:
    child = FakeChild(config)
    child.stderr.write(COMPLAINT)
    child.exit()
    return child


def _floods(config: Config) -> FakeChild:
    child = FakeChild(config)
    child.stdout.write(FLOOD_LINE * FLOOD_LINES)
    return child


def _closes_stdout(config: Config) -> FakeChild:
    child = FakeChild(config)
    child.stdout.end()
    return child


def _closes_stdin(config: Config) -> FakeChild:
    def answer(_: bytes) -> list[bytes]:
        child.stdin.shut()
        return [b"closed"]

    child = FakeChild(config, answer=answer)
    return child


FAKES: dict[Behaviour, Callable[[Config], FakeChild]] = {
    Behaviour.ECHOES: lambda config: FakeChild(config, answer=lambda line: [line]),
    Behaviour.LEAVES_AT_EOF: lambda config: FakeChild(config, eof_code=3),
    Behaviour.DEAF: lambda config: FakeChild(config, reads=False),
    Behaviour.GRACEFUL: lambda config: FakeChild(config, reads=False, sigterm_code=7),
    Behaviour.STUBBORN: lambda config: FakeChild(config, reads=False, ignores_sigterm=True),
    Behaviour.LEAVES: _leaves,
    Behaviour.DIES: _dies,
    Behaviour.SPEAKS: _speaks,
    Behaviour.COMPLAINS: _complains,
    Behaviour.FLOODS: _floods,
    Behaviour.CLOSES_STDOUT: _closes_stdout,
    Behaviour.CLOSES_STDIN: _closes_stdin,
}


def _escaped(data: bytes) -> str:
    """Return bytes as the program takes them as an argument."""
    return data.decode("latin-1").encode("unicode_escape").decode()


PROGRAMS: dict[Behaviour, list[str]] = {
    Behaviour.ECHOES: command("echo"),
    Behaviour.LEAVES_AT_EOF: command("leave-at-eof", 3),
    Behaviour.DEAF: command("deaf"),
    Behaviour.GRACEFUL: command("graceful"),
    Behaviour.STUBBORN: command("stubborn"),
    Behaviour.LEAVES: command("leave", 3),
    Behaviour.DIES: command("die", 9),
    Behaviour.SPEAKS: command("say-bytes", 1, _escaped(SPEECH[:6]), _escaped(SPEECH[6:])),
    Behaviour.COMPLAINS: command("say-bytes", 2, _escaped(COMPLAINT)),
    Behaviour.FLOODS: command("write", 1, FLOOD_LINES * len(FLOOD_LINE)),
    Behaviour.CLOSES_STDOUT: command("close-stdout"),
    Behaviour.CLOSES_STDIN: command("close-stdin"),
}

#: The programs that say when they are ready.
READY = frozenset(
    {
        Behaviour.ECHOES,
        Behaviour.LEAVES_AT_EOF,
        Behaviour.DEAF,
        Behaviour.GRACEFUL,
        Behaviour.STUBBORN,
        Behaviour.CLOSES_STDOUT,
        Behaviour.CLOSES_STDIN,
    }
)
