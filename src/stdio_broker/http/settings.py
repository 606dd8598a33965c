"""What the HTTP side accepts."""

from dataclasses import dataclass

__all__ = ["LOOPBACK_HOSTS", "Settings"]

#: Names by which a browser or client on this machine reaches a loopback address.
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Bounds and guards of the endpoint.

    Attributes:
        path: Where the endpoint is.
        allowed_hosts: Hosts that the Host header may name, whatever the port; lower case, IPv6 in
            brackets. The guard against DNS rebinding: a page of somebody else's whose name was made
            to point at us still names itself.
        allowed_origins: Origins of web pages that may use the endpoint, besides those on an allowed
            host; as a browser sends them.
        max_body_bytes: Longest request body. A 16 MiB value crosses with its envelope, and more.
        max_header_bytes: Longest request head: what nginx and Node take, and more than enough.
        receive_timeout: Seconds that a client may pause within a request, or before its first one.
        keep_alive_interval: Seconds of silence after which a stream gets a comment, and after which
            an answer that is still to come becomes a stream. Proxies give up after 30 to 60.
        write_timeout: Seconds that a client may take to read what was written to it.
        retry_interval: Seconds that a client shall wait before it comes back to a stream it has lost.
            Told to clients of 2025-11-25 and later.
        poll_interval: Seconds after which a call's stream is closed, if it is silent, so that the
            client comes back for the answer (SEP-1699); None never closes one. For those clients
            only. Of use where something on the way cannot hold long requests.
        legacy_sse: Whether the HTTP+SSE transport of 2024-11-05 is served too, beside `path`.
    """

    path: str = "/mcp"
    allowed_hosts: frozenset[str] = LOOPBACK_HOSTS
    allowed_origins: frozenset[str] = frozenset()
    max_body_bytes: int = 64 * 1024 * 1024
    max_header_bytes: int = 32 * 1024
    receive_timeout: float = 30.0
    keep_alive_interval: float = 15.0
    write_timeout: float = 60.0
    retry_interval: float = 1.0
    poll_interval: float | None = None
    legacy_sse: bool = False
