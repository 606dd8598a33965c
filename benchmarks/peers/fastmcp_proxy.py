"""The proxy of fastmcp, as its documentation builds it, with what makes it fast: JSON answers, no access log.

Runs in the environment of that peer, not in ours. Usage: `fastmcp_proxy.py PORT COMMAND...`.
"""

import sys

from fastmcp.client.transports import StdioTransport  # type: ignore[import-not-found]
from fastmcp.server import create_proxy  # type: ignore[import-not-found]


def main() -> None:
    """Serve the command on the port of the loopback interface, until SIGTERM."""
    _, port, command, *arguments = sys.argv
    create_proxy(StdioTransport(command, arguments)).run(
        transport="http",
        host="127.0.0.1",
        port=int(port),
        json_response=True,
        show_banner=False,
        log_level="error",
        uvicorn_config={"access_log": False},
    )


if __name__ == "__main__":
    main()
