"""Configuration: a TOML file with the environment above it, and one clear line for what is wrong."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ostler_common.errors import InvalidArgumentError
from ostler_common.metrics import PageSettings


class Settings(BaseSettings):
    """Base of the agent's and the control plane's settings; subclasses set `env_prefix` in their model_config."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


class DaemonSettings(Settings):
    """What the agent and the control plane have in common."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False
    # Where Prometheus reads metrics, "host:port"; empty: nowhere. Off loopback with both files.
    metrics_listen: str = ""
    metrics_certificate: str = ""
    metrics_client_ca: str = ""

    @property
    def metrics(self) -> PageSettings:
        """Where metrics are served."""
        return PageSettings(self.metrics_listen, _path(self.metrics_certificate), _path(self.metrics_client_ca))

    @model_validator(mode="after")
    def _metrics_are_safe(self) -> Self:
        if self.metrics_listen and not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):\d{1,5}", self.metrics_listen):
            raise ValueError('metrics_listen must be "host:port"')
        self.metrics.check()
        return self


def _path(text: str) -> Path | None:
    return Path(text) if text else None


S = TypeVar("S", bound=Settings)


class ConfigError(InvalidArgumentError):
    """The configuration cannot be used; the message is one line and names the file and the key."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "BAD_CONFIG")


def load(cls: type[S], path: Path | None) -> S:
    """The settings of a TOML file (None: only defaults and the environment). Raises ConfigError.

    A variable PREFIX_KEY of the environment wins over the file's key.
    """
    values: dict[str, object] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not TOML: {error}") from error
    known, prefix = cls.model_fields, str(cls.model_config.get("env_prefix", ""))
    for key in values:
        if key not in known:
            raise ConfigError(f"{path}: {key}: unknown key{_hint(key, known)}")
    for variable in os.environ:
        key = variable.removeprefix(prefix).lower()
        if prefix and variable.startswith(prefix) and key not in known:
            raise ConfigError(f"environment: {variable}: unknown key{_hint(key, known)}")
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        in_environment = f"{prefix}{first['loc'][0]}".upper() in os.environ if first["loc"] else False
        origin = "environment" if in_environment or path is None else str(path)
        raise ConfigError(f"{origin}: {key}: {first['msg'].removeprefix('Value error, ')}") from error


def _hint(key: str, known: object) -> str:
    near = difflib.get_close_matches(key, list(known), 1)  # type: ignore[call-overload]
    return f" (did you mean {near[0]}?)" if near else ""
