"""`ostler ha`."""

from __future__ import annotations

from collections.abc import Sequence

import click
from ostler.control.v1 import ha_pb2 as pb
from ostler.control.v1 import zone_pb2

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import CLUSTER, SERVICE_OFFERING, VM
from ostler_control.cli.options import output_option
from ostler_control.cli.output import Section, View, print_data, print_one

PRIORITIES = {"low": pb.PRIORITY_LOW, "medium": pb.PRIORITY_MEDIUM, "high": pb.PRIORITY_HIGH}


def priority(value: pb.Priority.ValueType) -> str:
    """The priority's word."""
    return pb.Priority.Name(value).removeprefix("PRIORITY_").lower()


def _reserve(status: pb.HaStatus) -> str:
    if not status.reserve_hosts:
        return "none (ha.reserve.hosts is 0)"
    verdict = "holds" if status.reserve_holds else f"DOES NOT HOLD: {status.reserve_explanation}"
    return f"for {status.reserve_hosts} failed host{'s' if status.reserve_hosts > 1 else ''}: {verdict}"


def _hosts(status: pb.HaStatus) -> Sequence[Sequence[str]]:
    rows = [
        (
            host.host_name,
            text.enum_of(host, "state"),
            _device(host),
            _self_fencing(host),
            str(host.protected_vms),
            host.verdict,
            host.explanation,
        )
        for host in status.hosts
    ]
    return [("name", "state", "fence device", "self-fencing", "protected vms", "fencing", "detail"), *rows]


def _device(host: pb.HaStatus.HostStatus) -> str:
    if not host.has_fence_device:
        return "no"
    return "DOES NOT ANSWER" if host.fence_device_error else "yes"


def _self_fencing(host: pb.HaStatus.HostStatus) -> str:
    if host.self_fencing in ("", "guarding"):
        return "yes" if host.self_fencing else "no"
    return f"NO: {host.self_fencing_error or host.self_fencing}"


def _restarts(status: pb.HaStatus) -> Sequence[Sequence[str]]:
    rows = [(row.vm_name, priority(row.priority), str(row.attempts), row.reason) for row in status.restarts]
    return [("vm", "priority", "failed starts", "waits because"), *rows]


VIEW = View[pb.HaStatus](
    "cluster",
    columns=[("cluster", lambda s: s.cluster_name)],
    details=[
        ("fences without an admin", lambda s: text.yes(s.enabled)),
        ("protected vms", lambda s: str(s.protected_vms)),
        ("reserve", _reserve),
    ],
    sections=[Section("Hosts", _hosts), Section("VMs that wait for their restart", _restarts)],
    name=lambda s: s.cluster_name,
)


@click.group(cls=Noun)
def command() -> None:
    """High availability: VMs of a failed host start on other hosts."""


def _set(app: App, vm: str, offering: str, wanted: pb.Priority.ValueType, output: str) -> None:
    if bool(vm) == bool(offering):
        raise click.UsageError("give either a VM or --offering")
    request = pb.SetPriorityRequest(vm=vm, service_offering=offering, priority=wanted)
    answer = app.client.ha.SetPriority(request)
    what = f"VM {vm}" if vm else f"service offering {offering}"
    if output == "table":
        click.echo(f"{what} has priority {priority(answer.priority)}")
    elif output == "name":
        click.echo(vm or offering)
    else:
        print_data({"vm": vm, "service_offering": offering, "priority": priority(answer.priority)}, output)


@command.command("enable")
@click.argument("vm", type=VM, default="")
@click.option("--offering", type=SERVICE_OFFERING, default="", help="All VMs of this service offering instead.")
@click.option(
    "--priority",
    "word",
    type=click.Choice(tuple(PRIORITIES)),
    default="medium",
    show_default=True,
    help="Which VMs restart first.",
)
@output_option
@pass_app
def enable(app: App, vm: str, offering: str, word: str, output: str) -> None:
    """Protects a VM, or all VMs of a service offering.

    It restarts when its host is proved off. Its disks must be on storage that other hosts reach, and its host needs a
    fence device or a lease.

    \b
    Examples:
      ostler ha enable web-1 --priority high
      ostler ha enable --offering small
    """
    _set(app, vm, offering, PRIORITIES[word], output)


@command.command("disable")
@click.argument("vm", type=VM, default="")
@click.option("--offering", type=SERVICE_OFFERING, default="", help="All VMs of this service offering instead.")
@output_option
@pass_app
def disable(app: App, vm: str, offering: str, output: str) -> None:
    """Ends the protection. A VM that waits for its restart waits no longer.

    \b
    Example:
      ostler ha disable web-1
    """
    _set(app, vm, offering, pb.PRIORITY_OFF, output)


@command.command("reset")
@click.argument("vm", type=VM)
@output_option
@pass_app
def reset(app: App, vm: str, output: str) -> None:
    """Removes a VM's own priority: its offering's counts again.

    \b
    Example:
      ostler ha reset web-1
    """
    _set(app, vm, "", pb.PRIORITY_UNSPECIFIED, output)


@command.command("status")
@click.argument("cluster", type=CLUSTER, default="")
@output_option
@pass_app
def status(app: App, cluster: str, output: str) -> None:
    """Shows hosts, restarts, and whether the reserve holds.

    Without CLUSTER: of every cluster.

    \b
    Example:
      ostler ha status web
    """
    if cluster:
        print_one(VIEW, app.client.ha.GetHaStatus(pb.GetHaStatusRequest(cluster=cluster)), output)
        return
    clusters = pages(app.client.clusters.ListClusters, zone_pb2.ListClustersRequest(), lambda a: a.clusters)
    found = [app.client.ha.GetHaStatus(pb.GetHaStatusRequest(cluster=row.id)) for row in clusters]
    if output in ("json", "yaml"):
        print_data([VIEW.plain(one) for one in found], output)
        return
    for number, one in enumerate(found):
        if number and output == "table":
            click.echo()
        print_one(VIEW, one, output)
