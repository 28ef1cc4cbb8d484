"""`ostler pool`."""

from __future__ import annotations

from collections.abc import Sequence

import click
from ostler.control.v1 import pool_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import CLUSTER, HOST, POOL, ZONE
from ostler_control.cli.options import (
    confirm,
    dry_run_option,
    limit_option,
    output_option,
    request_id_option,
    yes_option,
)
from ostler_control.cli.output import Section, View, print_list, print_one


def _hosts(pool: pb.Pool) -> Sequence[Sequence[str]]:
    return [("host", "reaches it", "why not"), *((h.host_name, text.yes(h.reachable), h.reason) for h in pool.hosts)]


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
        ("options", lambda p: text.joined(f"{key}={p.options[key]}" for key in sorted(p.options))),
        ("created", lambda p: text.when(p, "create_time")),
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


@click.group(cls=Noun)
def command() -> None:
    """Storage pools: where volumes live."""


@command.command("create")
@click.argument("name")
@click.option("--type", "type_", required=True, help="local, shared-mount-point, nfs, or what else your hosts offer.")
@click.option("--path", required=True, help="Directory on the hosts, absolute.")
@click.option("--source", default="", help="Source of a network pool, e.g. server:/export.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", callback=_option, help="Option of the type.")
@click.option("--host", type=HOST, default="", help="One host reaches it.")
@click.option("--cluster", type=CLUSTER, default="", help="All hosts of this cluster reach it.")
@click.option("--zone", type=ZONE, default="", help="All hosts of this zone reach it.")
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
    host: str,
    cluster: str,
    zone: str,
    dry_run: bool,
    request_id: str,
    output: str,
) -> None:
    """Makes a pool; its hosts prove that they reach it. Say who does: --host, --cluster or --zone.

    \b
    Examples:
      ostler pool create fast --type local --path /srv/ostler --host h1
      ostler pool create shared --type shared-mount-point --path /mnt/san --cluster web
      ostler pool create nas --type nfs --source nas:/vms --path /var/lib/ostler/nas --zone berlin
    """
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
    )
    for scope, where in given.items():
        setattr(request, scope, where)
    pool = app.client.pools.CreatePool(request)
    if dry_run and output == "table":
        click.echo(f"pool {name} could be created")
    else:
        print_one(VIEW, pool, output)


@command.command("list")
@click.option("--host", type=HOST, default="", help="Only those that this host reaches.")
@limit_option()
@output_option
@pass_app
def list_(app: App, host: str, limit: int | None, output: str) -> None:
    """Lists pools. VOLUMES is the sum of the sizes of the volumes in it; thin ones take less.

    \b
    Example:
      ostler pool list --host h1
    """
    request = pb.ListPoolsRequest(host=host)
    print_list(VIEW, pages(app.client.pools.ListPools, request, lambda a: a.pools, limit), output)


@command.command("show")
@click.argument("pool", type=POOL)
@output_option
@pass_app
def show(app: App, pool: str, output: str) -> None:
    """Shows one pool and which hosts reach it.

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
    """Deletes a pool that holds no volume; files in it stay.

    \b
    Example:
      ostler pool delete shared --yes
    """
    confirm(f"Delete pool {pool}?", yes)
    app.client.pools.DeletePool(pb.DeletePoolRequest(pool=pool))
    click.echo(f"pool {pool} is deleted")
