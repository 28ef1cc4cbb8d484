"""`ostler backup store`."""

from __future__ import annotations

import click
from ostler.control.v1 import backup_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import BACKUP_STORE, CLUSTER, ZONE
from ostler_control.cli.options import (
    confirm,
    dry_run_option,
    limit_option,
    list_options,
    output_option,
    request_id_option,
    yes_option,
)
from ostler_control.cli.output import Listing, View, print_list, print_one

VIEW = View[pb.BackupStore](
    "store",
    columns=[
        ("name", lambda s: s.name),
        ("type", lambda s: s.type),
        ("where", lambda s: s.source or s.path),
        ("hosts of", lambda s: s.scope_name),
        ("backups", lambda s: str(s.backups)),
        ("free", lambda s: text.size(s.available_bytes)),
        ("capacity", lambda s: text.size(s.capacity_bytes)),
    ],
    details=[("path", lambda s: s.path), ("source", lambda s: s.source), ("id", lambda s: s.id)],
)


@click.group("store", cls=Noun)
def store() -> None:
    """Stores, which hold backups and nothing else."""


@store.command("add")
@click.argument("name")
@click.option("--path", default="", help="Absolute path of a directory that is mounted on all hosts.")
@click.option("--source", default="", metavar="SERVER:/EXPORT", help="NFS export, which the hosts mount.")
@click.option("--cluster", type=CLUSTER, default="", help="Hosts of this cluster reach it.")
@click.option("--zone", type=ZONE, default="", help="Hosts of this zone reach it.")
@dry_run_option
@request_id_option
@output_option
@pass_app
def add(
    app: App, name: str, path: str, source: str, cluster: str, zone: str, dry_run: bool, request_id: str, output: str
) -> None:
    """Adds a store. Its hosts must prove that they reach it, and all the same one.

    Give it a file system of its own, on other disks than the volumes': backups are for the day on which those are lost.

    \b
    Examples:
      ostler backup store add vault --source nas:/backups --zone berlin
      ostler backup store add vault --path /mnt/backups --cluster web
    """
    given = {scope: where for scope, where in (("cluster", cluster), ("zone", zone)) if where}
    if len(given) != 1:
        raise click.UsageError("give exactly one of --cluster, --zone")
    if not path and not source:
        raise click.UsageError("give --path or --source")
    request = pb.CreateBackupStoreRequest(
        request_id=request_id, name=name, path=path, source=source, validate_only=dry_run
    )
    for scope, where in given.items():
        setattr(request, scope, where)
    added = app.client.backups.CreateBackupStore(request)
    if dry_run and output == "table":
        click.echo(f"store {name} can be added")
    else:
        print_one(VIEW, added, output)


@store.command("list")
@limit_option()
@list_options
@pass_app
def list_(app: App, limit: int | None, listing: Listing) -> None:
    """Lists stores.

    \b
    Example:
      ostler backup store list
    """
    request = pb.ListBackupStoresRequest()
    print_list(VIEW, pages(app.client.backups.ListBackupStores, request, lambda a: a.stores, limit), listing)


@store.command("remove")
@click.argument("store", type=BACKUP_STORE)
@yes_option
@pass_app
def remove(app: App, store: str, yes: bool) -> None:
    """Removes a store without backups. Files in it stay.

    \b
    Example:
      ostler backup store remove vault --yes
    """
    confirm(f"Remove store {store}?", yes)
    app.client.backups.DeleteBackupStore(pb.DeleteBackupStoreRequest(store=store))
    click.echo(f"store {store} is removed")
