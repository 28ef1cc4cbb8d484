"""Options that give a VM user data: a document from a file or registered, values of its variables, SSH keys."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from ostler.control.v1 import userdata_pb2 as pb

from ostler_control.cli.names import USER_DATA
from ostler_control.cli.options import F, Options, collected

MAX_FILE_BYTES = 3 << 19  # of base64; the control plane tells what is too long
POLICIES = {
    "ALLOWOVERRIDE": pb.USER_DATA_POLICY_ALLOWOVERRIDE,
    "APPEND": pb.USER_DATA_POLICY_APPEND,
    "DENYOVERRIDE": pb.USER_DATA_POLICY_DENYOVERRIDE,
}
FILE = click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True)


@dataclass(frozen=True)
class UserDataOptions:
    """What the options say."""

    name: str
    text: str
    file: Path | None
    values: Sequence[str]
    ssh_key_files: Sequence[Path]

    def message(self) -> pb.VmUserData | None:
        """None when no option was given. Raises UsageError."""
        if sum((bool(self.name), bool(self.text), self.file is not None)) > 1:
            raise click.UsageError("give one of --user-data, --user-data-text and --user-data-file")
        if not (self.name or self.text or self.file or self.values or self.ssh_key_files):
            return None
        values = dict(map(_value, self.values))
        data = read(self.file) if self.file else self.text.encode()
        return pb.VmUserData(
            data=data,
            user_data=self.name,
            # Whatever is given a value is declared: a template's document may use it as well.
            variables=sorted(values) if data else (),
            values=values,
            ssh_keys=[line for file in self.ssh_key_files for line in public_keys(file)],
        )


def user_data_options(function: F) -> F:
    """--user-data, --user-data-text, --user-data-file, --variable and --ssh-key-file, together as parameter
    `user_data`."""

    def collect(options: Options) -> UserDataOptions:
        names = ("user_data_name", "user_data_text", "user_data_file", "values", "ssh_key_files")
        return UserDataOptions(*(options.pop(name) for name in names))

    wrapped = collected(function, "user_data", collect)
    for option in reversed(
        (
            click.option("--user-data", "user_data_name", type=USER_DATA, default="", help="Registered user data."),
            click.option(
                "--user-data-text",
                default="",
                metavar="TEXT",
                help="User data. Others on this machine may see it: put secrets into a file.",
            ),
            click.option("--user-data-file", type=FILE, help="File with user data; - is standard input."),
            click.option(
                "--variable",
                "values",
                multiple=True,
                metavar="NAME=VALUE",
                help="Value of a variable; NAME=@FILE reads it from a file. Repeat it.",
            ),
            click.option(
                "--ssh-key-file",
                "ssh_key_files",
                type=FILE,
                multiple=True,
                help="File with public keys for the guest's default user; repeat it.",
            ),
        )
    ):
        wrapped = option(wrapped)
    return wrapped


def read(path: Path) -> bytes:
    """A document from a file, or standard input for "-". Raises UsageError when it is far too long."""
    with sys.stdin.buffer if str(path) == "-" else path.open("rb") as source:
        data = source.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise click.UsageError(f"{path} has more than {MAX_FILE_BYTES} bytes, too many for user data")
    return data


def _value(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise click.UsageError(f"--variable {name}: give NAME=VALUE or NAME=@FILE")
    if value.startswith("@"):
        path = Path(value[1:])
        if not path.is_file():
            raise click.UsageError(f"--variable {name}: there is no file {path}")
        return name, path.read_text().removesuffix("\n")
    return name, value


def public_keys(file: Path) -> list[str]:
    lines = read(file).decode(errors="replace").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]
