"""The command `ostler-control`."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from typing import NoReturn

import click

# Exit codes after which systemd does not start the service again, and the one after which it does: a database that is
# away or full may be there when it is tried again.
_BAD_CONFIG, _NOT_READY = 2, 3
_MAY_PASS = 1
_TICK_S, _TIDY_EVERY_S = 5.0, 60.0
# How soon a thread that computes makes way for another one, seconds. A call gives way at each of its dozens of
# statements: beside one busy thread a page of a list takes a third less time than with Python's own 5 ms.
_SWITCH_S = 0.0005
# So many more objects than before start a look for cycles. Python's own 700 are there several times in each call, and
# little of what a call leaves behind is in cycles.
_OBJECTS_PER_COLLECTION = 20_000


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file.  [default: /etc/ostler/control.toml if it is there]",
)
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """Ostler's control plane: `init` once, then `run`."""
    os.umask(0o077)  # files created here are for the service alone
    context.obj = config


def _profile_option() -> Path:
    from ostler.client.profile import default_path

    return default_path()


@main.command()
@click.option("--admin", default="admin", show_default=True, help="Name of the first admin, and of the account.")
@click.option(
    "--profile",
    "profile_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=_profile_option,
    show_default="~/.config/ostler/profile.toml",
    help="Where to write the admin's CLI profile.",
)
@click.pass_obj
def init(config_path: Path | None, admin: str, profile_path: Path) -> None:
    """Creates everything that the control plane needs: CAs, keys, database, the first admin and a CLI profile.

    Safe to repeat: what exists stays, what is missing is created.
    """
    from ostler_common.errors import OstlerError

    from ostler_control.config import load_config
    from ostler_control.initialize import initialize

    try:
        for line in initialize(load_config(config_path), admin, profile_path.absolute()):
            click.echo(line)
    except (OstlerError, OSError) as error:
        _fail(str(error))
    click.echo("next: ostler-control run")


@main.command("user-certificate")
@click.argument("name")
@click.option(
    "--profile",
    "profile_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=_profile_option,
    show_default="~/.config/ostler/profile.toml",
    help="Where to write the CLI profile; must not exist yet.",
)
@click.pass_obj
def user_certificate(config_path: Path | None, name: str, profile_path: Path) -> None:
    """Issues user NAME a new certificate: for when every profile is lost or expired."""
    from ostler_common.errors import OstlerError

    from ostler_control.config import load_config
    from ostler_control.initialize import write_user_profile

    try:
        click.echo(write_user_profile(load_config(config_path), name, profile_path.absolute()))
    except (OstlerError, OSError) as error:
        _fail(str(error))


@main.command("key-add")
@click.argument(
    "key_path", metavar="[FILE]", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), required=False
)
@click.pass_obj
def key_add(config_path: Path | None, key_path: Path | None) -> None:
    """Adds a new version of the key-encryption key to the key file, for `ostler key rotate` to take up.

    For a key file that the control plane itself may not change, a credential of systemd's. FILE: another file than the
    one in force; with - it is read from standard input and the new one written to standard output:

    \b
      set -o pipefail; cd /etc/credstore.encrypted
      systemd-creds decrypt --name=ostler-kek ostler-kek - | ostler-control key-add - |
        systemd-creds encrypt --name=ostler-kek - ostler-kek.new && mv -b ostler-kek.new ostler-kek
    """
    from ostler_common.errors import OstlerError

    from ostler_control.config import load_config
    from ostler_control.keys import key_file

    try:
        if str(key_path) == "-":
            keys = (key_file.new_key(), *key_file.parse(sys.stdin.buffer.read(), "standard input"))
            sys.stdout.buffer.write(key_file.render(keys))
        else:
            path = key_path or load_config(config_path).state.kek
            keys = key_file.change(path, lambda found: (key_file.new_key(), *found))
    except (OstlerError, OSError) as error:
        _fail(str(error))
    click.echo(
        f"new version: {keys[0].id}; restart the control plane where it gets the file from systemd, then:", err=True
    )
    click.echo("next: ostler key rotate", err=True)


@main.command("key-restore")
@click.argument("backup", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--to",
    "key_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the keys go.  [default: the key file in force]",
)
@click.pass_obj
def key_restore(config_path: Path | None, backup: Path, key_path: Path | None) -> None:
    """Brings a lost key file back from what `ostler key backup` wrote; asks for its passphrase.

    Keys that are in the file already stay in front; none is ever lost by this.
    """
    from ostler_common.errors import OstlerError
    from ostler_common.secret import Secret

    from ostler_control.config import load_config
    from ostler_control.keys.backup import restore

    try:
        path = key_path or load_config(config_path).state.kek
        passphrase = Secret(click.prompt("Passphrase of the backup", hide_input=True, err=True).encode())
        restored = restore(backup.read_bytes(), passphrase, path)
    except (OstlerError, OSError) as error:
        _fail(str(error))
    click.echo(f"{path}: {len(restored)} key{'' if len(restored) == 1 else 's'} restored {' '.join(restored)}".rstrip())
    click.echo("next: start the control plane, then `ostler key verify`")


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def backup(config_path: Path | None, file: Path) -> None:
    """Writes the database, as of one moment, to FILE. The control plane may be running.

    Passphrases stay sealed in it. Back up the key-encryption key and the CAs apart from it.

    \b
    Example:
      ostler-control backup /var/backups/ostler-$(date +%F).backup
    """
    from ostler_common.errors import OstlerError

    from ostler_control import backup as backups
    from ostler_control.config import load_config

    try:
        manifest = backups.create(load_config(config_path), file.absolute())
    except (OstlerError, OSError, sqlite3.Error) as error:
        _fail(f"no backup was written: {error}")
    click.echo(f"{file}: backup of {manifest.create_time}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--replace", is_flag=True, help="Replace an existing database, which is kept beside the new one.")
@click.pass_obj
def restore(config_path: Path | None, file: Path, replace: bool) -> None:
    """Restores what `ostler-control backup` wrote to FILE. Stop the control plane first.

    What has changed since the backup is unknown to the restored database: run `ostler-control check` afterwards.
    """
    from ostler_common.errors import OstlerError

    from ostler_control import backup as backups
    from ostler_control.config import load_config
    from ostler_control.initialize import give_to_service

    try:
        config = load_config(config_path)
        restored = backups.restore(config, file.absolute(), replace=replace)
        give_to_service(config.state_dir)
    except (OstlerError, OSError, sqlite3.Error) as error:
        _fail(f"nothing was restored: {error}")
    manifest = restored.manifest
    click.echo(f"restored the backup of {manifest.create_time}, made by Ostler {manifest.version}")
    if restored.kept is not None:
        click.echo(f"the database that was there is kept: {restored.kept}")
    click.echo("next: start the control plane, then `ostler-control check`")


@main.command("migrate-database")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The SQLite file.  [default: ostler.db in the state directory]",
)
@click.pass_obj
def migrate_database(config_path: Path | None, source: Path | None) -> None:
    """Moves a control plane from SQLite to the empty PostgreSQL database that database_url names.

    Stop the control plane first. All rows are copied in one transaction and compared, and every passphrase is
    opened; then the SQLite file is renamed (.migrated). Safe to repeat after a failure.

    \b
    Example:
      systemctl stop ostler-control
      ostler-control migrate-database      # database_url = "postgresql://..." is in control.toml
      systemctl start ostler-control
    """
    from ostler_common.errors import OstlerError

    from ostler_control import migrate_database as migration
    from ostler_control.config import load_config
    from ostler_control.initialize import give_to_service

    try:
        config = load_config(config_path)
        try:
            migrated = migration.migrate_database(config, source and source.absolute())
        finally:
            give_to_service(config.state_dir)
    except (OstlerError, OSError, sqlite3.Error) as error:
        _fail(f"the database was not migrated: {error}")
    click.echo(
        f"copied {migrated.rows} rows of {migrated.tables} tables and compared them; opened {migrated.passphrases} "
        f"passphrases; the SQLite file is kept as {migrated.source}"
    )
    click.echo("next: start the control plane, then `ostler-control check`")


@main.command()
@click.option(
    "-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True, help="Output format."
)
@click.pass_obj
def check(config_path: Path | None, output: str) -> None:
    """Compares the database with files and VMs. Changes nothing; the control plane may be running.

    Each finding has a reason code, a severity and the command that repairs it. Exit codes: 0, nothing is wrong; 4,
    there are findings; 5, there are none, but some hosts or files could not be looked at.

    \b
    Examples:
      ostler-control check
      ostler-control check -o json
    """
    from ostler_common.errors import OstlerError

    from ostler_control.check.command import EXIT_FINDINGS, EXIT_UNCHECKED, check_fleet, print_report
    from ostler_control.config import load_config

    try:
        report = check_fleet(load_config(config_path))
    except (OstlerError, OSError, sqlite3.Error) as error:
        _fail(f"nothing was checked: {error}")
    print_report(report, output)
    if report.findings:
        raise SystemExit(EXIT_FINDINGS)
    if report.unchecked:
        raise SystemExit(EXIT_UNCHECKED)


@main.command("correct-claims")
@click.pass_obj
def correct_claims(config_path: Path | None) -> None:
    """Sets the allocated capacity of hosts to that of their VMs, where `ostler-control check` says that they differ.

    The control plane may be running.

    \b
    Example:
      ostler-control correct-claims
    """
    from ostler_common.errors import OstlerError

    from ostler_control.check.command import open_database
    from ostler_control.config import load_config
    from ostler_control.scheduling import capacity

    try:
        open_database(load_config(config_path))
        corrected = capacity.correct()
    except (OstlerError, OSError, sqlite3.Error) as error:
        _fail(str(error))
    for drift in corrected:
        click.echo(f"host {drift.host_name}: {drift.actual[0]} CPUs, {drift.actual[1]} bytes")
    if not corrected:
        click.echo("nothing differs", err=True)


@main.command()
@click.pass_obj
def run(config_path: Path | None) -> None:
    """Runs the control plane until SIGTERM or SIGINT."""
    from ostler_common import logging, notify, tracing
    from ostler_common.config import ConfigError
    from ostler_common.errors import OstlerError, ResourceExhaustedError

    from ostler_control.config import load_config
    from ostler_control.server import Control

    try:
        config = load_config(config_path)
    except ConfigError as error:
        _fail(str(error), _BAD_CONFIG)
    logging.setup(config.log_level, config.log_json)
    sys.setswitchinterval(_SWITCH_S)
    tracing.enable_in_daemon("ostler-control")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    faulthandler.register(signal.SIGUSR1)  # writes what each thread does, and goes on
    try:
        control = Control(config)
    except OstlerError as error:
        passes = error.retryable or isinstance(error, ResourceExhaustedError)
        _fail(str(error), _MAY_PASS if passes else _NOT_READY)
    except OSError as error:
        _fail(str(error))
    # What is loaded now stays: collections need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    notify.ready(f"API on port {control.main_port}, enrollment on port {control.enroll_port}")
    tick_s = min(_TICK_S, notify.watchdog_interval_s() or _TICK_S)
    since_tidy_s = 0.0
    while not stop.wait(tick_s):
        notify.alive()
        try:
            control.check_replica()
        except OstlerError as error:
            control.stop()
            _fail(str(error), _NOT_READY)
        control.renew()
        control.cut_unauthorized()
        since_tidy_s += tick_s
        if since_tidy_s >= _TIDY_EVERY_S:
            since_tidy_s = 0.0
            control.tidy()
    notify.stopping()
    control.stop()


def _fail(message: str, code: int = 1) -> NoReturn:
    click.echo(f"ostler-control: {message}", err=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
