"""Every error that stdio-broker raises on purpose. Imports nothing.

The type answers two questions: whose fault (`Local…`/`Remote…`), and did we close it or
did it break. Facts are attributes; messages say what was expected and what was found, and
never carry a secret, a message body or a child's stderr.

    BrokerError
    ├── ConfigError                 mistakes in options or files, all of them at once
    ├── SpawnError                  the command could not be started
    │   ├── CapacityError           nothing is wrong with it: a limit of the system is reached
    │   └── IsolationUnavailable    this machine cannot isolate it as asked
    ├── ChildError
    │   ├── ChildGone               the child's stdin is closed: it was stopped or has ended
    │   ├── ChildExitError          the child ended badly
    │   ├── EndOfOutput             the child's stdout has ended; every line was delivered
    │   ├── LineTooLong             one line was over the limit; the next ones are in sync
    │   └── NotExited               a question about an exit that has not happened
    ├── ProtocolError
    │   ├── LocalProtocolError      the client's message breaks a rule; its fault
    │   └── RemoteProtocolError     the child's message breaks a rule; its fault
    ├── StartTimeout                the child did not answer `initialize` in time
    ├── BridgeBroken                the child ended under an exchange
    ├── SessionNotFound             unknown, ended, or somebody else's: all look alike
    ├── Unauthenticated             nobody we know, or not any more: all look alike
    ├── Forbidden                   somebody we know, who may not use this
    ├── CredentialMissing           the principal has no credential for the server
    ├── StorageError                the database cannot be used, or did not answer
    └── Unavailable                 not now; a later try may succeed
        ├── LimitReached            an admission limit is reached
        │   └── TooManyRequests     the principal's own: others are not affected
        ├── ServerFailing           the server keeps failing, and is left alone for a while
        ├── CredentialUnavailable   the source of credentials does not answer
        └── Draining                we are shutting down
"""

__all__ = [
    "BridgeBroken",
    "BrokerError",
    "CapacityError",
    "ChildError",
    "ChildExitError",
    "ChildGone",
    "ConfigError",
    "CredentialMissing",
    "CredentialUnavailable",
    "Draining",
    "EndOfOutput",
    "Forbidden",
    "IsolationUnavailable",
    "LimitReached",
    "LineTooLong",
    "LocalProtocolError",
    "NotExited",
    "ProtocolError",
    "RemoteProtocolError",
    "ServerFailing",
    "SessionNotFound",
    "SpawnError",
    "StartTimeout",
    "StorageError",
    "TooManyRequests",
    "Unauthenticated",
    "Unavailable",
]


class BrokerError(Exception):
    """Root of everything below."""


class ConfigError(BrokerError):
    """Options or files are wrong.

    Attributes:
        problems: One sentence per mistake; never empty.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class SpawnError(BrokerError):
    """The operating system refused to start the command.

    Attributes:
        command: The program, without its arguments (they may hold a secret).
        reason: Why, in words.
    """

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"cannot start {command!r}: {reason}")
        self.command = command
        self.reason = reason


class CapacityError(SpawnError):
    """A limit of the system leaves no room for another child. The command itself is not at fault.

    Attributes:
        resource: What there is too little of: "file descriptors" or "processes".
        used: How many are in use; None if the system refused without saying so.
        limit: How many there may be; None likewise.
    """

    def __init__(
        self, command: str, reason: str, *, resource: str, used: int | None, limit: int | None
    ) -> None:
        super().__init__(command, reason)
        self.resource = resource
        self.used = used
        self.limit = limit


class IsolationUnavailable(SpawnError):
    """This machine cannot isolate a child as the operator asked; weaker than asked is not an answer.

    Attributes:
        level: The level of isolation that was asked for.
    """

    def __init__(self, command: str, reason: str, *, level: str) -> None:
        super().__init__(command, f"isolation {level!r} is not available here: {reason}")
        self.level = level


class ChildError(BrokerError):
    """Something about a running or ended child."""


class ChildGone(ChildError):
    """A line cannot be sent: the child's stdin is closed."""


class ChildExitError(ChildError):
    """The child ended badly: by a non-zero code, a signal nobody asked for, or by SIGKILL.

    Attributes:
        code: Exit code, or None.
        signal: Number of the signal that ended it, or None.
    """

    def __init__(self, message: str, *, code: int | None, signal: int | None) -> None:
        super().__init__(message)
        self.code = code
        self.signal = signal


class EndOfOutput(ChildError):
    """The child's stdout has ended and every line of it was delivered."""


class LineTooLong(ChildError):
    """One line was longer than the limit. Only that line is lost.

    Attributes:
        length: Bytes of the line, newline excluded.
        head: Its first bytes.
        tail: Its last bytes.
    """

    def __init__(self, length: int, limit: int, *, head: bytes, tail: bytes) -> None:
        super().__init__(f"a line of {length} bytes exceeds the limit of {limit} bytes")
        self.length = length
        self.head = head
        self.tail = tail


class NotExited(ChildError):
    """The child has not ended yet, so it has no exit status."""


class ProtocolError(BrokerError):
    """A message breaks a rule of JSON-RPC or MCP.

    Attributes:
        code: The JSON-RPC error code that fits.
    """

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class LocalProtocolError(ProtocolError):
    """The client's message breaks a rule.

    Attributes:
        request_id: The raw JSON token of the message's id, where it could be read.
        data: The `data` member of the error, as JSON text, or None.
    """

    def __init__(
        self, message: str, *, code: int, request_id: bytes | None = None, data: bytes | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.request_id = request_id
        self.data = data


class RemoteProtocolError(ProtocolError):
    """The child's message breaks a rule."""


class StartTimeout(BrokerError):
    """The child did not answer its first request in time.

    Attributes:
        timeout: Seconds it had.
    """

    def __init__(self, timeout: float, method: str = "initialize") -> None:
        super().__init__(f"the server did not answer `{method}` within {timeout:g} s")
        self.timeout = timeout


class BridgeBroken(BrokerError):
    """The child ended, or closed its stdout, under an exchange.

    Attributes:
        reason: What happened, as a constant that programs can compare.
        retryable: Whether the same request, sent again as it is, gets another child. The first one may
            have been carried out all the same: nobody knows, so nothing is ever sent twice for a client.
        code: The child's exit code, or None.
        signal: Number of the signal that ended it, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "server process ended",
        retryable: bool = True,
        code: int | None = None,
        signal: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retryable = retryable
        self.code = code
        self.signal = signal

    def data(self) -> dict[str, object]:
        """Return the `data` of the JSON-RPC error that tells a client."""
        facts = {"exitCode": self.code, "signal": self.signal}
        told = {name: value for name, value in facts.items() if value is not None}
        return {"reason": self.reason, "retryable": self.retryable, **told}

    def again(self) -> "BridgeBroken":
        """Return the same, to be raised once more: each raise has a traceback of its own."""
        return BridgeBroken(
            str(self), reason=self.reason, retryable=self.retryable, code=self.code, signal=self.signal
        )

    def final(self) -> "BridgeBroken":
        """Return the same, where the session ends with its child."""
        return BridgeBroken(
            str(self), reason=self.reason, retryable=False, code=self.code, signal=self.signal
        )


class SessionNotFound(BrokerError):
    """No such session for this principal. A foreign one gets the same answer as an unknown one."""

    def __init__(self) -> None:
        super().__init__("no such session: it is unknown or has ended; send `initialize` to open a new one")


class Unauthenticated(BrokerError):
    """The request proves no identity. An unknown, an expired and a revoked proof look alike.

    Attributes:
        presented: Whether there was a proof at all (RFC 6750, section 3.1: without one, no error code).
    """

    def __init__(self, *, presented: bool) -> None:
        found = "the one presented is not valid" if presented else "found none"
        super().__init__(f"expected a bearer key in the Authorization header; {found}")
        self.presented = presented


class Forbidden(BrokerError):
    """The principal may not use this server, or there is none of this name: both look alike."""

    def __init__(self, server: str) -> None:
        super().__init__(f"this key may not use a server {server!r}")


class CredentialMissing(BrokerError):
    """The principal has no credential for a server."""

    def __init__(self, server: str) -> None:
        super().__init__(f"you have no credential for the server {server!r}; its operator can give you one")


class StorageError(BrokerError):
    """The database cannot be used, or did not answer. Says nothing of its URL, which may hold a password."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the storage cannot be used: {reason}")


class Unavailable(BrokerError):
    """Not now.

    Attributes:
        retry_after: Seconds after which a retry makes sense.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LimitReached(Unavailable):
    """An admission limit is reached."""


class TooManyRequests(LimitReached):
    """A limit of the principal's own is reached. Others are not affected."""


class CredentialUnavailable(Unavailable):
    """The source of credentials did not answer, or not with a credential."""

    def __init__(self, server: str, *, retry_after: float) -> None:
        super().__init__(
            f"your credential for the server {server!r} cannot be had now", retry_after=retry_after
        )


class ServerFailing(Unavailable):
    """The server keeps failing, so for a while it is not even started."""

    def __init__(self, *, retry_after: float) -> None:
        super().__init__("the server keeps failing; it is tried again in a while", retry_after=retry_after)


class Draining(Unavailable):
    """The broker is shutting down: calls in flight may finish, nothing new starts."""

    def __init__(self) -> None:
        super().__init__("the broker is shutting down", retry_after=5.0)
