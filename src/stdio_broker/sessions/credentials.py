"""Where the credential of a principal comes from. Declared here, implemented in `auth`."""

from dataclasses import dataclass, field
from typing import Protocol

from .principal import Principal

__all__ = ["Credential", "CredentialSource"]


@dataclass(frozen=True, slots=True)
class Credential:
    """What a principal's child proves with who it works for.

    Attributes:
        token: The secret.
    """

    token: str = field(repr=False)


class CredentialSource(Protocol):
    """Knows the credentials of principals for one server."""

    @property
    def per_principal(self) -> bool:
        """Whether principals have different ones."""

    async def resolve(self, principal: Principal) -> Credential:
        """Return the credential that a principal has now.

        Raises:
            CredentialMissing: It has none.
            CredentialUnavailable: It cannot be had now. The operator finds out why in the log.
        """
