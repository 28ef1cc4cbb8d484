"""`ostler pool`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from ostler.control.v1 import pool_pb2 as pb

from ostler_control.cli import passphrases, text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import CLUSTER, HOST, POOL, ZONE
from ostler_control.cli.options import (
    confirm,
    dry_run_option,
    limit_option,
    list_options,
    output_option,
    request_id_option,
    yes_option,
)
from ostler_control.cli.output import Listing, Section, View, print_list, print_one


def _hosts(pool: pb.Pool) -> Sequence[Sequence[str]]:
    return [("host", "reaches it", "why not"), *((h.host_name, text.yes(h.reachable), h.reason) for h in pool.hosts)]


def _short(value: str) -> str:
    """A certificate's text is not for a table."""
    return f"{value.splitlines()[0]} ..." if "\n" in value else value


VIEW = View[pb.Pool](
    "pool",
    columns=[
        ("name", lambda p: p.name),
        ("type", lambda p: p.type),
        ("scope", lambda p: f"{text.enum_of(p, 'scope')} {p.scope_name}"),
        ("encryption", lambda p: text.yes(p.encryption)),
        ("free", lambda p: text.size(p.available_bytes)),
        ("capacity", lambda p: text.size(p.capacity_bytes)),
        ("volumes", lambda p: text.size(p.provisioned_bytes)),
    ],
    details=[
        ("shared", lambda p: text.yes(p.shared)),
        ("path", lambda p: p.path),
        ("source", lambda p: p.source),
        ("options", lambda p: text.joined(f"{key}={_short(p.options[key])}" for key in sorted(p.options))),
        ("created", lambda p: text.when(p, "create_time")),
        ("labels", lambda p: labels_joined(p.labels)),
        ("id", lambda p: p.id),
    ],
    sections=[Section("Hosts", _hosts)],
)


def _option(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE, repeated."""
    pairs = [value.partition("=") for value in values]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise click.BadParameter("must be KEY=VALUE", ctx, param)
    return {key: value for key, _, value in pairs}


_password_option = click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="File whose first line is the storage password; - for standard input.  [default: prompt]",
)


def _password(path: Path | None) -> bytes:
    if path is not None:
        return passphrases.read(path).reveal()
    if not sys.stdin.isatty():
        raise click.UsageError("standard input is no terminal to ask for the password: add --password-file")
    typed: str = click.prompt("Password of the storage", hide_input=True, err=True)
    return typed.encode()


@click.group(cls=Noun)
def command() -> None:
    """Storage pools, which hold volumes."""


@command.command("create")
@click.argument("name")
@click.option(
    "--type",
    "type_",
    required=True,
    help="local, shared-mount-point, nfs, powerflex, or another type that your hosts support.",
)
@click.option("--path", default="", help="Absolute path of the directory on the hosts.")
@click.option("--source", default="", help="Source of a network pool, e.g. server:/export.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", callback=_option, help="Option of the type.")
@click.option("--gateway", default="", metavar="HOST[:PORT]", help="powerflex: the array's REST gateway.")
@click.option("--username", default="", help="powerflex: the gateway's user.")
@click.option("--protection-domain", default="", help="powerflex: name of the protection domain.")
@click.option("--storage-pool", default="", help="powerflex: name of the storage pool.")
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="powerflex: PEM file of the CA of the gateway's certificate.  [default: the hosts' trusted CAs]",
)
@_password_option
@click.option("--host", type=HOST, default="", help="Scope: this host.")
@click.option("--cluster", type=CLUSTER, default="", help="Scope: all hosts of this cluster.")
@click.option("--zone", type=ZONE, default="", help="Scope: all hosts of this zone.")
@dry_run_option
@request_id_option
@output_option
@pass_app
def create(
    app: App,
    name: str,
    type_: str,
    path: str,
    source: str,
    options: dict[str, str],
    gateway: str,
    username: str,
    protection_domain: str,
    storage_pool: str,
    ca_file: Path | None,
    password_file: Path | None,
    host: str,
    cluster: str,
    zone: str,
    dry_run: bool,
    request_id: str,
    output: str,
) -> None:
    """Creates a storage pool. Its hosts must prove that they reach it.

    Its scope is --host, --cluster or --zone.

    \b
    Examples:
      ostler pool create fast --type local --path /srv/ostler --host h1
      ostler pool create shared --type shared-mount-point --path /mnt/san --cluster web
      ostler pool create nas --type nfs --source nas:/vms --path /var/lib/ostler/nas --zone berlin
      ostler pool create flex --type powerflex --gateway flex.example --username ostler --protection-domain pd1
        --storage-pool sp1 --ca-file flex-ca.pem --cluster web
    """
    array = {
        "gateway": gateway,
        "username": username,
        "protection_domain": protection_domain,
        "storage_pool": storage_pool,
        "ca": ca_file.read_text() if ca_file else "",
    }
    options = {**options, **{key: value for key, value in array.items() if value}}
    password = b""
    if password_file or type_ == "powerflex":
        password = _password(password_file)
    given = {scope: where for scope, where in (("host", host), ("cluster", cluster), ("zone", zone)) if where}
    if len(given) != 1:
        raise click.UsageError("give exactly one of --host, --cluster, --zone")
    request = pb.CreatePoolRequest(
        request_id=request_id,
        name=name,
        type=type_,
        path=path,
        source=source,
        options=options,
        validate_only=dry_run,
        password=password,
    )
    for scope, where in given.items():
        setattr(request, scope, where)
    pool = app.client.pools.CreatePool(request)
    if dry_run and output == "table":
        click.echo(f"pool {name} can be created")
    else:
        print_one(VIEW, pool, output)


@command.command("set-password")
@click.argument("pool", type=POOL)
@_password_option
@pass_app
def set_password(app: App, pool: str, password_file: Path | None) -> None:
    """Changes the password of a pool's storage.

    Change it on the storage first. Hosts that are up use it at once; at least one must prove that it works.

    \b
    Examples:
      ostler pool set-password flex
      ostler pool set-password flex --password-file - < /run/secrets/flex
    """
    app.client.pools.SetPoolPassword(pb.SetPoolPasswordRequest(pool=pool, password=_password(password_file)))
    click.echo(f"pool {pool} has a new password")


@command.command("list")
@click.option("--host", type=HOST, default="", help="Only those that this host reaches.")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, host: str, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists pools. VOLUMES is the sum of the volumes' sizes; thin volumes use less.

    \b
    Example:
      ostler pool list --host h1
    """
    request = pb.ListPoolsRequest(host=host, selector=selector)
    print_list(VIEW, pages(app.client.pools.ListPools, request, lambda a: a.pools, limit), listing)


@command.command("show")
@click.argument("pool", type=POOL)
@output_option
@pass_app
def show(app: App, pool: str, output: str) -> None:
    """Shows one pool and the hosts that reach it.

    \b
    Example:
      ostler pool show shared
    """
    print_one(VIEW, app.client.pools.GetPool(pb.GetPoolRequest(pool=pool)), output)


@command.command("delete")
@click.argument("pool", type=POOL)
@yes_option
@pass_app
def delete(app: App, pool: str, yes: bool) -> None:
    """Deletes a pool without volumes. Files in it stay.

    \b
    Example:
      ostler pool delete shared --yes
    """
    confirm(f"Delete pool {pool}?", yes)
    app.client.pools.DeletePool(pb.DeletePoolRequest(pool=pool))
    click.echo(f"pool {pool} is deleted")


command.add_command(label_command("pool"))
