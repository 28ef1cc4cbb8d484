"""`ostler vm`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import click
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import vm_pb2 as pb
from ostler.types.v1 import vm_pb2 as types

from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.commands._vm_adoption import adopt_command, unmanage_command
from ostler_control.cli.commands._vm_export import export
from ostler_control.cli.commands._vm_extraconfig import extraconfig
from ostler_control.cli.commands._vm_guest import guest
from ostler_control.cli.commands._vm_iso import iso_group
from ostler_control.cli.commands._vm_screen import COMMANDS
from ostler_control.cli.commands._vm_snapshot import snapshot_group
from ostler_control.cli.commands._vm_view import CANDIDATES, STATES, VIEW
from ostler_control.cli.details import detail_option
from ostler_control.cli.finish import finish
from ostler_control.cli.firmware import FIRMWARES, firmware_of
from ostler_control.cli.labels import label_command, label_option, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import (
    ACCOUNT,
    AFFINITY_GROUP,
    CLUSTER,
    HOST,
    ISO,
    POOL,
    SERVICE_OFFERING,
    TEMPLATE,
    VM,
    ZONE,
)
from ostler_control.cli.options import (
    DURATION,
    SIZE,
    CallOptions,
    confirm,
    limit_option,
    list_options,
    operation_options,
    output_option,
    yes_option,
)
from ostler_control.cli.output import Listing, print_list, print_one
from ostler_control.cli.user_data import UserDataOptions, user_data_options

UPDATES = (
    "--description",
    "--drs",
    "--no-drs",
    "--affinity-group",
    "--no-affinity-groups",
    "--detail",
    "--no-details",
    "an option for user data",
    "--no-user-data",
)


def parse_nic(ctx: click.Context, param: click.Parameter, value: str) -> pb.VmNic:
    """NETWORK, then KEY=VALUE; address, gateway and dns may be repeated."""
    network, *rest = value.split(",")
    pairs = defaultdict[str, list[str]](list)
    for part in rest:
        key, _, text = part.partition("=")
        pairs[key].append(text)
    if not network or not pairs.keys() <= {"mac", "model", "address", "gateway", "dns"}:
        wanted = "NETWORK[,mac=MAC][,model=MODEL][,address=ADDRESS/PREFIX][,gateway=ADDRESS][,dns=ADDRESS]"
        raise click.BadParameter(f"must be {wanted}", ctx, param)
    return pb.VmNic(
        network=network,
        mac=pairs["mac"][-1] if pairs["mac"] else "",
        model=pairs["model"][-1] if pairs["model"] else "",
        addresses=pairs["address"],
        gateways=pairs["gateway"],
        nameservers=pairs["dns"],
    )


def _nics_option(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> list[pb.VmNic]:
    return [parse_nic(ctx, param, value) for value in values]


@click.group(cls=Noun)
def command() -> None:
    """Virtual machines: create, start, migrate, console."""


@command.command("create")
@click.argument("name")
@click.option("--template", type=TEMPLATE, default="", help="Template for the root disk.")
@click.option(
    "--iso", "isos", type=ISO, multiple=True, help="ISO image to install from, in place of a template; repeat."
)
@click.option("--firmware", type=click.Choice(FIRMWARES), help="Firmware, with --iso.  [default: bios]")
@click.option("--offering", type=SERVICE_OFFERING, required=True, help="Service offering.")
@click.option("--root-size", type=SIZE, default=0, help="Size of the root disk.  [default: the template's]")
@click.option(
    "--nic",
    "nics",
    multiple=True,
    metavar="NETWORK[,KEY=VALUE]",
    callback=_nics_option,
    help="Interface on a network; keys are model, mac (admins), and address, gateway, dns for a static one; repeat.",
)
@click.option("--account", type=ACCOUNT, default="", help="Owner.  [default: your account]")
@click.option("--zone", type=ZONE, default="", help="Zone.  [default: any]")
@click.option("--cluster", type=CLUSTER, default="", help="Cluster.  [default: any]")
@click.option("--host", type=HOST, default="", help="Host.  [default: chosen]")
@click.option("--pool", type=POOL, default="", help="Pool for the root disk.  [default: chosen]")
@click.option("--affinity-group", "groups", type=AFFINITY_GROUP, multiple=True, help="Affinity group; may be repeated.")
@click.option("--tpm", is_flag=True, help="Give it an emulated TPM 2.0.")
@click.option("--stopped", is_flag=True, help="Create the VM without starting it.")
@detail_option("Key and value to keep with the VM; may be repeated.")
@label_option
@user_data_options
@operation_options()
@pass_app
def create(
    app: App,
    name: str,
    template: str,
    isos: tuple[str, ...],
    firmware: str | None,
    offering: str,
    root_size: int,
    nics: list[pb.VmNic],
    account: str,
    zone: str,
    cluster: str,
    host: str,
    pool: str,
    groups: tuple[str, ...],
    tpm: bool,
    stopped: bool,
    details: dict[str, str],
    labels: dict[str, str],
    user_data: UserDataOptions,
    call: CallOptions,
) -> None:
    """Creates a VM from a template or ISO images, and starts it.

    With ISO images the root disk is empty, and the first image boots. Ostler chooses a host that fits. The root disk is
    encrypted when the offering says so. The guest gets the user data together with what the template links (ostler
    userdata render).

    \b
    Examples:
      ostler vm create web-1 --template debian-13 --offering small --nic public
      ostler vm create web-2 --template debian-13 --offering small --user-data-file web.yaml --ssh-key-file id.pub
      ostler vm create win-1 --iso windows-11 --firmware uefi-secure-boot --tpm --root-size 80GiB --offering large
    """
    if bool(template) == bool(isos):
        raise click.UsageError("give either --template or --iso")
    if isos and not root_size:
        raise click.UsageError("--iso needs --root-size, the size of the empty root disk")
    if firmware and not isos:
        raise click.UsageError("--firmware is for --iso; a template says which firmware it boots with")
    request = pb.CreateVmRequest(
        request_id=call.request_id,
        name=name,
        template=template,
        isos=isos,
        firmware=firmware_of(firmware) if firmware else types.FIRMWARE_UNSPECIFIED,
        service_offering=offering,
        root_size_bytes=root_size,
        account=account,
        zone=zone,
        cluster=cluster,
        host=host,
        pool=pool,
        nics=nics,
        stopped=stopped,
        tpm=tpm,
        validate_only=call.dry_run,
        affinity_groups=groups,
        details=details,
        labels=labels,
        user_data=user_data.message(),
    )
    finish(app, app.client.vms.CreateVm(request), VIEW, pb.Vm(), call)


@command.command("list")
@click.option("--account", type=ACCOUNT, default="", help="Only those of this account.")
@click.option("--host", type=HOST, default="", help="Only those on this host.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(
    app: App, account: str, host: str, state: str | None, selector: str, limit: int | None, listing: Listing
) -> None:
    """Lists VMs. ATTENTION shows where Ostler and the hypervisor disagree.

    \b
    Examples:
      ostler vm list --host h1 --state running
      ostler vm list --selector "env=prod,tier in (web,db),!retired"
    """
    request = pb.ListVmsRequest(
        account=account,
        host=host,
        state=pb.Vm.State.Value((state or "state_unspecified").upper()),
        selector=selector,
    )
    print_list(VIEW, pages(app.client.vms.ListVms, request, lambda a: a.vms, limit), listing)


@command.command("show")
@click.argument("vm", type=VM)
@output_option
@pass_app
def show(app: App, vm: str, output: str) -> None:
    """Shows one VM with its disks and network.

    \b
    Example:
      ostler vm show web-1
    """
    print_one(VIEW, app.client.vms.GetVm(pb.GetVmRequest(vm=vm, read_addresses=True)), output)


@command.command("update")
@click.argument("vm", type=VM)
@click.option("--description", help='What people shall know about the VM; "" removes it.')
@click.option("--drs/--no-drs", "drs", default=None, help="Whether DRS may migrate the VM; evacuation always may.")
@click.option(
    "--affinity-group",
    "groups",
    type=AFFINITY_GROUP,
    multiple=True,
    help="Affinity groups that replace the present ones; may be repeated.",
)
@click.option("--no-affinity-groups", "none", is_flag=True, help="Remove the VM from all affinity groups.")
@detail_option("Keys and values that replace the present ones; may be repeated.")
@click.option("--no-details", is_flag=True, help="Remove all keys and values.")
@user_data_options
@click.option("--no-user-data", is_flag=True, help="Give the VM nothing beside what its template links.")
@output_option
@pass_app
def update(
    app: App,
    vm: str,
    description: str | None,
    drs: bool | None,
    groups: tuple[str, ...],
    none: bool,
    details: dict[str, str],
    no_details: bool,
    user_data: UserDataOptions,
    no_user_data: bool,
    output: str,
) -> None:
    """Changes description, placement, details or user data of a VM.

    Nothing moves. User data is for stopped VMs: it replaces all that the VM was given before, with values and SSH keys,
    and the guest gets it at its next start.

    \b
    Examples:
      ostler vm update web-1 --no-drs
      ostler vm update web-1 --user-data-file web.yaml
    """
    given = user_data.message()
    if given and no_user_data:
        raise click.UsageError("--no-user-data excludes the other options for user data")
    if groups and none:
        raise click.UsageError("--affinity-group and --no-affinity-groups exclude each other")
    if details and no_details:
        raise click.UsageError("--detail and --no-details exclude each other")
    changed = {
        "description": description is not None,
        "drs_skip": drs is not None,
        "affinity_groups": groups or none,
        "details": details or no_details,
        "user_data": given or no_user_data,
    }
    paths = [path for path, is_changed in changed.items() if is_changed]
    if not paths:
        raise click.UsageError(f"nothing to change: give {', '.join(UPDATES)}")
    values = pb.Vm(description=description or "", drs_skip=drs is False, affinity_groups=groups, details=details)
    request = pb.UpdateVmRequest(vm=vm, values=values, update_mask=FieldMask(paths=paths), user_data=given)
    print_one(VIEW, app.client.vms.UpdateVm(request), output)


@command.command("rename")
@click.argument("vm", type=VM)
@click.argument("name")
@output_option
@pass_app
def rename(app: App, vm: str, name: str, output: str) -> None:
    """Renames a VM, also while it runs. Its volumes keep their names, and its guest keeps its host name.

    \b
    Example:
      ostler vm rename web-1 shop-1
    """
    request = pb.UpdateVmRequest(vm=vm, values=pb.Vm(name=name), update_mask=FieldMask(paths=["name"]))
    print_one(VIEW, app.client.vms.UpdateVm(request), output)


@command.command("set-firmware")
@click.argument("vm", type=VM)
@click.option("--firmware", type=click.Choice(FIRMWARES), help="Firmware that it gets, with new variables.")
@click.option("--tpm/--no-tpm", "tpm", default=None, help="Give it an emulated TPM 2.0, or destroy its TPM.")
@yes_option
@operation_options()
@pass_app
def set_firmware(app: App, vm: str, firmware: str | None, tpm: bool | None, yes: bool, call: CallOptions) -> None:
    """Changes firmware and TPM of a stopped VM.

    Another firmware starts with new UEFI variables: the guest must boot with it, and without the boot entries that it
    had. What a guest has sealed in a TPM that is destroyed never opens again.

    \b
    Examples:
      ostler vm set-firmware win-1 --tpm
      ostler vm set-firmware win-1 --firmware uefi-secure-boot --yes
    """
    if firmware is None and tpm is None:
        raise click.UsageError("nothing to change: give --firmware, --tpm or --no-tpm")
    if not call.dry_run and firmware is not None:
        confirm(f"Give VM {vm} the firmware {firmware}, and delete its UEFI variables if that is another?", yes)
    if not call.dry_run and tpm is False:
        confirm(f"Destroy the TPM of VM {vm}, with all that its guest has sealed in it?", yes)
    request = pb.SetFirmwareRequest(
        request_id=call.request_id,
        vm=vm,
        firmware=firmware_of(firmware) if firmware else types.FIRMWARE_UNSPECIFIED,
        tpm=tpm,
        validate_only=call.dry_run,
    )
    finish(app, app.client.vms.SetFirmware(request), VIEW, pb.Vm(), call)


@command.command("upgrade-machine")
@click.argument("vm", type=VM)
@output_option
@pass_app
def upgrade_machine(app: App, vm: str, output: str) -> None:
    """Gives a stopped VM the newest machine type at its next start.

    A VM keeps the machine type, such as pc-q35-7.2, that it first started with, so that its guest sees the same devices
    after an upgrade of QEMU. Some guests, above all Windows, take a new one for other hardware. It starts and migrates
    only on hosts whose QEMU has it.

    \b
    Example:
      ostler vm upgrade-machine web-1
    """
    print_one(VIEW, app.client.vms.UpgradeMachine(pb.UpgradeMachineRequest(vm=vm)), output)


@command.command("start")
@click.argument("vm", type=VM)
@click.option("--host", type=HOST, default="", help="Host.  [default: the last one if it fits, else another]")
@operation_options()
@pass_app
def start(app: App, vm: str, host: str, call: CallOptions) -> None:
    """Starts a stopped VM.

    \b
    Example:
      ostler vm start web-1
    """
    request = pb.StartVmRequest(request_id=call.request_id, vm=vm, host=host, validate_only=call.dry_run)
    finish(app, app.client.vms.StartVm(request), VIEW, pb.Vm(), call)


@command.command("stop")
@click.argument("vm", type=VM)
@click.option("--timeout", type=DURATION, help="How long the guest may take to shut down.  [default: vm.stop.timeout]")
@click.option("--force", is_flag=True, help="Power off at once.")
@operation_options()
@pass_app
def stop(app: App, vm: str, timeout: int | None, force: bool, call: CallOptions) -> None:
    """Shuts a VM down. If the guest does not shut down within the timeout, it is powered off.

    \b
    Example:
      ostler vm stop web-1 --timeout 2m
    """
    if timeout == 0:
        raise click.UsageError("--timeout must be at least 1s; to power off at once: --force")
    request = pb.StopVmRequest(
        request_id=call.request_id, vm=vm, timeout_s=timeout or 0, force=force, validate_only=call.dry_run
    )
    finish(app, app.client.vms.StopVm(request), VIEW, pb.Vm(), call)


@command.command("resize")
@click.argument("vm", type=VM)
@click.option("--offering", type=SERVICE_OFFERING, required=True, help="Service offering that it gets.")
@operation_options()
@pass_app
def resize(app: App, vm: str, offering: str, call: CallOptions) -> None:
    """Gives a VM another service offering.

    A stopped VM has the new size when it starts. A running VM gets more CPUs and memory at once, up to the maximum of
    the offering that it started with (`ostler vm show`); for anything else, stop it first.

    \b
    Examples:
      ostler vm resize web-1 --offering large
      ostler vm resize web-1 --offering large --dry-run
    """
    request = pb.ResizeVmRequest(
        request_id=call.request_id, vm=vm, service_offering=offering, validate_only=call.dry_run
    )
    finish(app, app.client.vms.ResizeVm(request), VIEW, pb.Vm(), call)


@command.command("reboot")
@click.argument("vm", type=VM)
@click.option("--hard", is_flag=True, help="Reset at once.")
@operation_options(dry_run=False)
@pass_app
def reboot(app: App, vm: str, hard: bool, call: CallOptions) -> None:
    """Reboots a running VM.

    With --hard right after a start, the reset waits until the firmware is past its first moments: up to 3 seconds.

    \b
    Example:
      ostler vm reboot web-1
    """
    request = pb.RebootVmRequest(request_id=call.request_id, vm=vm, hard=hard)
    finish(app, app.client.vms.RebootVm(request), VIEW, pb.Vm(), call)


@command.command("migrate")
@click.argument("vm", type=VM)
@click.option("--host", type=HOST, default="", help="Destination.  [default: chosen]")
@click.option("--with-storage", is_flag=True, help="Copy disks that the destination cannot reach.")
@click.option("--pool", type=POOL, default="", help="Pool for copied disks.  [default: chosen]")
@operation_options()
@pass_app
def migrate(app: App, vm: str, host: str, with_storage: bool, pool: str, call: CallOptions) -> None:
    """Migrates a running VM to another host, live.

    \b
    Examples:
      ostler vm migrate web-1
      ostler vm migrate web-1 --host h2 --with-storage --pool local-h2
    """
    if pool and not with_storage:
        raise click.UsageError("--pool goes with --with-storage")
    request = pb.MigrateVmRequest(
        request_id=call.request_id,
        vm=vm,
        host=host,
        with_storage=with_storage,
        pool=pool,
        validate_only=call.dry_run,
    )
    finish(app, app.client.vms.MigrateVm(request), VIEW, pb.Vm(), call)


@command.command("reinstall")
@click.argument("vm", type=VM)
@click.option("--template", type=TEMPLATE, default="", help="Template.  [default: the VM's own]")
@user_data_options
@yes_option
@operation_options()
@pass_app
def reinstall(app: App, vm: str, template: str, user_data: UserDataOptions, yes: bool, call: CallOptions) -> None:
    """Replaces the root disk of a stopped VM. The old one is destroyed with its key; data disks stay.

    The guest gets the same user data again, merged with what the template links, unless you give other.

    \b
    Example:
      ostler vm reinstall web-1 --template debian-12 --yes
    """
    if not call.dry_run:
        confirm(f"Reinstall VM {vm}, and delete everything on its root disk?", yes)
    request = pb.ReinstallVmRequest(
        request_id=call.request_id,
        vm=vm,
        template=template,
        validate_only=call.dry_run,
        user_data=user_data.message(),
    )
    finish(app, app.client.vms.ReinstallVm(request), VIEW, pb.Vm(), call)


@command.command("clone")
@click.argument("vm", type=VM)
@click.argument("name")
@click.option("--copy-firmware-state", is_flag=True, help="Copy UEFI variables and the TPM's state, too.")
@operation_options()
@pass_app
def clone(app: App, vm: str, name: str, copy_firmware_state: bool, call: CallOptions) -> None:
    """Creates a stopped VM, NAME, with copies of all disks of VM.

    The copies are full, in the pools of their sources; each encrypted one has a key of its own. The clone has new MAC
    addresses, no static addresses, and the user data of VM under a new instance id. VM may run: the clone has all disks
    as of one moment, with file systems frozen if a guest agent answers, else as after a power failure.

    UEFI variables and TPM are new. With copies of them the clone opens what VM has sealed in its TPM, and can prove to
    be VM.

    \b
    Examples:
      ostler vm clone web-1 web-2
      ostler vm clone win-1 win-2 --copy-firmware-state
    """
    request = pb.CloneVmRequest(
        request_id=call.request_id,
        vm=vm,
        name=name,
        validate_only=call.dry_run,
        copy_firmware_state=copy_firmware_state,
    )
    finish(app, app.client.vms.CloneVm(request), VIEW, pb.Vm(), call)


@command.command("delete")
@click.argument("vm", type=VM)
@click.option("--force", is_flag=True, help="Power off first if it runs.")
@yes_option
@operation_options()
@pass_app
def delete(app: App, vm: str, force: bool, yes: bool, call: CallOptions) -> None:
    """Deletes a VM and its root disk. Data volumes are detached and stay.

    \b
    Example:
      ostler vm delete web-1 --yes
    """
    if not call.dry_run:
        confirm(f"Delete VM {vm} and its root disk?", yes)
    request = pb.DeleteVmRequest(request_id=call.request_id, vm=vm, force=force, validate_only=call.dry_run)
    finish(app, app.client.vms.DeleteVm(request), VIEW, pb.Vm(), call, gone=True)


@command.command("hosts")
@click.argument("vm", type=VM)
@list_options
@pass_app
def hosts(app: App, vm: str, listing: Listing) -> None:
    """Lists the hosts for a VM, best first. For the others it says why not.

    \b
    Example:
      ostler vm hosts web-1
    """
    print_list(CANDIDATES, app.client.vms.FindHosts(pb.FindHostsRequest(vm=vm)).candidates, listing)


for watching in COMMANDS:
    command.add_command(watching)
command.add_command(label_command("vm"))
command.add_command(extraconfig)
command.add_command(iso_group)
command.add_command(snapshot_group)
command.add_command(guest)
command.add_command(export)
command.add_command(adopt_command(VIEW))
command.add_command(unmanage_command(VIEW))
