"""The side that a VM moves to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, bad_field

from ostler_agent.hypervisors.base import Addresses, Hypervisor, Paths, live_migration
from ostler_agent.jobs import JobContext
from ostler_agent.preconditions import check_bridges, check_volume_file
from ostler_agent.spec import PowerState, Provisioning, VmInfo, VmSpec, VolumeRef


class Volumes(Protocol):
    """What migration needs of `volumes.Volumes`."""

    def create(self, job: JobContext, ref: VolumeRef, size_bytes: int, provisioning: Provisioning) -> object:
        """Makes an empty volume; leaves no file when it raises."""

    def delete(self, job: JobContext, ref: VolumeRef) -> None:
        """Deletes a volume; one that is not there is a success."""


@dataclass(frozen=True)
class MovedVolume:
    """A volume whose data moves with its VM. size_bytes: the source's virtual size."""

    volume_id: str
    size_bytes: int
    provisioning: Provisioning = Provisioning.THIN


@dataclass(frozen=True)
class Endpoint:
    """Where a source sends a VM; see MigrationEndpoint in job.proto."""

    addresses: Addresses
    volume_paths: Mapping[str, Path]
    tls_name: str


class IncomingMigrations:
    """Makes this host ready for VMs to come, and cleans up after those that did not.

    address: what other hosts reach this one by, as its certificate names it; tls_name: what QEMU's certificate names.
    """

    def __init__(self, driver: Hypervisor, volumes: Volumes, paths: Paths, address: str, tls_name: str) -> None:
        self._driver = driver
        self._volumes = volumes
        self._paths = paths
        self._address = f"[{address}]" if ":" in address else address
        self._tls_name = tls_name

    def prepare(self, spec: VmSpec, moved: Sequence[MovedVolume], job: JobContext) -> Endpoint:
        """Puts in place what the VM needs here. What was made is gone again when it raises.

        Raises FailedPreconditionError VM_RUNNING, BRIDGE_MISSING, VOLUME_MISSING; AlreadyExistsError TARGET_EXISTS;
        InvalidArgumentError KEY_MISSING.
        """
        mover = live_migration(self._driver)
        volumes = {disk.volume.volume_id: disk.volume for disk in spec.disks}
        targets = {target.volume_id: target for target in moved}
        if unknown := targets.keys() - volumes.keys():
            raise bad_field("moved_volumes", f"volume {', '.join(sorted(unknown))} is not among the VM's disks")
        if self._driver.running(spec.vm_id):
            raise FailedPreconditionError(f"VM {spec.vm_id} runs on this host already", "VM_RUNNING")
        check_bridges(spec.nics)
        paths = {volume_id: self._paths(volume) for volume_id, volume in volumes.items()}
        for volume_id, path in paths.items():
            if volume_id in targets:
                _check_target(volume_id, path)
            else:
                check_volume_file(volume_id, path)
        with ExitStack() as undo:
            keys = [volume.key for volume in volumes.values() if volume.key]
            undo.callback(mover.remove_keys, spec.vm_id, [key.key_id for key in keys])
            mover.install_keys(spec.vm_id, keys)
            for volume_id, target in targets.items():
                job.check()
                undo.callback(self._discard, volumes[volume_id], job)
                self._discard(volumes[volume_id], job)
                _mark(paths[volume_id]).touch(mode=0o600)
                self._volumes.create(job, volumes[volume_id], target.size_bytes, target.provisioning)
                paths[volume_id] = self._paths(volumes[volume_id])  # a device is mapped for its VM only now
            undo.pop_all()
        addresses = mover.addresses(self._address)
        return Endpoint(
            addresses=addresses if targets else replace(addresses, disks_uri=""),
            volume_paths=paths,
            tls_name=self._tls_name,
        )

    def finish(
        self, vm_id: str, arrived: bool, key_ids: Sequence[str], moved: Sequence[VolumeRef], job: JobContext
    ) -> VmInfo:
        """Ends a move: keeps what a VM that arrived needs, removes what was prepared for one that did not.

        Only volumes that a `prepare` made here are removed. Raises FailedPreconditionError VM_NOT_HERE when one that
        arrived does not run here, VM_RUNNING when one that did not arrive does: a running VM is never touched.
        """
        info = self._driver.vm(vm_id)
        here = info.power_state in (PowerState.RUNNING, PowerState.PAUSED)
        if arrived and not here:
            raise FailedPreconditionError(f"VM {vm_id} does not run on this host", "VM_NOT_HERE", {"vm": vm_id})
        if here and not arrived:
            raise FailedPreconditionError(
                f"VM {vm_id} runs on this host: what it needs stays (did the move succeed after all?)",
                "VM_RUNNING",
                {"vm": vm_id},
            )
        if not arrived:
            live_migration(self._driver).remove_keys(vm_id, key_ids)
        for volume in moved:
            if not arrived:
                self._discard(volume, job)
            _mark(self._paths(volume)).unlink(missing_ok=True)
        return self._driver.vm(vm_id)

    def undo_interrupted_prepare(self, spec: VmSpec, moved: Sequence[MovedVolume]) -> None:
        """Undoes a `prepare` that the agent's end cut short, unless the VM has come meanwhile."""
        if self._driver.running(spec.vm_id):
            return
        volumes = {disk.volume.volume_id: disk.volume for disk in spec.disks}
        for target in moved:
            self._discard(volumes[target.volume_id], JobContext("settle"))

    def _discard(self, volume: VolumeRef, job: JobContext) -> None:
        """Deletes a target that a `prepare` made; a file without its mark is somebody's data and is left alone."""
        mark = _mark(self._paths(volume))
        if mark.exists():
            self._volumes.delete(job, volume)
            mark.unlink(missing_ok=True)


def _mark(path: Path) -> Path:
    """The file that says that a volume was made for a VM to come; it is there before the volume is."""
    return path.with_name(f".{path.name}.incoming")


def _check_target(volume_id: str, path: Path) -> None:
    if path.exists() and not _mark(path).exists():
        raise AlreadyExistsError(
            f"volume {volume_id} is on this host already: its data cannot move here (is the pool shared?)",
            "TARGET_EXISTS",
            {"volume": volume_id, "path": str(path)},
        )
