"""The whole configuration, composed of each package's own settings and checked as one.

All mistakes are reported at once, each with where it stands, what was found and what was expected.

What reads files is imported when it is needed: `stdio-broker run` has none, and starts without pydantic.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from ..auth.settings import default_storage_url
from .configuration import Configuration, ServerConfiguration
from .run import INLINE_CODE, LAUNCHERS, run_configuration
from .secrecy import MIN_SECRET_CHARS

__all__ = [
    "INLINE_CODE",
    "LAUNCHERS",
    "MIN_SECRET_CHARS",
    "Configuration",
    "ServerConfiguration",
    "load_configuration",
    "run_configuration",
    "storage_url_of",
]


def load_configuration(
    path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ
) -> Configuration:
    """Return the configuration of `stdio-broker serve`.

    Args:
        path: The TOML file.
        environ: The broker's own environment: for what it overrides, and for secrets that are in it.

    Raises:
        ConfigError: Every mistake, each with its place, what was expected and what was found.
    """
    from .loading import load_configuration as load  # noqa: PLC0415 - see above

    return load(Path(path), environ)


def storage_url_of(config_path: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the URL of the database that keys are kept in.

    Args:
        config_path: The configuration file, of which nothing else is looked at; None if there is none.
        environ: The broker's own environment.

    Raises:
        ConfigError: The file does not say it well.
    """
    if config_path is None:
        return default_storage_url(environ)
    from .loading import storage_url_of as load  # noqa: PLC0415 - see above

    return load(Path(config_path), environ)
