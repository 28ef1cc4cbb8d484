"""`ostler host`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import host_pb2 as pb
from ostler.control.v1.drs_pb2 import DrsPlan
from ostler.types.v1.vm_pb2 import CpuModel
from ostler_common.text import printable

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.finish import finish
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import CLUSTER, HOST
from ostler_control.cli.options import (
    DURATION,
    CallOptions,
    confirm,
    limit_option,
    list_options,
    operation_options,
    output_option,
    yes_option,
)
from ostler_control.cli.output import Listing, Section, View, print_changed, print_data, print_list, print_one


def _load(host: pb.Host) -> str:
    if not host.HasField("load"):
        return text.NONE
    load = host.load
    memory = f"{text.size(load.memory_used_bytes)} of {text.size(load.memory_total_bytes)}"
    return f"{load.cpu_used:.1f} of {load.cpus} CPUs, {memory} memory"


def _guest_cpu(cpu: CpuModel) -> str:
    """ "Haswell-noTSX with 12 more features, without 2"; empty where every host gives the same."""
    more = f" with {len(cpu.features)} more features" if cpu.features else ""
    return cpu.model + more + (f", without {len(cpu.lacks)}" if cpu.lacks else "")


def _pressure(host: pb.Host) -> str:
    """How long work waited, as the kernel tells (PSI)."""
    load = host.load
    told = [
        (word, share)
        for word, field, share in (
            ("CPU", "cpu_pressure", load.cpu_pressure),
            ("memory", "memory_pressure", load.memory_pressure),
            ("I/O", "io_pressure", load.io_pressure),
        )
        if load.HasField(field)  # type: ignore[arg-type]  # one of three literals
    ]
    return ", ".join(f"{word} {share:.1f}%" for word, share in told) or text.NONE


def _memory(host: pb.Host, between: str) -> str:
    return f"{text.size(host.allocated_memory_bytes, '0')}{between}{text.size(host.capabilities.memory_bytes)}"


def _probes(host: pb.Host) -> Sequence[Sequence[str]]:
    rows = [(p.name, text.yes(p.ok), p.detail or p.reason) for p in host.capabilities.probes]
    return [("probe", "works", "detail"), *rows]


def _unmanaged(host: pb.Host) -> Sequence[Sequence[str]]:
    rows = [
        (vm.name, text.enum_of(vm, "power_state"), str(vm.cpus), text.size(vm.memory_bytes))
        for vm in host.unmanaged_vms
    ]
    return [("name", "state", "cpus", "memory"), *rows]


_CONVERSION = "instance-conversion"


def _converts(host: pb.Host) -> str:
    """Whether guests of other hypervisors can be converted there; a dash where the type of hypervisor never can."""
    capabilities = host.capabilities
    return text.yes(capabilities.instance_conversion) if _CONVERSION in capabilities.functions else text.NONE


VIEW = View[pb.Host](
    "host",
    columns=[
        ("name", lambda h: h.name),
        ("cluster", lambda h: h.cluster_name),
        ("state", lambda h: text.enum_of(h, "state")),
        ("enabled", lambda h: text.yes(h.enabled)),
        ("encryption", lambda h: text.yes(h.capabilities.volume_encryption)),
        ("converts", _converts),
        ("vms", lambda h: str(h.vm_count)),
        ("cpus", lambda h: f"{h.allocated_cpus}/{h.capabilities.cpus}"),
        ("memory", lambda h: _memory(h, "/")),
    ],
    details=[
        ("reason", lambda h: h.state_reason),
        ("in this state since", lambda h: text.when(h, "state_time")),
        ("zone", lambda h: h.zone_name),
        ("address", lambda h: h.address),
        ("cpus", lambda h: f"{h.allocated_cpus} of {h.capabilities.cpus} allocated"),
        (
            "memory",
            lambda h: f"{_memory(h, ' of ')} allocated",
        ),
        ("load", _load),
        ("pressure", _pressure),
        (
            "hypervisor",
            lambda h: f"{h.capabilities.hypervisor_display_name} {h.capabilities.hypervisor_version}".strip(),
        ),
        ("supports", lambda h: text.joined(h.capabilities.functions)),
        ("libvirt", lambda h: h.capabilities.libvirt_version),
        ("cpu model", lambda h: h.capabilities.cpu_model),
        ("guests' cpu", lambda h: _guest_cpu(h.capabilities.guest_cpu)),
        ("domain types", lambda h: text.joined(h.capabilities.domain_types)),
        ("uefi", lambda h: text.yes(h.capabilities.uefi)),
        ("secure boot", lambda h: text.yes(h.capabilities.secure_boot)),
        ("tpm", lambda h: text.yes(h.capabilities.tpm)),
        ("bridges", lambda h: text.joined(h.capabilities.bridges)),
        ("pool types", lambda h: text.joined(h.capabilities.pool_types)),
        ("self-fencing", lambda h: h.self_fencing or "no"),
        ("agent", lambda h: h.agent_version),
        ("certificate ends", lambda h: text.when(h, "certificate_expire_time")),
        ("labels", lambda h: labels_joined(h.labels)),
        ("joined", lambda h: text.when(h, "create_time")),
        ("id", lambda h: h.id),
    ],
    sections=[Section("Probes", _probes), Section("VMs that Ostler does not manage", _unmanaged)],
)
_NAMED = 5  # VMs that a message names
STATES = ("connecting", "up", "disconnected", "maintenance", "fenced")


@click.group(cls=Noun)
def command() -> None:
    """Hosts: join, capabilities, maintenance."""


@command.command("token")
@click.argument("cluster", type=CLUSTER)
@click.option("--ttl", type=DURATION, default="1h", show_default=True, help="How long the token is valid, at most 24h.")
@click.option(
    "--rejoin", "host", type=HOST, default="", help="Let this host join again as itself, after its certificate expired."
)
@click.option("--name", default="", help="Only a host of this name may use the token.")
@click.option("--address", default="", help="Only a host that is reached at this IP address or name may use the token.")
@output_option
@pass_app
def token(app: App, cluster: str, ttl: int, host: str, name: str, address: str, output: str) -> None:
    """Creates a one-time token that lets a host join CLUSTER. `-o name` prints only the token.

    \b
    Examples:
      ostler host token web --ttl 15m
      ostler host token web --name h7 --address 10.0.0.17
    """
    request = pb.CreateJoinTokenRequest(cluster=cluster, ttl_s=ttl, host=host, host_name=name, address=address)
    answer = app.client.hosts.CreateJoinToken(request)
    if output == "table":
        until = text.when(answer, "expire_time")
        click.echo(f"Run this on the host before {until}; it works once:", err=True)
        click.echo(answer.command)
    elif output == "name":
        click.echo(answer.token)
    else:
        from ostler_control.cli.plain import to_plain

        print_data(to_plain(answer), output)


@command.command("list")
@click.option("--cluster", type=CLUSTER, default="", help="Only those of this cluster.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--encryption/--no-encryption", default=None, help="Only those that have, or lack, volume encryption.")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(
    app: App,
    cluster: str,
    state: str | None,
    encryption: bool | None,
    selector: str,
    limit: int | None,
    listing: Listing,
) -> None:
    """Lists hosts. CPUS and MEMORY show what is allocated to VMs and the total.

    \b
    Example:
      ostler host list --cluster web --state up
    """
    request = pb.ListHostsRequest(
        cluster=cluster,
        state=pb.Host.State.Value((state or "state_unspecified").upper()),
        encryption=encryption,
        selector=selector,
    )
    print_list(VIEW, pages(app.client.hosts.ListHosts, request, lambda a: a.hosts, limit), listing)


@command.command("show")
@click.argument("host", type=HOST)
@output_option
@pass_app
def show(app: App, host: str, output: str) -> None:
    """Shows one host with its probed capabilities.

    \b
    Example:
      ostler host show h1
    """
    print_one(VIEW, app.client.hosts.GetHost(pb.GetHostRequest(host=host)), output)


def _update(app: App, host: str, output: str, **values: Any) -> None:
    request = pb.UpdateHostRequest(host=host, values=pb.Host(**values), update_mask=FieldMask(paths=list(values)))
    print_changed(VIEW, app.client.hosts.UpdateHost(request), output)


@command.command("update")
@click.argument("host", type=HOST)
@click.option("--name", help="New name.")
@click.option("--address", metavar="HOST:PORT", help="Address of the host's agent.")
@output_option
@pass_app
def update(app: App, host: str, name: str | None, address: str | None, output: str) -> None:
    """Changes name or address.

    \b
    Example:
      ostler host update h1 --name rack2-h1
    """
    changes = {field: value for field, value in (("name", name), ("address", address)) if value is not None}
    if not changes:
        raise click.UsageError("nothing to change: give --name or --address")
    _update(app, host, output, **changes)


@command.command("enable")
@click.argument("host", type=HOST)
@output_option
@pass_app
def enable(app: App, host: str, output: str) -> None:
    """Enables a host: VMs may be placed on it again.

    \b
    Example:
      ostler host enable h1
    """
    _update(app, host, output, enabled=True)


@command.command("disable")
@click.argument("host", type=HOST)
@output_option
@pass_app
def disable(app: App, host: str, output: str) -> None:
    """Disables a host: no new VM is placed on it; those on it stay.

    \b
    Example:
      ostler host disable h1
    """
    _update(app, host, output, enabled=False)


@command.command("probe")
@click.argument("host", type=HOST)
@output_option
@pass_app
def probe(app: App, host: str, output: str) -> None:
    """Probes a host's capabilities again. Run it after installing packages on the host.

    \b
    Example:
      ostler host probe h1
    """
    print_one(VIEW, app.client.hosts.ProbeHost(pb.ProbeHostRequest(host=host)), output)


@command.group("maintenance", cls=Noun)
def maintenance() -> None:
    """Host maintenance: enter and leave."""


@maintenance.command("enter")
@click.argument("host", type=HOST)
@click.option("--reason", default="", help="Reason to show in lists and events.")
@click.option("--evacuate/--stay", default=True, help="Move its VMs to other hosts (default), or leave them there.")
@operation_options(dry_run=False)
@pass_app
def enter(app: App, host: str, reason: str, evacuate: bool, call: CallOptions) -> None:
    """Puts a host into maintenance and migrates its VMs away.

    VMs that cannot move stay, with the reason, and the host stays in maintenance; move or stop them, then run this
    again.

    \b
    Example:
      ostler host maintenance enter h1 --reason "new disks"
    """
    request = pb.EnterMaintenanceRequest(host=host, reason=reason, evacuate=evacuate, request_id=call.request_id)
    entered = app.client.hosts.EnterMaintenance(request)
    if not evacuate:
        print_one(VIEW, entered.host, call.output)
        return
    from ostler_common.errors import OstlerError

    from ostler_control.cli.following import follow_plan

    if call.output == "table":
        click.echo(f"host {entered.host.name} is in maintenance", err=True)
    try:
        follow_plan(app, entered.evacuation, call)
    except OstlerError:
        if call.output == "table":
            _print_not_empty(app, entered.host.name)
        raise


def _print_not_empty(app: App, host: str) -> None:
    """After an evacuation that ended early: what is still on the host, the host's state, and what to do next."""
    from ostler.control.v1.vm_pb2 import ListVmsRequest

    names = [vm.name for vm in app.client.vms.ListVms(ListVmsRequest(host=host, page_size=_NAMED + 1)).vms]
    if not names:
        return
    there = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    lines = (
        f"host {host} is in maintenance: no VM is placed on it, and these are still on it: {there}",
        "next, for each of them: ostler vm migrate VM, or ostler vm stop VM",
        f"then: ostler host maintenance enter {host}, which moves what is left",
        f"or, to give up: ostler host maintenance leave {host}",
    )
    for line in lines:
        click.echo(printable(line), err=True)


@maintenance.command("leave")
@click.argument("host", type=HOST)
@click.option(
    "--bring-back/--leave-away",
    default=None,
    help="Migrate evacuated VMs back, or leave them where they are.  [default: ask]",
)
@operation_options(dry_run=False)
@pass_app
def leave(app: App, host: str, bring_back: bool | None, call: CallOptions) -> None:
    """Ends the maintenance of a host. Offers to migrate its VMs back.

    \b
    Example:
      ostler host maintenance leave h1 --bring-back
    """
    left = app.client.hosts.LeaveMaintenance(pb.LeaveMaintenanceRequest(host=host))
    plan = _way_back(app, left) if bring_back is not False else None
    if plan is None:
        print_one(VIEW, left, call.output)
        return
    from ostler.control.v1.drs_pb2 import ExecutePlanRequest

    from ostler_control.cli import plans
    from ostler_control.cli.following import follow_plan

    if bring_back is None:
        if call.output != "table":
            print_one(VIEW, left, call.output)
            return
        plans.print_plan(plan, call.output)
        if not sys.stdin.isatty() or not click.confirm("\nMigrate them back?", err=True):
            click.echo(f"to migrate them back: ostler drs execute {plan.name}", err=True)
            return
    follow_plan(app, app.client.drs.ExecutePlan(ExecutePlanRequest(request_id=call.request_id, plan=plan.id)), call)


def _way_back(app: App, host: pb.Host) -> DrsPlan | None:
    """The plan that migrates evacuated VMs back; None when there are none."""
    from ostler.control.v1.drs_pb2 import GenerateReturnPlanRequest
    from ostler_common.errors import OstlerError

    try:
        plan = app.client.drs.GenerateReturnPlan(GenerateReturnPlanRequest(host=host.id))
    except OstlerError as error:
        if error.reason != "NO_EVACUATION":
            raise
        return None
    return plan if plan.moves else None


@command.command("power-off")
@click.argument("host", type=HOST)
@operation_options()
@pass_app
def power_off(app: App, host: str, call: CallOptions) -> None:
    """Switches a host off by its fence device, to save power.

    The host must be in maintenance and have no VMs.

    \b
    Examples:
      ostler host maintenance enter h3
      ostler host power-off h3
    """
    from ostler.control.v1 import ha_pb2

    request = ha_pb2.PowerOffHostRequest(request_id=call.request_id, host=host, validate_only=call.dry_run)
    finish(app, app.client.ha.PowerOffHost(request), VIEW, pb.Host(), call)


@command.command("power-on")
@click.argument("host", type=HOST)
@operation_options()
@pass_app
def power_on(app: App, host: str, call: CallOptions) -> None:
    """Switches a host on by its fence device.

    Waits until the host's agent answers. The host stays in maintenance.

    \b
    Examples:
      ostler host power-on h3
      ostler host maintenance leave h3
    """
    from ostler.control.v1 import ha_pb2

    request = ha_pb2.PowerOnHostRequest(request_id=call.request_id, host=host, validate_only=call.dry_run)
    finish(app, app.client.ha.PowerOnHost(request), VIEW, pb.Host(), call)


@command.command("declare-dead")
@click.argument("host", type=HOST)
@click.option(
    "--confirm", "typed", default="", metavar="NAME", help="The host's name, instead of typing it when asked."
)
@click.option(
    "--without-fencing",
    is_flag=True,
    help="Do not use its fence device. You have made sure that the host is off and stays off.",
)
@operation_options()
@pass_app
def declare_dead(app: App, host: str, typed: str, without_fencing: bool, call: CallOptions) -> None:
    """Declares a silent host dead: its VMs may start elsewhere.

    Protected VMs restart by themselves. A host with a fence device is switched off first. For one without, you are the
    proof: make sure that it is off.
    If it still runs, its VMs run twice and destroy their disks.

    \b
    Examples:
      ostler host declare-dead h1
      ostler host declare-dead h1 --confirm h1 --without-fencing
    """
    from ostler.control.v1 import ha_pb2

    if not typed:
        if not sys.stdin.isatty():
            raise click.UsageError("standard input is no terminal to type the host's name: add --confirm NAME")
        typed = click.prompt(f"Type the name of host {host} to declare it dead", err=True)
    request = ha_pb2.DeclareHostDeadRequest(
        request_id=call.request_id,
        host=host,
        confirm=typed,
        without_fencing=without_fencing,
        validate_only=call.dry_run,
    )
    finish(app, app.client.ha.DeclareHostDead(request), VIEW, pb.Host(), call)


@command.command("remove")
@click.argument("host", type=HOST)
@click.option("--lost", is_flag=True, help="The host is off for good: forget what only it had.")
@click.option("--dry-run", is_flag=True, help="Only check whether it can be removed, and show what would be lost.")
@yes_option
@pass_app
def remove(app: App, host: str, lost: bool, dry_run: bool, yes: bool) -> None:
    """Removes a host without VMs. Its certificate is revoked at once.

    With --lost, the host may have VMs, and its own pools may have volumes. Make sure that it is off and stays off:
    VMs on shared storage become stopped, and would run twice if they still run there. VMs, volumes and snapshots whose
    only copy was on the host are forgotten, and their keys destroyed.

    \b
    Examples:
      ostler host remove h1 --yes
      ostler host remove h1 --lost --dry-run
    """
    request = pb.RemoveHostRequest(host=host, validate_only=True, lost=lost)
    if not dry_run and not yes:
        if lost:
            _show_lost(app.client.hosts.RemoveHost(request), "would be")
        confirm(f"Remove host {host} from the fleet{' as lost' if lost else ''}?", yes)
    request.validate_only = dry_run
    _show_lost(app.client.hosts.RemoveHost(request), "would be" if dry_run else "are")
    click.echo(f"host {host} can be removed" if dry_run else f"host {host} is removed")


def _show_lost(answer: pb.RemoveHostResponse, verb: str) -> None:
    for names, what in (
        (answer.lost_vms, f"VMs {verb} lost"),
        (answer.lost_volumes, f"volumes {verb} lost"),
        (answer.lost_snapshots, f"snapshots {verb} lost"),
        (answer.stopped_vms, f"VMs {verb} stopped, on storage that is not lost"),
    ):
        if names:
            click.echo(f"{what}: {', '.join(names)}")


command.add_command(label_command("host"))
