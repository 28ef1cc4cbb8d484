"""`ostler key`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from ostler.control.v1 import key_pb2 as pb

from ostler_control.cli import passphrases, text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.finish import finish
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import KEY
from ostler_control.cli.options import (
    CallOptions,
    confirm,
    limit_option,
    list_options,
    operation_options,
    output_option,
    yes_option,
)
from ostler_control.cli.output import Listing, View, print_data, print_list

if TYPE_CHECKING:
    from ostler_common.secret import Secret

VIEW = View[pb.Key](
    "key",
    columns=[
        ("version", lambda k: k.name),
        ("state", lambda k: text.enum_of(k, "state")),
        ("passphrases", lambda k: str(k.passphrases)),
        ("present", lambda k: "yes" if k.present else "MISSING"),
        ("age", lambda k: text.age(k, "create_time")),
    ],
    details=[("labels", lambda k: labels_joined(k.labels))],
)
FAILURES = View[pb.VerifyKeysResponse.Failure](
    "failure",
    columns=[
        ("name", lambda f: f.name),
        ("type", lambda f: f.type),
        ("sealed under", lambda f: f.key),
        ("why", lambda f: f.reason),
        ("id", lambda f: f.id),
    ],
)


@click.group(cls=Noun)
def command() -> None:
    """Key-encryption keys, which seal the passphrases of volumes."""


@command.command("list")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists key versions and how many passphrases each seals.

    \b
    Example:
      ostler key list
    """
    print_list(
        VIEW, pages(app.client.keys.ListKeys, pb.ListKeysRequest(selector=selector), lambda a: a.keys, limit), listing
    )


@command.command("rotate")
@operation_options()
@pass_app
def rotate(app: App, call: CallOptions) -> None:
    """Creates a key version and reseals every passphrase under it.

    Volumes are not touched, and open all the while; `ostler volume rekey` gives a volume a new passphrase. Old versions
    stay until they are deleted: a backup of the database needs the versions that it was made with.

    \b
    Example:
      ostler key rotate
    """
    request = pb.RotateKeyRequest(request_id=call.request_id, validate_only=call.dry_run)
    finish(app, app.client.keys.RotateKey(request), VIEW, pb.Key(), call)


@command.command("delete")
@click.argument("version", type=KEY)
@yes_option
@operation_options()
@pass_app
def delete(app: App, version: str, yes: bool, call: CallOptions) -> None:
    """Deletes a version that seals nothing any more.

    \b
    Example:
      ostler key delete file:9f86d081884c7d65 --yes
    """
    if not call.dry_run:
        confirm(f"Delete key {version}? Database backups sealed under it can no longer open any volume.", yes)
    request = pb.DeleteKeyRequest(request_id=call.request_id, key=version, validate_only=call.dry_run)
    finish(app, app.client.keys.DeleteKey(request), VIEW, pb.Key(), call, gone=True)


@command.command("backup")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@passphrases.passphrase_file_option("A file with the passphrase, for unattended backups.")
@pass_app
def backup(app: App, file: Path, passphrase_file: Path | None) -> None:
    """Writes the keys to a file, encrypted under a passphrase.

    The passphrase stays on this machine, and the control plane encrypts, so the keys never arrive here readable. Keep
    file and passphrase apart from each other and from the database's backup. `ostler key verify FILE` checks a backup,
    `ostler-control key-restore` restores a lost key file from it.

    \b
    Examples:
      ostler key backup keys-2026.json
      ostler key backup keys-2026.json --passphrase-file /etc/ostler/backup-passphrase
    """
    from ostler_common import key_backup

    if file.exists():
        raise click.UsageError(f"{file} already exists; choose another name")
    passphrase = _backup_passphrase(passphrase_file, new=True)
    if len(passphrase.reveal()) < key_backup.MIN_PASSPHRASE_LENGTH:
        raise click.UsageError(
            f"the passphrase protects every disk: it must have at least {key_backup.MIN_PASSPHRASE_LENGTH} bytes"
        )
    stretching = key_backup.new_stretching()
    request = pb.BackupKeysRequest(
        wrapping_key=stretching.key(passphrase).reveal(),
        salt=stretching.salt,
        n=stretching.n,
        r=stretching.r,
        p=stretching.p,
    )
    answer = app.client.keys.BackupKeys(request)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        target.write(answer.backup)
        target.flush()
        os.fsync(target.fileno())
    click.echo(f"{file}: {', '.join(answer.keys)}")
    click.echo(f"Verify the backup now: ostler key verify {file}", err=True)


@command.command("verify")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=False)
@passphrases.passphrase_file_option("A file with the backup's passphrase.")
@output_option
@pass_app
def verify(app: App, file: Path | None, passphrase_file: Path | None, output: str) -> None:
    """Checks that every passphrase can be opened. Lists those that cannot.

    With FILE, a backup, that backup's keys are used.

    \b
    Examples:
      ostler key verify
      ostler key verify keys-2026.json
    """
    from ostler_control.cli.plain import to_plain

    answer = app.client.keys.VerifyKeys(_with_backup(file, passphrase_file) if file else pb.VerifyKeysRequest())
    if output in ("json", "yaml"):
        print_data(to_plain(answer), output)
    else:
        if answer.failures or output == "name":
            print_list(FAILURES, answer.failures, Listing(output))
        click.echo(f"{answer.opened} of {answer.passphrases} passphrases open", err=True)
    if answer.failures:
        raise SystemExit(1)


command.add_command(label_command("key"))


def _with_backup(file: Path, passphrase_file: Path | None) -> pb.VerifyKeysRequest:
    from ostler_common import key_backup

    data = file.read_bytes()
    stretching = key_backup.parse(data).stretching
    passphrase = _backup_passphrase(passphrase_file, new=False)
    return pb.VerifyKeysRequest(backup=data, wrapping_key=stretching.key(passphrase).reveal())


def _backup_passphrase(path: Path | None, *, new: bool) -> Secret:
    """From the file, or typed; twice if it is new."""
    from ostler_common.secret import Secret

    if path is not None:
        return passphrases.read(path)
    prompt = "Passphrase for the backup" if new else "Passphrase of the backup"
    typed: str = click.prompt(prompt, hide_input=True, confirmation_prompt=new, err=True)
    return Secret(typed.encode())
