"""Access keys of S3-compatible stores: from a file or standard input, or typed; never from an argument."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

import click
from ostler_common.secret import Secret

_MAX_BYTES = 64 << 10
_PROFILE, _ID, _SECRET = "default", "aws_access_key_id", "aws_secret_access_key"


def read(path: Path | None) -> tuple[str, Secret]:
    """The id of the access key and the secret key. path: a file as AWS's tools have it, of which the profile "default"
    counts; None: they are asked for. Raises UsageError, which names no part of them."""
    if path is None:
        return _typed()
    try:
        text = sys.stdin.read(_MAX_BYTES) if str(path) == "-" else _text(path)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise click.UsageError(f"the credentials file {path} cannot be read: {why}") from None
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(text)
        return parser.get(_PROFILE, _ID), Secret(parser.get(_PROFILE, _SECRET).encode())
    except configparser.Error:
        raise click.UsageError(
            f"the credentials file {path} must have a section [{_PROFILE}] with {_ID} and {_SECRET}"
        ) from None


def _text(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(_MAX_BYTES)


def _typed() -> tuple[str, Secret]:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to type the access key: add --credentials-file")
    access_key: str = click.prompt("Access key id", err=True)
    typed: str = click.prompt("Secret access key", hide_input=True, err=True)
    return access_key, Secret(typed.encode())
