"""Whose session is it? A value, made at the edge, compared here."""

from dataclasses import dataclass

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


#: Everybody, where authentication is off.
ANONYMOUS = Principal(issuer="", subject="anonymous")
