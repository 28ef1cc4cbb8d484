"""The destination of a migration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, bad_field
from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Addresses, Hypervisor, Paths, live_migration, need
from ostler_agent.isos import Isos
from ostler_agent.jobs import JobContext
from ostler_agent.migration.admissions import Admissions, Source
from ostler_agent.preconditions import check_networks, check_volume
from ostler_agent.seeds import SEEDS, Seeds
from ostler_agent.spec import PowerState, Provisioning, VmInfo, VmSpec, VolumeRef


class Volumes(Protocol):
    """The part of `volumes.Volumes` that migration uses."""

    def create(self, job: JobContext, ref: VolumeRef, size_bytes: int, provisioning: Provisioning) -> object:
        """Creates an empty volume; leaves nothing behind if it raises."""

    def delete(self, job: JobContext, ref: VolumeRef) -> None:
        """Deletes a volume. Idempotent."""


@dataclass(frozen=True)
class MovedVolume:
    """A volume whose data moves with its VM. size_bytes: the source's virtual size."""

    volume_id: str
    size_bytes: int
    provisioning: Provisioning = Provisioning.THIN


@dataclass(frozen=True)
class Endpoint:
    """Where the source sends a VM; see MigrationEndpoint in job.proto."""

    addresses: Addresses
    volume_paths: Mapping[str, Path]
    tls_name: str


class IncomingMigrations:
    """Prepares this host for incoming VMs, and cleans up after failed migrations.

    address: name or address of this host as in its certificate; tls_name: name in the certificate of its QEMU.
    """

    def __init__(
        self,
        driver: Hypervisor,
        volumes: Volumes,
        paths: Paths,
        address: str,
        tls_name: str,
        admissions: Admissions,
        isos: Isos,
        seeds: Seeds = SEEDS,
    ) -> None:
        self._driver = driver
        self._volumes = volumes
        self._paths = paths
        self._address = f"[{address}]" if ":" in address else address
        self._tls_name = tls_name
        self._admissions = admissions
        self._isos = isos
        self._seeds = seeds

    def prepare(self, spec: VmSpec, moved: Sequence[MovedVolume], source: Source, job: JobContext) -> Endpoint:
        """Creates what the VM needs on this host: keys and target volumes; then admits the source to the hypervisor.

        Undoes its changes if it raises.

        Raises what `check_volume` and `check_networks` raise; FailedPreconditionError VM_RUNNING; AlreadyExistsError
        TARGET_EXISTS; InvalidArgumentError KEY_MISSING.
        """
        mover = live_migration(self._driver)
        volumes = {disk.volume.volume_id: disk.volume for disk in spec.disks}
        targets = {target.volume_id: target for target in moved}
        if unknown := targets.keys() - volumes.keys():
            raise bad_field("moved_volumes", f"volume {', '.join(sorted(unknown))} is not among the VM's disks")
        if self._driver.running(spec.vm_id):
            raise FailedPreconditionError(f"VM {spec.vm_id} already runs on this host", "VM_RUNNING")
        if spec.seed is not None:
            need(self._driver, Function.USER_DATA)
        if spec.cdroms:
            need(self._driver, Function.ISO)
        if spec.tpm_key is not None:
            need(self._driver, Function.TPM)
        check_networks(spec.nics)
        paths = {volume_id: self._paths(volume) for volume_id, volume in volumes.items()}
        for volume_id, path in paths.items():
            if volume_id in targets:
                _check_target(volume_id, path)
            else:
                check_volume(volumes[volume_id], path)
        # Under the same path as on the source. It may be evicted before the VM arrives, only if the disk is that full.
        with self._isos.hold(spec, job), ExitStack() as undo:
            keys = spec.keys
            undo.callback(self._admissions.remove, spec.vm_id)
            undo.callback(mover.remove_keys, spec.vm_id, [key.key_id for key in keys])
            mover.install_keys(spec.vm_id, keys)
            undo.callback(self._seeds.delete, spec.vm_id)
            self._seeds.place(spec)
            for volume_id, target in targets.items():
                job.check()
                undo.callback(self._discard, volumes[volume_id], job)
                self._discard(volumes[volume_id], job)
                _marker(paths[volume_id]).touch(mode=0o600)
                self._volumes.create(job, volumes[volume_id], target.size_bytes, target.provisioning)
                paths[volume_id] = self._paths(volumes[volume_id])  # maps a device for its VM
            self._admissions.admit(spec.vm_id, source)
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
        """Finishes a migration: ends the source's admission; keeps what a VM that arrived needs, or removes what was
        prepared.

        Removes only volumes that a `prepare` created. Never affects a running VM: raises FailedPreconditionError
        VM_NOT_HERE if a VM that arrived does not run here, VM_RUNNING if one that did not arrive does.
        """
        self._admissions.remove(vm_id)
        info = self._driver.vm(vm_id)
        here = info.power_state in (PowerState.RUNNING, PowerState.PAUSED)
        if arrived and not here:
            raise FailedPreconditionError(f"VM {vm_id} does not run on this host", "VM_NOT_HERE", {"vm": vm_id})
        if here and not arrived:
            raise FailedPreconditionError(
                f"VM {vm_id} runs on this host, so nothing is removed (did the migration succeed after all?)",
                "VM_RUNNING",
                {"vm": vm_id},
            )
        if not arrived:
            live_migration(self._driver).remove_keys(vm_id, key_ids)
            self._seeds.delete(vm_id)
        for volume in moved:
            if not arrived:
                self._discard(volume, job)
            _marker(self._paths(volume)).unlink(missing_ok=True)
        return self._driver.vm(vm_id)

    def undo_interrupted_prepare(self, spec: VmSpec, moved: Sequence[MovedVolume]) -> None:
        """Undoes an interrupted `prepare`, unless the VM has arrived."""
        self._admissions.remove(spec.vm_id)
        if self._driver.running(spec.vm_id):
            return
        self._seeds.delete(spec.vm_id)
        volumes = {disk.volume.volume_id: disk.volume for disk in spec.disks}
        for target in moved:
            self._discard(volumes[target.volume_id], JobContext("undo-prepare"))

    def _discard(self, volume: VolumeRef, job: JobContext) -> None:
        """Deletes a target that a `prepare` created. Never deletes a file without a marker: it may be data."""
        marker = _marker(self._paths(volume))
        if marker.exists():
            self._volumes.delete(job, volume)
            marker.unlink(missing_ok=True)


def _marker(path: Path) -> Path:
    """The file that marks a volume as the target of a migration; created before the volume."""
    return path.with_name(f".{path.name}.incoming")


def _check_target(volume_id: str, path: Path) -> None:
    if path.exists() and not _marker(path).exists():
        raise AlreadyExistsError(
            f"volume {volume_id} already exists on this host: its data cannot move here (is the pool shared?)",
            "TARGET_EXISTS",
            {"volume": volume_id, "path": str(path)},
        )
