"""Whose session is it? A value, made at the edge, compared here."""

from dataclasses import dataclass, field

__all__ = ["ANONYMOUS", "Principal"]


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated user.

    Attributes:
        issuer: Who vouches for it.
        subject: Its name there, unique within the issuer.
    """

    issuer: str
    subject: str
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Hash it once: it is looked up several times per request."""
        object.__setattr__(self, "_hash", hash((self.issuer, self.subject)))

    def __hash__(self) -> int:
        return self._hash


#: Everybody, where authentication is off.
ANONYMOUS = Principal(issuer="", subject="anonymous")
