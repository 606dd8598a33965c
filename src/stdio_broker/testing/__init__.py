"""For the tests of programs that use `stdio_broker.supervisor`: a child without a process.

    from stdio_broker.testing import FakeChild

    child = FakeChild(answer=lambda line: [line.upper()])
    assert await translate(child, "hello") == "HELLO"     # your code, which takes a `Child`
    assert child.stdin.lines == [b"hello"]

What a `Child` promises is written down as tests in `ChildContract`, which the fake one and the
real one pass alike. Subclass it to check a stand-in of your own. `docs/supervisor.md` has more.
Needs nothing but the standard library; any plugin that runs async tests will do.
"""

from .child import Answer, FakeChild
from .contract import Behaviour, ChildContract
from .output import FakeStderr, FakeStdout
from .stdin import FakeStdin

__all__ = ["Answer", "Behaviour", "ChildContract", "FakeChild", "FakeStderr", "FakeStdin", "FakeStdout"]
