"""The example of docs/supervisor.md, "Testing your own code"."""

import asyncio

import pytest

from stdio_broker.supervisor import Child, Config, EndOfOutput, ExitStatus
from stdio_broker.testing import FakeChild


async def translate(child: Child, word: str) -> str:
    """Ask a program that answers every line with a line."""
    await child.stdin.send(word.encode())
    try:
        return (await child.stdout.receive()).decode()
    except EndOfOutput:
        raise RuntimeError(f"the translator {await child.wait()}") from None


async def test_the_answer_is_the_translation() -> None:
    child = FakeChild(answer=lambda line: [line.upper()])
    assert await translate(child, "hello") == "HELLO"
    assert child.stdin.lines == [b"hello"]


async def test_a_translator_that_crashes_is_reported() -> None:
    child = FakeChild()
    translating = asyncio.create_task(translate(child, "hello"))
    assert await child.hears() == b"hello"
    child.exit(ExitStatus(code=3, signal=None))
    with pytest.raises(RuntimeError, match="the translator exited with code 3"):
        await translating


async def test_a_translator_that_does_not_want_to_end_is_killed() -> None:
    impatient = Config(cmd=["unused"], eof_grace=0, stop_grace=0.01)
    async with FakeChild(impatient, ignores_eof=True, ignores_sigterm=True) as child:
        child.stderr.feed("I stay")
    assert str(child.exit_err()) == "the child ended by SIGKILL"
    assert child.stderr_tail == ("I stay",)
