"""Sizes, durations, tokens, configuration: what people write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ostler_common import config, units
from ostler_common.errors import InvalidArgumentError
from ostler_common.token import JoinToken
from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096),
        ("10GiB", 10 << 30),
        ("512M", 512 << 20),
        ("512 m", 512 << 20),
        ("1.5T", 3 << 39),
        ("2Ki", 2048),
        ("2KB", 2000),
        ("7B", 7),
        ("9007199254740993K", 9007199254740993 << 10),
    ],
)
def test_size(text: str, size_bytes: int) -> None:
    assert units.parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "ten", "-1G", "1.0001K", "5iB", "1GG", "1e9"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1 << 30, "1 GiB"), (3 << 29, "1.5 GiB"), (2**30 - 1, "1 GiB")],
)
def test_format_size(size_bytes: int, text: str) -> None:
    assert units.format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1h30m", 5400), ("250ms", 0.25), ("7d", 604800), ("1h 5s", 3605)]
)
def test_duration(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5x", "h", "-5s"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_duration(text)


def test_format_duration() -> None:
    assert [units.format_duration(s) for s in (0.26, 45, 5400, 90061)] == ["0.3s", "45s", "1h 30m", "1d 1h"]


def test_token_survives() -> None:
    token = JoinToken("s3cret", "ab" * 32, "10.0.0.1:8441")
    assert JoinToken.decode(f" {token.encode()}\n") == token
    assert "s3cret" not in repr(token)


@pytest.mark.parametrize("text", ["", "ostler1.", "ostler1.????", "ostler2.e30", "ostler1.e30", "ostler1.W10"])
def test_no_token(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        JoinToken.decode(text)
    assert caught.value.reason == "BAD_TOKEN"


class Sample(config.Settings):
    model_config = SettingsConfigDict(env_prefix="OSTLER_SAMPLE_")
    listen: str = "[::]:1"
    workers: int = Field(64, ge=1)

    @field_validator("listen")
    @classmethod
    def has_port(cls, value: str) -> str:
        if ":" not in value:
            raise ValueError("must be host:port")
        return value


def load(tmp_path: Path, text: str) -> Sample:
    path = tmp_path / "sample.toml"
    path.write_text(text)
    return config.load(Sample, path)


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTLER_SAMPLE_WORKERS", "3")
    settings = load(tmp_path, 'listen = "h:1"\nworkers = 2\n')
    assert (settings.listen, settings.workers) == ("h:1", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lisen = 'h:1'", "sample.toml: lisen: unknown key (did you mean listen?)"),
        ("workers = 'many'", "sample.toml: workers: Input should be a valid integer"),
        ("workers = 0", "sample.toml: workers: Input should be greater than or equal to 1"),
        ("listen = 'h'", "sample.toml: listen: must be host:port"),
        ("listen = ", "sample.toml: not TOML"),
    ],
)
def test_bad_configuration_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(tmp_path, text)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_bad_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTLER_SAMPLE_WORKER", "3")
    with pytest.raises(config.ConfigError, match=r"OSTLER_SAMPLE_WORKER: unknown key \(did you mean workers\?\)"):
        config.load(Sample, None)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="No such file"):
        config.load(Sample, tmp_path / "absent.toml")


def test_light_modules_stay_light() -> None:
    names = ", ".join(f"ostler_common.{name}" for name in ("errors", "identity", "secret", "units", "config"))
    code = f"import {names}, sys; print([m for m in ('grpc', 'cryptography', 'google') if m in sys.modules])"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
