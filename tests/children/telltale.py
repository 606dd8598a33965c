"""An MCP server that tells whatever it knows, wherever it can.

    telltale.py BEHAVIOUR

It always writes its environment to stderr first, calls itself and its tool by its `TOKEN`, and answers every
call with an error that quotes the environment. Its secret also stands where the broker cuts lines that are
too long. Besides, it

    answers   does nothing
    garbage   writes the environment to stdout too, where only messages belong
    refuses   answers `initialize` with such an error
    dies      ends under the first call, with more of it on stderr
    crashes   ends at its start
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing at run time would cost 7 ms
    from typing import Any


#: Characters of stderr that the broker keeps of a line, and those after which it delivers a piece.
CUTS = (1024, 64 * 1024)


def main() -> None:
    """Serve, and tell."""
    behaviour = sys.argv[1]
    known = " ".join(f"{name}={value}" for name, value in os.environ.items())
    sys.stderr.write(f"started with {known}\n")
    for length in CUTS:
        sys.stderr.write(f"{'x' * (length - 35)}{os.environ.get('TOKEN', 'nameless')}\n")
    sys.stderr.flush()
    if behaviour == "crashes":
        sys.exit(3)
    if behaviour == "garbage":
        print(known, flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        answer = _answer(message, behaviour, known)
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)


def _answer(message: dict[str, Any], behaviour: str, known: str) -> dict[str, Any]:
    token = os.environ.get("TOKEN", "nameless")
    if message["method"] == "initialize" and behaviour != "refuses":
        version = message["params"]["protocolVersion"]
        info = {"name": token, "version": token}
        return {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}}
    if message["method"] == "tools/list":
        return {"result": {"tools": [{"name": token, "inputSchema": {"type": "object"}}]}}
    if message["method"] == "tools/call" and behaviour == "dies":
        sys.stderr.write(f"about to die with {known}\n")
        sys.stderr.flush()
        os._exit(4)
    return {"error": {"code": -32000, "message": f"{message['method']} is refused: {known}"}}


if __name__ == "__main__":
    main()
