"""What can be done to a VM."""

from __future__ import annotations

from google.longrunning.operations_pb2 import Operation
from ostler.control.v1 import vm_pb2 as pb
from ostler.control.v1.backup_pb2 import CreateBackupRequest
from ostler.control.v1.vm_snapshot_pb2 import CreateVmSnapshotRequest
from ostler.types.v1 import vm_pb2 as types
from ostler_common.errors import InvalidArgumentError, bad_field

from ostler_control.cli import text
from ostler_control.cli.app import App
from ostler_control.cli.firmware import FIRMWARES, firmware_of
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.forms import Call, Option
from ostler_control.web.labels import label_action
from ostler_control.web.pages import backup_schedules, isos

_RUNNING, _STOPPED = frozenset({"running"}), frozenset({"stopped"})
_HOST = Option("host", "Host (empty: chosen)")


def target_of(vm: pb.Vm) -> Target:
    """A VM as what actions are for."""
    traits = frozenset({"iso"} if vm.cdroms else ())
    return Target(vm.id, vm.name, "VM", text.enum_of(vm, "state"), "/vms", tables.path("vms", vm.id), traits)


def _find(app: App, vm: str) -> Target:
    return target_of(app.client.vms.GetVm(pb.GetVmRequest(vm=vm)))


def _start(app: App, call: Call) -> Operation:
    return app.client.vms.StartVm(pb.StartVmRequest(request_id=call.request_id, vm=call.target, host=call.text("host")))


def _stop(app: App, call: Call) -> Operation:
    return app.client.vms.StopVm(pb.StopVmRequest(request_id=call.request_id, vm=call.target))


def _force_off(app: App, call: Call) -> Operation:
    return app.client.vms.StopVm(pb.StopVmRequest(request_id=call.request_id, vm=call.target, force=True))


def _reboot(app: App, call: Call) -> Operation:
    return app.client.vms.RebootVm(
        pb.RebootVmRequest(request_id=call.request_id, vm=call.target, hard=call.flag("hard"))
    )


def _migrate(app: App, call: Call) -> Operation:
    return app.client.vms.MigrateVm(
        pb.MigrateVmRequest(
            request_id=call.request_id,
            vm=call.target,
            host=call.text("host"),
            with_storage=call.flag("with-storage"),
            pool=call.text("pool"),
        )
    )


def _resize(app: App, call: Call) -> Operation:
    return app.client.vms.ResizeVm(
        pb.ResizeVmRequest(request_id=call.request_id, vm=call.target, service_offering=call.text("offering"))
    )


def _set_firmware(app: App, call: Call) -> Operation:
    firmware, tpm, no_tpm = call.text("firmware"), call.flag("tpm"), call.flag("no-tpm")
    if firmware and firmware not in FIRMWARES:
        raise bad_field("firmware", f"must be one of {', '.join(FIRMWARES)}")
    if tpm and no_tpm:
        raise InvalidArgumentError("choose one of a TPM and none", "CONFLICTING_FIELDS")
    if not (firmware or tpm or no_tpm):
        raise bad_field("firmware", "is required, or a TPM or none: nothing would change", "REQUIRED")
    return app.client.vms.SetFirmware(
        pb.SetFirmwareRequest(
            request_id=call.request_id,
            vm=call.target,
            firmware=firmware_of(firmware) if firmware else types.FIRMWARE_UNSPECIFIED,
            tpm=tpm if tpm or no_tpm else None,
        )
    )


def _snapshot(app: App, call: Call) -> Operation:
    return app.client.vm_snapshots.CreateVmSnapshot(
        CreateVmSnapshotRequest(
            request_id=call.request_id, vm=call.target, name=call.text("name"), memory=call.flag("memory")
        )
    )


def _backup(app: App, call: Call) -> Operation:
    return app.client.backups.CreateBackup(
        CreateBackupRequest(
            request_id=call.request_id, vm=call.target, name=call.text("name"), store=call.text("store")
        )
    )


def _delete(app: App, call: Call) -> Operation:
    return app.client.vms.DeleteVm(
        pb.DeleteVmRequest(request_id=call.request_id, vm=call.target, force=call.flag("force"))
    )


ACTIONS = Actions(
    "/vms",
    _find,
    (
        Action("start", ("vm", "start"), "Start", "Start VM {name}?", _start, _STOPPED, (_HOST,)),
        Action(
            "stop",
            ("vm", "stop"),
            "Stop",
            "Shut VM {name} down? A guest that does not shut down in time is powered off.",
            _stop,
            _RUNNING,
        ),
        Action(
            "reboot",
            ("vm", "reboot"),
            "Reboot",
            "Reboot VM {name}?",
            _reboot,
            _RUNNING,
            (Option("hard", "Reset at once, without asking the guest", is_flag=True),),
        ),
        Action(
            "migrate",
            ("vm", "migrate"),
            "Migrate",
            "Migrate VM {name} to another host while it runs?",
            _migrate,
            _RUNNING,
            (
                _HOST,
                Option("with-storage", "Copy disks that the destination cannot reach", is_flag=True),
                Option("pool", "Pool for copied disks (empty: chosen)"),
            ),
            admins=True,
        ),
        Action(
            "resize",
            ("vm", "resize"),
            "Resize",
            "Give VM {name} another service offering? While it runs it can only get more, up to its maximum.",
            _resize,
            _RUNNING | _STOPPED,
            (Option("offering", "Service offering", is_required=True),),
        ),
        Action(
            "set-firmware",
            ("vm", "set-firmware"),
            "Set firmware",
            "Change firmware and TPM of VM {name}? Another firmware has new UEFI variables, without the boot entries "
            "of the old. What the guest has sealed in a TPM that is destroyed never opens again.",
            _set_firmware,
            _STOPPED,
            (
                Option("firmware", "Firmware (empty: as it is)", suggestions=FIRMWARES),
                Option("tpm", "Give it an emulated TPM 2.0", is_flag=True),
                Option("no-tpm", "Destroy its TPM", is_flag=True),
            ),
            fixed=("--yes",),
            is_dangerous=True,
        ),
        Action(
            "snapshot",
            ("vm", "snapshot", "create"),
            "Take a snapshot",
            "Take a snapshot of all disks of VM {name} as of one moment? Its guest goes on meanwhile.",
            _snapshot,
            _RUNNING | _STOPPED,
            (
                Option("name", "Name (empty: the VM's and the time)"),
                Option("memory", "With its memory, encrypted: a running guest stands still meanwhile", is_flag=True),
            ),
        ),
        Action(
            "backup",
            ("backup", "create"),
            "Back up",
            "Back up all disks of VM {name} as of one moment? Its guest goes on meanwhile.",
            _backup,
            _RUNNING | _STOPPED,
            (
                Option("name", "Name (empty: the VM's and the time)"),
                Option("store", "Store (empty: the one with the most room)"),
            ),
        ),
        backup_schedules.CREATE,
        *isos.VM_ACTIONS,
        label_action("vm", "VM"),
        Action(
            "force-off",
            ("vm", "stop"),
            "Force off",
            "Power VM {name} off at once? Its guest loses what it has not written.",
            _force_off,
            _RUNNING,
            fixed=("--force",),
            is_dangerous=True,
        ),
        Action(
            "delete",
            ("vm", "delete"),
            "Delete",
            "Delete VM {name} and its root disk? Data volumes are detached and stay.",
            _delete,
            _RUNNING | _STOPPED | frozenset({"failed"}),
            (Option("force", "Power it off first", is_flag=True),),
            fixed=("--yes",),
            is_dangerous=True,
        ),
    ),
)
