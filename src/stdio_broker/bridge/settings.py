"""Bounds of a bridge."""

from dataclasses import dataclass

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Bounds of one bridge, that is of one child.

    Attributes:
        max_calls: Client requests in flight at once. More are refused; a client with this many
            open calls is not waiting for answers.
        max_questions: Requests of the child that wait for the client. More are refused to the child.
        max_stream_bytes: Bytes that may wait on one stream for a slow client; past it the stream is
            cut, so that one slow reader costs its own exchange only. A final answer always fits.
        max_backlog_messages: Messages kept for a GET stream while none is open; past it the oldest
            is dropped and counted.
        max_backlog_bytes: The same in bytes. What a new GET has no room for waits for the next one.
        max_replay_events: Events kept of what was written to a session's streams, for a client that
            lost one and comes back; past it the oldest is given up. As many as the backlog holds: what
            a client can miss before it notices is a burst of progress, not a day's messages.
        max_replay_bytes: The same in bytes. What a broken connection can lose is what lay in socket
            buffers, which Linux lets grow to 4 MiB.
        max_suspended: Calls of a session that go on while their client has lost the stream; the answer
            is kept. More are released, as in a session without event ids. As many as a busy agent has
            in flight.
        resume_timeout: Seconds that a client has to come back to a stream. Clients try after 1 to 30.
        max_parked: Calls of one principal that wait for the answers to a child's questions.
        park_timeout: Seconds that a call waits for them. A person may be at lunch; a child that holds
            something open for a client that never comes back must not wait for ever.
        state_timeout: Seconds that a server's own `requestState` stays good. It costs us nothing.
        question_window: Seconds between a child's first question and our asking the client: servers
            ask several things at once, each on a line of its own.
        turn_patience: Seconds that answered questions wait for their call's turn, where calls take turns.
            Then they go to the child all the same: it may do one thing at a time, and that be waiting.
        max_rounds: How often a modern server may ask again before a legacy client's call is ended.
        max_listeners: `subscriptions/listen` streams of one child.
        query_timeout: Seconds that a child has to answer a request of our own.
    """

    max_calls: int = 256
    max_questions: int = 64
    max_stream_bytes: int = 4 * 1024 * 1024
    max_backlog_messages: int = 200
    max_backlog_bytes: int = 1024 * 1024
    max_replay_events: int = 200
    max_replay_bytes: int = 4 * 1024 * 1024
    max_suspended: int = 32
    resume_timeout: float = 60.0
    max_parked: int = 32
    park_timeout: float = 600.0
    state_timeout: float = 86_400.0
    question_window: float = 0.01
    turn_patience: float = 5.0
    max_rounds: int = 10
    max_listeners: int = 64
    query_timeout: float = 10.0
