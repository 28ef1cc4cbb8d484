"""What a warm import does to its source, and how all of it is undone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError

from ostler_control.database import session, transaction
from ostler_control.imports import sources
from ostler_control.imports.record import ImportInputs
from ostler_control.models import ImportSource, VmImport, WarmImport
from ostler_control.operations import Run
from ostler_control.vmware.changed_blocks import create_snapshot, delete_snapshots, set_tracking, snapshot_disks
from ostler_control.vmware.connection import Connection
from ostler_control.vmware.inventory import Disk, SourceVm
from ostler_control.vmware.power import restart, shut_down
from ostler_control.vmware.tasks import Check


@contextlib.contextmanager
def connected(run: Run, inputs: ImportInputs) -> Iterator[Connection]:
    """A session on the import's source."""
    with session():
        source = ImportSource.get_by_id(inputs.source_id)
    with sources.connect(source, run.keys) as connection:
        yield connection


@dataclass(frozen=True)
class Snapshot:
    """The import's snapshot, and the disks as it has them."""

    ref: str
    disks: tuple[Disk, ...]


@contextlib.contextmanager
def frozen(run: Run, inputs: ImportInputs, connection: Connection) -> Iterator[Snapshot]:
    """A snapshot of the source while the block lasts; one that an earlier attempt left is removed first.

    Raises FailedPreconditionError CHANGE_TRACKING_OFF when it tells no changes.
    """

    def undisturbed() -> None:
        """Removing goes on when the operation is to be cancelled; only the end of this process stops it."""
        run.pause(0)

    delete_snapshots(connection, inputs.source_ref, run.id, undisturbed)
    try:
        yield _snapshot(run, inputs, connection)
    except Exception:
        with contextlib.suppress(Exception):  # the undoing tries again, and says so when it cannot
            delete_snapshots(connection, inputs.source_ref, run.id, undisturbed)
        raise
    delete_snapshots(connection, inputs.source_ref, run.id, undisturbed)


def _snapshot(run: Run, inputs: ImportInputs, connection: Connection) -> Snapshot:
    """The first snapshot after tracking was turned on only makes it begin."""
    for _ in range(2):
        ref = create_snapshot(connection, inputs.source_ref, run.id, run.check)
        disks = snapshot_disks(connection, ref)
        if all(disk.change_id for disk in disks):
            return Snapshot(ref, disks)
        delete_snapshots(connection, inputs.source_ref, run.id, run.check)
    raise FailedPreconditionError(
        "vCenter tracks no changes of the VM's disks although that was turned on; import it without --warm",
        "CHANGE_TRACKING_OFF",
    )


def start_tracking(run: Run, inputs: ImportInputs, vm: SourceVm) -> None:
    """Inside a step: turns tracking on; recorded first, so that it is turned off again whatever happens."""
    if vm.change_tracking:
        return
    with transaction():
        WarmImport.update(enabled_tracking=True).where(WarmImport.vm_import == run.id).execute()
    with connected(run, inputs) as connection:
        set_tracking(connection, inputs.source_ref, run.check, enabled=True)


def shut_down_source(run: Run, inputs: ImportInputs) -> None:
    """Inside a step: shuts the guest down; recorded first, so that it is started again when the import fails."""

    def record() -> None:
        with transaction():
            WarmImport.update(shut_down=True).where(WarmImport.vm_import == run.id).execute()

    run.phase("shutting down the guest", 70)
    with connected(run, inputs) as connection:
        shut_down(connection, inputs.source_ref, run.check, before_request=record)


def release_source(run: Run, inputs: ImportInputs) -> None:
    """Inside a step: see `restore`."""
    run.phase("restoring the source", 0)
    with connected(run, inputs) as connection:
        restore(connection, run.id, lambda: run.pause(0))


def restore(connection: Connection, import_id: str, check: Check) -> None:
    """Makes a source as it was before its warm import, and starts it if the import shut it down and did not succeed.

    Idempotent. Raises an OstlerError.
    """
    with session():
        row = VmImport.get_or_none(VmImport.id == import_id)
        warm = WarmImport.get_or_none(WarmImport.vm_import == import_id)
    if row is None or warm is None:
        return
    if warm.shut_down:  # first: everything else can wait
        restart(connection, row.source_ref, check)
    delete_snapshots(connection, row.source_ref, import_id, check)
    if warm.enabled_tracking:
        set_tracking(connection, row.source_ref, check, enabled=False)
