"""`ostler cluster`."""

from __future__ import annotations

import click
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import zone_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import CLUSTER, HYPERVISOR_TYPE, ZONE
from ostler_control.cli.options import (
    Options,
    confirm,
    limit_option,
    list_options,
    output_option,
    request_id_option,
    yes_option,
)
from ostler_control.cli.output import Listing, View, print_list, print_one

VIEW = View[pb.Cluster](
    "cluster",
    columns=[
        ("name", lambda c: c.name),
        ("zone", lambda c: c.zone_name),
        ("hypervisor", lambda c: c.hypervisor_display_name),
        ("hosts", lambda c: str(c.host_count)),
        ("cpu overcommit", lambda c: f"{c.cpu_overcommit:g}"),
        ("memory overcommit", lambda c: f"{c.memory_overcommit:g}"),
        ("enabled", lambda c: text.yes(c.enabled)),
    ],
    details=[
        ("labels", lambda c: labels_joined(c.labels)),
        ("id", lambda c: c.id),
        ("created", lambda c: text.when(c, "create_time")),
    ],
)
OVERCOMMIT = click.FloatRange(min=1)


@click.group(cls=Noun)
def command() -> None:
    """Clusters: hosts of one kind that VMs migrate between."""


@command.command("create")
@click.argument("name")
@click.option("--zone", type=ZONE, required=True, help="Zone of the cluster.")
@click.option(
    "--hypervisor",
    type=HYPERVISOR_TYPE,
    default="",
    help="Type of hypervisor of its hosts (ostler hypervisor list).  [default: that of the first host]",
)
@click.option(
    "--cpu-overcommit", type=OVERCOMMIT, default=1, help="Virtual CPUs to allocate per physical CPU.  [default: 1]"
)
@click.option(
    "--memory-overcommit",
    type=OVERCOMMIT,
    default=1,
    help="Memory to allocate per unit of physical memory.  [default: 1]",
)
@request_id_option
@output_option
@pass_app
def create(
    app: App,
    name: str,
    zone: str,
    hypervisor: str,
    cpu_overcommit: float,
    memory_overcommit: float,
    request_id: str,
    output: str,
) -> None:
    """Creates a cluster.

    \b
    Example:
      ostler cluster create web --zone berlin --cpu-overcommit 4
    """
    request = pb.CreateClusterRequest(
        request_id=request_id,
        name=name,
        zone=zone,
        cpu_overcommit=cpu_overcommit,
        memory_overcommit=memory_overcommit,
        hypervisor_type=hypervisor,
    )
    print_one(VIEW, app.client.clusters.CreateCluster(request), output)


@command.command("list")
@click.option("--zone", type=ZONE, default="", help="Only those of this zone.")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, zone: str, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists clusters.

    \b
    Example:
      ostler cluster list --zone berlin
    """
    request = pb.ListClustersRequest(zone=zone, selector=selector)
    print_list(VIEW, pages(app.client.clusters.ListClusters, request, lambda a: a.clusters, limit), listing)


@command.command("show")
@click.argument("cluster", type=CLUSTER)
@output_option
@pass_app
def show(app: App, cluster: str, output: str) -> None:
    """Shows one cluster.

    \b
    Example:
      ostler cluster show web
    """
    print_one(VIEW, app.client.clusters.GetCluster(pb.GetClusterRequest(cluster=cluster)), output)


@command.command("update")
@click.argument("cluster", type=CLUSTER)
@click.option("--name", help="New name.")
@click.option("--cpu-overcommit", type=OVERCOMMIT, help="Virtual CPUs to allocate per physical CPU.")
@click.option("--memory-overcommit", type=OVERCOMMIT, help="Memory to allocate per unit of physical memory.")
@click.option("--enable/--disable", "enabled", default=None, help="Whether VMs may be placed here.")
@output_option
@pass_app
def update(
    app: App,
    cluster: str,
    name: str | None,
    cpu_overcommit: float | None,
    memory_overcommit: float | None,
    enabled: bool | None,
    output: str,
) -> None:
    """Changes name, overcommit, or whether VMs may be placed here.

    \b
    Example:
      ostler cluster update web --cpu-overcommit 6
    """
    options: Options = {
        "name": name,
        "cpu_overcommit": cpu_overcommit,
        "memory_overcommit": memory_overcommit,
        "enabled": enabled,
    }
    changes = {field: value for field, value in options.items() if value is not None}
    if not changes:
        raise click.UsageError(
            "nothing to change: give --name, --cpu-overcommit, --memory-overcommit, --enable or --disable"
        )
    request = pb.UpdateClusterRequest(
        cluster=cluster, values=pb.Cluster(**changes), update_mask=FieldMask(paths=list(changes))
    )
    print_one(VIEW, app.client.clusters.UpdateCluster(request), output)


@command.command("delete")
@click.argument("cluster", type=CLUSTER)
@yes_option
@pass_app
def delete(app: App, cluster: str, yes: bool) -> None:
    """Deletes an empty cluster.

    \b
    Example:
      ostler cluster delete web --yes
    """
    confirm(f"Delete cluster {cluster}?", yes)
    app.client.clusters.DeleteCluster(pb.DeleteClusterRequest(cluster=cluster))
    click.echo(f"cluster {cluster} is deleted")


command.add_command(label_command("cluster"))
