"""Passphrases that users choose: from a file, from standard input, or typed; never from an argument."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from ostler.control.v1 import snapshot_pb2, volume_pb2
from ostler.types.v1.volume_pb2 import ENCRYPT_FORMAT_LUKS
from ostler_common.secret import Secret

from ostler_control.cli.options import F

if TYPE_CHECKING:
    from ostler.client.client import Client


def passphrase_file_option(help: str) -> Callable[[F], F]:
    """--passphrase-file, as parameter `passphrase_file`: see `read` and `choose`."""
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
        help=f"{help} Its first line is used; - is standard input.",
    )


def decrypt_option(function: F) -> F:
    """--decrypt, as parameter `decrypt`."""
    return click.option(
        "--decrypt", is_flag=True, help="Let encrypted content leave in clear. This is recorded as an event."
    )(function)


def read(path: Path) -> Secret:
    """The first line of a file, or of standard input for "-". Raises UsageError."""
    try:
        if str(path) == "-":
            line = sys.stdin.buffer.readline()
        else:
            with path.open("rb") as file:
                line = file.readline(4096)
    except OSError as error:
        raise click.UsageError(f"the passphrase file {path} cannot be read: {error.strerror}") from None
    passphrase = line.rstrip(b"\r\n")
    if not passphrase:
        raise click.UsageError(f"the first line of {path} is empty, and no passphrase")
    return Secret(passphrase)


def choose(path: Path | None, decrypt: bool, encrypted: bool) -> Secret | None:
    """The passphrase under which content is to leave: from the file, or typed twice; None when none is needed.

    encrypted: whether the content is. Raises UsageError where both ways are given, or nobody is there to type.
    """
    if path is not None and decrypt:
        raise click.UsageError("--passphrase-file and --decrypt exclude each other")
    if path is not None:
        return read(path)
    if decrypt or not encrypted:
        return None
    return _typed("Passphrase for the file", confirm=True)


def is_encrypted(client: Client, volume: str, snapshot: str) -> bool:
    """Whether a volume or a snapshot is; only one of the two is named."""
    if volume:
        encryption = client.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume=volume)).encrypt_format
    else:
        request = snapshot_pb2.GetSnapshotRequest(snapshot=snapshot)
        encryption = client.snapshots.GetSnapshot(request).encrypt_format
    return encryption == ENCRYPT_FORMAT_LUKS


def say(encryption: volume_pb2.ExportEncryption, path: Path | None, decrypt: bool, encrypted: bool) -> None:
    """Fills in how content is to leave: see `choose`."""
    passphrase = choose(path, decrypt, encrypted)
    if passphrase is not None:
        encryption.passphrase = passphrase.reveal()
    if decrypt:
        encryption.decrypt = True


def ask(path: Path | None, encrypted: bool) -> Secret | None:
    """The passphrase that opens a file: from the file, or typed; None when it is not encrypted. Raises UsageError."""
    if path is not None:
        return read(path)
    return _typed("Passphrase of the file", confirm=False) if encrypted else None


def password(path: Path | None, prompt: str) -> Secret:
    """A new password: from the file, or typed twice. Raises UsageError."""
    if path is not None:
        return read(path)
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to type the password: add --password-file")
    typed: str = click.prompt(prompt, hide_input=True, confirmation_prompt=True, err=True)
    return Secret(typed.encode())


def _typed(prompt: str, confirm: bool) -> Secret:
    if not sys.stdin.isatty():
        ways = "--passphrase-file or --decrypt" if confirm else "--passphrase-file"
        raise click.UsageError(
            f"the content is encrypted and standard input is no terminal to ask for a passphrase: add {ways}"
        )
    typed: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    return Secret(typed.encode())
