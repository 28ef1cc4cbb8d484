"""The source of a migration."""

from __future__ import annotations

from collections.abc import Sequence

from ostler_common.errors import AbortedError, FailedPreconditionError, bad_field

from ostler_agent.hypervisors.base import (
    Destination,
    LiveMigration,
    MigrationLimits,
    MigrationOutcome,
    MigrationReport,
    Progress,
)
from ostler_agent.migration.destination import Endpoint
from ostler_agent.spec import VmSpec


def migrate(
    driver: LiveMigration,
    endpoint: Endpoint,
    spec: VmSpec,
    moved: Sequence[str],
    limits: MigrationLimits,
    progress: Progress,
) -> MigrationReport:
    """Migrates a running VM to the endpoint. spec: the VM as it will be on the destination.

    Raises InvalidArgumentError if the endpoint lacks a volume, and what `LiveMigration.migrate` raises: then the VM
    still runs on this host, unless its guest has stopped.
    """
    for volume_id in {disk.volume.volume_id for disk in spec.disks} | set(moved):
        if volume_id not in endpoint.volume_paths:
            raise bad_field("endpoint.volume_paths", f"has no path for volume {volume_id}")
    progress.report("connecting")
    destination = Destination(
        addresses=endpoint.addresses,
        tls_name=endpoint.tls_name,
        paths=endpoint.volume_paths,
        keys={disk.volume.volume_id: disk.volume.key.key_id for disk in spec.disks if disk.volume.key},
        bridges={nic.mac: nic.bridge for nic in spec.nics},
        moved=tuple(moved),
    )
    return driver.migrate(spec.vm_id, destination, limits, progress)


def resolve_interrupted_migration(
    driver: LiveMigration, vm_id: str, timeout_s: float, progress: Progress
) -> MigrationReport:
    """Resolves a migration that an earlier run of the agent began; waits until it ends.

    The report is empty: the statistics are lost. Raises AbortedError MIGRATION_FAILED if the VM still runs on this
    host, FailedPreconditionError VM_STOPPED if it stopped.
    """
    outcome = driver.await_migration(vm_id, timeout_s, progress)
    if outcome is MigrationOutcome.RUNNING_HERE:
        progress.check()
        raise AbortedError(f"VM {vm_id} did not migrate and still runs on this host", "MIGRATION_FAILED", {"vm": vm_id})
    if outcome is MigrationOutcome.STOPPED_HERE:
        raise FailedPreconditionError(f"VM {vm_id} stopped during its migration", "VM_STOPPED", {"vm": vm_id})
    return MigrationReport()
