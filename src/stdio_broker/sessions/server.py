"""The recipe of a server, and what it comes to for one principal: how to start a child of it."""

import dataclasses
import hashlib
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import CredentialMissing, CredentialUnavailable
from ..supervisor import Config, Isolation, isolate
from ..telemetry import Redaction
from .credentials import CredentialSource
from .principal import ANONYMOUS, Principal
from .templates import EnvironmentTemplate, RenderError

__all__ = ["Launch", "ServerRecipe"]

logger = logging.getLogger(__name__)

#: Launches that a recipe remembers, so that asking again whether anything has changed costs little.
MAX_LAUNCHES = 1024

#: Seconds that a client waits for an operator who has to mend a credential.
RETRY_AFTER = 30.0

# Generations are compared within this process only. With a key of its own nobody who sees one can
# find out the token by trying.
_GENERATION_KEY = secrets.token_bytes(32)
_GENERATION_BYTES = 12


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a child of a server for one principal.

    Attributes:
        config: How it is started and stopped, with its environment.
        secrets: Values in its environment that must not appear in anything that is shown or logged.
        generation: Equal for equal configs, as long as this process lives, and says nothing about them.
            A child of another generation is not what would be started now.
    """

    config: Config
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    generation: str = field(init=False)

    def __post_init__(self) -> None:
        """Compute the generation."""
        object.__setattr__(self, "generation", _generation_of(self.config))

    def config_for_log(self, **owner: str) -> Config:
        """Return how to start a child whose stderr is in the log, if debug is.

        Args:
            owner: Whose child it is, for the log.
        """
        if not logger.isEnabledFor(logging.DEBUG):
            return self.config

        redaction = Redaction(self.secrets, cut_bytes=self.config.max_stderr_line_bytes)

        def log(line: str) -> None:
            logger.debug("child.stderr", extra={**owner, "line": redaction.line(line)})

        return dataclasses.replace(self.config, on_stderr=log)


@dataclass(frozen=True, slots=True)
class ServerRecipe:
    """A configured stdio MCP server.

    Attributes:
        name: What operators call it.
        config: How a child of it is started and stopped.
        secrets: Values in its environment that must not appear in anything that is shown or logged.
        environment: Variables to add, some of which are made for the principal; None if there are none.
        credentials: Where the principals' credentials come from; None if none are needed.
        named_secrets: The operator's secrets that the variables are made of, by name.
        isolation: What keeps a child from others and from this machine; None starts it as it is.

    Raises:
        TemplateError: The variables need a credential or a secret that there is not.
    """

    name: str
    config: Config
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    environment: EnvironmentTemplate | None = field(default=None, kw_only=True)
    credentials: CredentialSource | None = field(default=None, kw_only=True)
    named_secrets: Mapping[str, str] = field(default_factory=dict, repr=False, kw_only=True)
    isolation: Isolation | None = field(default=None, kw_only=True)
    # By principal, with the token that it was made with. The one without a principal is everybody's.
    _launches: dict[Principal | None, tuple[str | None, Launch]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Check that there is what the variables are made of."""
        if self.environment is not None:
            self.environment.check(has_credentials=self.credentials is not None, secrets=self.named_secrets)

    @property
    def per_principal(self) -> bool:
        """Whether its children differ between principals."""
        template = self.environment
        if template is None:
            return False
        return template.needs_principal or (self._credentials is not None and self._credentials.per_principal)

    async def resolve(self, principal: Principal) -> Launch:
        """Return how to start a child for a principal now.

        Where authentication is off, everybody is `ANONYMOUS`, who can have a credential like anybody else.

        Raises:
            CredentialMissing: The principal has no credential for it.
            CredentialUnavailable: The credential cannot be had now, or is no value for a variable.
            IsolationUnavailable: This machine cannot isolate it as asked.
            SpawnError: There is no such program.
        """
        token = None
        if (source := self._credentials) is not None:
            token = (await source.resolve(principal)).token
        key = principal if self.per_principal else None
        known = self._launches.get(key)
        if known is None or known[0] != token:
            known = self._launches[key] = token, self._launch(principal, token)
            if len(self._launches) > MAX_LAUNCHES:
                del self._launches[next(iter(self._launches))]
        return known[1]

    async def sample(self) -> Launch:
        """Return how to start a child that works for nobody, to find out whether the server runs at all.

        Raises:
            CredentialMissing: Its children need the credential of a principal, and this one has none.
                There is nothing to be found out then before a principal comes.
            CredentialUnavailable: As for `resolve`.
        """
        if self._credentials is not None and self._credentials.per_principal:
            raise CredentialMissing(self.name)
        return await self.resolve(ANONYMOUS)

    @property
    def _credentials(self) -> CredentialSource | None:
        """Where the credentials come from that the variables are made of."""
        needed = self.environment is not None and self.environment.needs_credential
        return self.credentials if needed else None

    def _launch(self, principal: Principal, token: str | None) -> Launch:
        if self.environment is None:
            return Launch(self._isolated(self.config), self.secrets)
        try:
            rendered = self.environment.render(principal=principal, token=token, secrets=self.named_secrets)
        except RenderError as exc:
            facts = {"server": self.name, "principal": principal.subject, "problem": str(exc)}
            logger.warning("server.environment_refused", extra=facts)
            raise CredentialUnavailable(self.name, retry_after=RETRY_AFTER) from None
        config = dataclasses.replace(self.config, env={**self.config.env, **rendered.variables})
        return Launch(self._isolated(config), self.secrets | rendered.secrets)

    def _isolated(self, config: Config) -> Config:
        return config if self.isolation is None else isolate(config, self.isolation)


def _generation_of(config: Config) -> str:
    # Every field, so that none is forgotten when there are more; who listens to stderr starts nothing.
    plain = {one.name: getattr(config, one.name) for one in dataclasses.fields(config)}
    del plain["on_stderr"]
    digest = hashlib.blake2b(
        repr(_canonical(plain)).encode(), key=_GENERATION_KEY, digest_size=_GENERATION_BYTES
    )
    return digest.hexdigest()


def _canonical(value: object) -> object:
    """Return a value whose `repr` is the same for equal values, and different for different ones."""
    if dataclasses.is_dataclass(value):
        # Not its repr: that leaves out what must not be shown.
        value = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    match value:
        case os.PathLike():
            return os.fspath(value)
        case Mapping():
            return "mapping", sorted((repr(_canonical(key)), _canonical(item)) for key, item in value.items())
        case set() | frozenset():
            return "set", sorted(repr(_canonical(item)) for item in value)
        case list() | tuple():
            return [_canonical(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
