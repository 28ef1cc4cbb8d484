"""`ostler backup store`."""

from __future__ import annotations

from pathlib import Path

import click
from ostler.control.v1 import backup_pb2 as pb

from ostler_control.cli import access_keys, text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
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
    details=[
        ("path", lambda s: s.path),
        ("source", lambda s: s.source),
        ("labels", lambda s: labels_joined(s.labels)),
        ("id", lambda s: s.id),
    ],
)


@click.group("store", cls=Noun)
def store() -> None:
    """Stores, which hold backups and nothing else."""


@store.command("add")
@click.argument("name")
@click.option("--path", default="", help="Absolute path of a directory that is mounted on all hosts.")
@click.option("--source", default="", metavar="SERVER:/EXPORT", help="NFS export, which the hosts mount.")
@click.option("--endpoint", default="", metavar="URL", help="S3: URL of the store, https, without a path.")
@click.option("--bucket", default="", help="S3: name of the bucket, which must exist.")
@click.option("--prefix", default="", help="S3: what the names of objects begin with.")
@click.option("--region", default="", help="S3: region for which requests are signed.  [default: us-east-1]")
@click.option(
    "--credentials-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="S3: the access key, in the format of ~/.aws/credentials; - is standard input.  [default: it is asked for]",
)
@click.option(
    "--ca-file", type=click.Path(path_type=Path, dir_okay=False), help="S3: CAs to trust instead of the system's, PEM."
)
@click.option("--spool", default="", metavar="DIR", help="S3: where hosts keep files while they send or read them.")
@click.option("--cluster", type=CLUSTER, default="", help="Hosts of this cluster reach it.")
@click.option("--zone", type=ZONE, default="", help="Hosts of this zone reach it.")
@dry_run_option
@request_id_option
@output_option
@pass_app
def add(
    app: App,
    name: str,
    path: str,
    source: str,
    endpoint: str,
    bucket: str,
    prefix: str,
    region: str,
    credentials_file: Path | None,
    ca_file: Path | None,
    spool: str,
    cluster: str,
    zone: str,
    dry_run: bool,
    request_id: str,
    output: str,
) -> None:
    """Adds a store: an NFS export, a directory, or a bucket. Its hosts must prove that they reach the same one.

    Give it a file system of its own, on other disks than the volumes': backups are for the day on which those are lost.
    A bucket is tried first: a small object is put, got and deleted. Hosts never get its keys.

    \b
    Examples:
      ostler backup store add vault --source nas:/backups --zone berlin
      ostler backup store add vault --path /mnt/backups --cluster web
      ostler backup store add offsite --endpoint https://s3.example.org --bucket backups --zone berlin
    """
    given = {scope: where for scope, where in (("cluster", cluster), ("zone", zone)) if where}
    if len(given) != 1:
        raise click.UsageError("give exactly one of --cluster, --zone")
    kinds = [option for option, value in (("--path", path), ("--source", source), ("--endpoint", endpoint)) if value]
    if not kinds:
        raise click.UsageError("give --path, --source, or --endpoint and --bucket")
    only_s3 = any((bucket, prefix, region, credentials_file, ca_file, spool))
    if endpoint and (len(kinds) > 1 or not bucket):
        raise click.UsageError("--endpoint needs --bucket, and excludes --path and --source")
    if only_s3 and not endpoint:
        raise click.UsageError("--bucket, --prefix, --region, --credentials-file, --ca-file, --spool need --endpoint")
    request = pb.CreateBackupStoreRequest(
        request_id=request_id, name=name, path=path or spool, source=source, validate_only=dry_run
    )
    if endpoint:
        access_key, secret_key = access_keys.read(credentials_file)
        s3 = pb.S3Bucket(endpoint=endpoint, bucket=bucket, prefix=prefix, region=region, access_key=access_key)
        s3.secret_key = secret_key.reveal()
        s3.ca_pem = _ca(ca_file)
        request.s3.CopyFrom(s3)
    for scope, where in given.items():
        setattr(request, scope, where)
    added = app.client.backups.CreateBackupStore(request)
    if dry_run and output == "table":
        click.echo(f"store {name} can be added")
    else:
        print_one(VIEW, added, output)


def _ca(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.UsageError(f"the CA file {path} cannot be read: {error.strerror}") from None


@store.command("set-key")
@click.argument("store", type=BACKUP_STORE)
@click.option(
    "--credentials-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The access key, in the format of ~/.aws/credentials; - is standard input.  [default: it is asked for]",
)
@output_option
@pass_app
def set_key(app: App, store: str, credentials_file: Path | None, output: str) -> None:
    """Changes the access key of a bucket, once it was tried.

    Let the old key be valid for some hours more: transfers under way go on with it.

    \b
    Example:
      ostler backup store set-key offsite --credentials-file new-credentials
    """
    access_key, secret_key = access_keys.read(credentials_file)
    request = pb.SetBackupStoreKeyRequest(store=store, access_key=access_key, secret_key=secret_key.reveal())
    print_one(VIEW, app.client.backups.SetBackupStoreKey(request), output)


@store.command("list")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists stores.

    \b
    Example:
      ostler backup store list
    """
    request = pb.ListBackupStoresRequest(selector=selector)
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


store.add_command(label_command("backup store"))
