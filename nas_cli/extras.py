"""Packages that not everybody needs."""

import importlib.util

from nas_cli.errors import ConfigError


def require(package: str, setting: str) -> None:
    """Raises ConfigError where an optional package is not installed; the extra has its name."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{setting} needs a package: pip install 'nas-cli[{package}]', or leave {setting} out."
        )
