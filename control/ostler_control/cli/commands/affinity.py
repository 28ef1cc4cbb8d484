"""`ostler affinity`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import affinity_pb2 as pb
from ostler.control.v1 import vm_pb2

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ACCOUNT, AFFINITY_GROUP, HOST, VM
from ostler_control.cli.options import confirm, limit_option, list_options, output_option, request_id_option, yes_option
from ostler_control.cli.output import Listing, Section, View, print_list, print_one

KINDS = {
    "affinity": pb.AffinityGroup.AFFINITY,
    "anti-affinity": pb.AffinityGroup.ANTI_AFFINITY,
    "run-on": pb.AffinityGroup.RUN_ON,
    "not-run-on": pb.AffinityGroup.NOT_RUN_ON,
}


def _members(group: pb.AffinityGroup) -> Sequence[Sequence[str]]:
    return [("vm", "host"), *((member.vm_name, member.host_name) for member in group.vms)]


VIEW = View[pb.AffinityGroup](
    "affinity group",
    columns=[
        ("name", lambda g: g.name),
        ("account", lambda g: g.account_name),
        ("kind", lambda g: text.enum_of(g, "kind").replace("_", "-")),
        ("strict", lambda g: text.yes(g.strict)),
        ("vms", lambda g: str(len(g.vms))),
    ],
    details=[
        ("hosts", lambda g: ", ".join(g.hosts)),
        ("labels", lambda g: labels_joined(g.labels)),
        ("created", lambda g: text.when(g, "create_time")),
        ("id", lambda g: g.id),
    ],
    sections=[Section("VMs", _members)],
)


@click.group(cls=Noun)
def command() -> None:
    """Affinity groups: VMs to keep together or apart, or on some hosts or off them."""


@command.command("create")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(tuple(KINDS)),
    required=True,
    help="affinity: on one host; anti-affinity: on different hosts; run-on, not-run-on: on the hosts given, or not.",
)
@click.option("--host", "hosts", type=HOST, multiple=True, help="A host, for run-on and not-run-on; repeat.")
@click.option(
    "--preferred",
    is_flag=True,
    help="A preference; without it the rule is strict: no VM is placed or moved against it.",
)
@click.option("--account", type=ACCOUNT, default="", help="Owner.  [default: your account]")
@request_id_option
@output_option
@pass_app
def create(
    app: App,
    name: str,
    kind: str,
    hosts: tuple[str, ...],
    preferred: bool,
    account: str,
    request_id: str,
    output: str,
) -> None:
    """Creates an empty group. Add VMs with `ostler affinity add`, or when you create them.

    \b
    Examples:
      ostler affinity create databases --kind anti-affinity
      ostler affinity create licensed --kind run-on --host h1 --host h2
    """
    request = pb.CreateAffinityGroupRequest(
        request_id=request_id, name=name, account=account, kind=KINDS[kind], preferred=preferred, hosts=hosts
    )
    print_one(VIEW, app.client.affinity.CreateAffinityGroup(request), output)


@command.command("list")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists groups.

    \b
    Example:
      ostler affinity list
    """
    request = pb.ListAffinityGroupsRequest(selector=selector)
    rows = pages(app.client.affinity.ListAffinityGroups, request, lambda a: a.affinity_groups, limit)
    print_list(VIEW, rows, listing)


@command.command("show")
@click.argument("group", type=AFFINITY_GROUP)
@output_option
@pass_app
def show(app: App, group: str, output: str) -> None:
    """Shows one group with its VMs and where they are.

    \b
    Example:
      ostler affinity show databases
    """
    print_one(VIEW, _get(app, group), output)


def _get(app: App, group: str) -> pb.AffinityGroup:
    return app.client.affinity.GetAffinityGroup(pb.GetAffinityGroupRequest(group=group))


def _change(app: App, ref: str, vms: Sequence[str], groups: Callable[[set[str], str], set[str]]) -> pb.AffinityGroup:
    """Changes the groups of each VM. groups: new set from the VM's present set and this group's name."""
    group = _get(app, ref)
    for name in vms:
        vm = app.client.vms.GetVm(vm_pb2.GetVmRequest(vm=name))
        wanted = sorted(groups(set(vm.affinity_groups), group.name))
        app.client.vms.UpdateVm(
            vm_pb2.UpdateVmRequest(
                vm=vm.id, values=vm_pb2.Vm(affinity_groups=wanted), update_mask=FieldMask(paths=["affinity_groups"])
            )
        )
    return _get(app, group.id)


@command.command("add")
@click.argument("group", type=AFFINITY_GROUP)
@click.argument("vms", type=VM, nargs=-1, required=True)
@output_option
@pass_app
def add(app: App, group: str, vms: tuple[str, ...], output: str) -> None:
    """Adds VMs to a group. Nothing moves; `ostler drs generate --repair` plans the moves that the group needs.

    \b
    Example:
      ostler affinity add databases db-1 db-2
    """
    print_one(VIEW, _change(app, group, vms, lambda now, name: now | {name}), output)


@command.command("remove")
@click.argument("group", type=AFFINITY_GROUP)
@click.argument("vms", type=VM, nargs=-1, required=True)
@output_option
@pass_app
def remove(app: App, group: str, vms: tuple[str, ...], output: str) -> None:
    """Removes VMs from a group.

    \b
    Example:
      ostler affinity remove databases db-2
    """
    print_one(VIEW, _change(app, group, vms, lambda now, name: now - {name}), output)


@command.command("set-hosts")
@click.argument("group", type=AFFINITY_GROUP)
@click.argument("hosts", type=HOST, nargs=-1, required=True)
@request_id_option
@output_option
@pass_app
def set_hosts(app: App, group: str, hosts: tuple[str, ...], request_id: str, output: str) -> None:
    """Replaces the hosts that a run-on or not-run-on group names. Nothing moves; `ostler drs generate --repair` plans
    the moves that the group needs.

    \b
    Example:
      ostler affinity set-hosts licensed h1 h2 h3
    """
    request = pb.SetAffinityGroupHostsRequest(request_id=request_id, group=group, hosts=hosts)
    print_one(VIEW, app.client.affinity.SetAffinityGroupHosts(request), output)


@command.command("delete")
@click.argument("group", type=AFFINITY_GROUP)
@yes_option
@pass_app
def delete(app: App, group: str, yes: bool) -> None:
    """Deletes a group; its VMs stay where they are.

    \b
    Example:
      ostler affinity delete databases --yes
    """
    confirm(f"Delete affinity group {group}?", yes)
    app.client.affinity.DeleteAffinityGroup(pb.DeleteAffinityGroupRequest(group=group))
    click.echo(f"affinity group {group} is deleted")


command.add_command(label_command("affinity"))
