"""Booting a VM from a backup, without a network, to see that its guest comes up. Nothing of it stays.

The VM is an ordinary one of the backup's account while that lasts: restored, started and deleted by operations of its
own. Whoever carries this out may die at any line: the next one finds those operations and goes on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError, bad_field
from ostler_common.guest_info import clean_text

from ostler_control import vms
from ostler_control.agents import Agent
from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address
from ostler_control.models import Backup, BackupBoot, Operation, Vm, VmState, Volume
from ostler_control.operations import Run, read_inputs, record_operation, workflow
from ostler_control.states import OFF_POWER_STATES
from ostler_control.vm_backups import children
from ostler_control.vm_backups.restore_vm import NewVmRestore, VmRestoreInputs, record_restore
from ostler_control.vm_backups.rows import load, lock_ready
from ostler_control.vms import guest
from ostler_control.volumes.delete import delete as delete_volume
from ostler_control.volumes.rows import running_host

DEFAULT_TIMEOUT_S = 300
MAX_TIMEOUT_S = 3600
DEFAULT_TEXT = "login:"
MAX_TEXT = 200
_LOG_LINES, _LOG_DEADLINE_S, _MAX_LOG_BYTES = 200, 15.0, 1 << 20
_PAUSE_S = 2.0
_TRIES = 3
_SHOWN = 200


@dataclass(frozen=True)
class BootInputs:
    """name: the VM's, while it is there; timeout_s: how long its guest may take; text: on its console once it is up."""

    name: str
    timeout_s: int
    text: str


def boot(backup: Backup, user: str, timeout_s: int = 0, text: str = "") -> Operation:
    """Records the operation that boots a VM from a backup. It fails with BACKUP_DOES_NOT_BOOT if no guest comes up.

    timeout_s, text: 0 and "" for the defaults. Raises InvalidArgumentError INVALID_FIELD; AbortedError RESOURCE_BUSY;
    FailedPreconditionError BACKUP_STATE.
    """
    if not 0 <= timeout_s <= MAX_TIMEOUT_S:
        raise bad_field("boot_timeout_s", f"must be 1 to {MAX_TIMEOUT_S}, or 0 for {DEFAULT_TIMEOUT_S}")
    if len(text) > MAX_TEXT or not text.isprintable():
        raise bad_field("console_text", f"must be at most {MAX_TEXT} printable characters")
    backup = lock_ready(backup)
    inputs = BootInputs(f"boot-test-{backup.id[:13]}", timeout_s or DEFAULT_TIMEOUT_S, text or DEFAULT_TEXT)
    return record_operation("backup.boot", backup, user, inputs)


@workflow("backup.boot")
def _boot(run: Run) -> None:
    inputs = run.read(BootInputs)
    with run.undoing() as undo:
        undo.push("discard", lambda: _discard(run))
        vm_id: str = run.step("restore", lambda: _restore(run, inputs))
        run.step("start", lambda: _start(run, vm_id))
        sign, error = run.step("wait", lambda: _wait(run, vm_id, inputs))
        undo.clear()
    run.always("record", lambda: _record(run, sign, error))
    run.always("delete-vm", lambda: _discard(run))
    if error:
        raise FailedPreconditionError(
            f"the backup does not boot: {error}", "BACKUP_DOES_NOT_BOOT", {"backup": run.resource_id}
        )


def _restore(run: Run, inputs: BootInputs) -> str:
    run.phase("restoring the backup to a VM", 1)

    def record(operation_id: str) -> Operation:
        wanted = NewVmRestore(load(run.resource_id), inputs.name, without_nics=True)
        return record_restore(wanted, run.user, run.keys, operation_id=operation_id)

    return children.carry_out(run, "restore", record).resource_id


def _start(run: Run, vm_id: str) -> None:
    run.phase("starting the VM", 60)

    def record(operation_id: str) -> Operation:
        return vms.start(Vm.get_by_id(vm_id), run.user, operation_id=operation_id)

    children.carry_out(run, "start", record)


def _wait(run: Run, vm_id: str, inputs: BootInputs) -> tuple[str, str]:
    """By what the guest showed that it is up, or what went wrong."""
    run.phase("waiting for the guest", 80)
    end = time.monotonic() + inputs.timeout_s
    while True:
        run.check()
        with session():
            vm = Vm.get_by_id(vm_id)
        if vm.state in (VmState.RUNNING, VmState.STOPPED) and vm.power_state in OFF_POWER_STATES:
            return "", "the VM stopped by itself"
        try:
            guest.guest_info(run.agents, vm)
            return "guest agent", ""
        except OstlerError:  # not yet, or there is none
            log = _console_log(run, vm)
        if inputs.text in log:
            return "console", ""
        if time.monotonic() > end:
            lines = [line for line in log.splitlines() if line.strip()] or ["nothing"]
            what = f'no guest agent answered and the console did not show "{inputs.text}" within {inputs.timeout_s} s'
            return "", f"{what}; its last line is: {lines[-1][:_SHOWN]}"
        run.pause(_PAUSE_S)


def _console_log(run: Run, vm: Vm) -> str:
    """The end of what the guest printed; "" while there is nothing."""
    request = agent_pb2.ReadConsoleLogRequest(vm_id=vm.id, lines=_LOG_LINES)
    try:
        with session():
            host = running_host(vm)
        data = run.agents.call(address(host), _read_log, request, _LOG_DEADLINE_S) if host is not None else b""
    except OstlerError:
        return ""
    return "\n".join(clean_text(line) for line in data.decode(errors="replace").splitlines())


def _read_log(agent: Agent) -> partial[bytes]:
    return partial(_all_of, agent)


def _all_of(agent: Agent, request: agent_pb2.ReadConsoleLogRequest, timeout: float) -> bytes:
    data = b""
    for output in agent.vms.ReadConsoleLog(request, timeout=timeout):
        data = (data + output.data)[-_MAX_LOG_BYTES:]
    return data


def _record(run: Run, sign: str, error: str) -> None:
    with transaction():
        BackupBoot.delete().where(BackupBoot.backup == run.resource_id).execute()
        BackupBoot.create(backup=run.resource_id, sign=sign, error=error)


def _discard(run: Run) -> None:
    """Deletes the VM and its disks, whatever is left of them. Raises FailedPreconditionError BOOT_TEST_LEFT."""
    restore_id = children.operation_id_of(run, "restore")
    with session():
        restore = Operation.get_or_none(Operation.id == restore_id)
    if restore is None:
        return
    _until_over(run, restore_id)
    volume_ids = read_inputs(VmRestoreInputs, restore).volumes
    last: OstlerError | None = None
    for number in range(_TRIES):
        try:
            _delete(run, restore.resource_id, volume_ids, number)
            return
        except OstlerError as error:
            last = error
            run.pause(_PAUSE_S)
    raise FailedPreconditionError(
        f"VM {restore.resource_name}, which tested the backup, could not be deleted: {last}; delete it and its volumes",
        "BOOT_TEST_LEFT",
        {"vm": restore.resource_id},
    )


def _until_over(run: Run, operation_id: str) -> None:
    """Waits for an operation, however it ends."""
    try:
        children.wait(run, operation_id)
    except OstlerError:
        return


def _delete(run: Run, vm_id: str, volume_ids: tuple[str, ...], number: int) -> None:
    with session():
        vm = Vm.get_or_none(Vm.id == vm_id)
    if vm is not None:
        if vm.operation_id:  # it is being started, or deleted by somebody else
            _until_over(run, vm.operation_id)
        children.carry_out(
            run,
            f"delete-{number}",
            lambda operation_id: vms.delete(vm, run.user, force=True, operation_id=operation_id),
        )
    for volume_id in volume_ids:
        with session():
            volume = Volume.get_or_none(Volume.id == volume_id)
        if volume is not None:
            name = f"delete-{number}-{volume_id}"
            children.carry_out(run, name, partial(_delete_volume, volume, run.user))


def _delete_volume(volume: Volume, user: str, operation_id: str) -> Operation:
    return delete_volume(volume, user, operation_id=operation_id)
