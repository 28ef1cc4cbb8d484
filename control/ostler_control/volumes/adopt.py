"""Adoption: an image that lies in a pool becomes a volume. Its content is not touched, and it is never deleted here.

A host inspects the file before its row is inserted, so that what cannot be adopted is refused at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ostler.agent.v1 import volume_pb2
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common.errors import FailedPreconditionError, bad_field
from ostler_common.secret import Secret
from ostler_common.units import format_size

from ostler_control.agents import Agents
from ostler_control.catalog.names import check_name
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.database import session, transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address, address_of
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import (
    Account,
    BackupDisk,
    DiskOffering,
    Operation,
    Pool,
    Snapshot,
    VmSnapshotMemory,
    Volume,
    VolumeFile,
    new_id,
)
from ostler_control.operations import Run, Undo, record_operation, workflow
from ostler_control.states import VolumeState
from ostler_control.volumes import host_jobs, wire
from ostler_control.volumes.new_volume import check_free_name
from ostler_control.volumes.rows import load, load_or_none

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_INSPECT_S = 60.0


@dataclass(frozen=True)
class AdoptInputs:
    """file_name: as the file is called before."""

    file_name: str


@dataclass(frozen=True)
class NewAdoption:
    """An image to adopt. format: qcow2 | raw; passphrase: opens it, None for a plain one; offering: None for none."""

    name: str
    account: Account
    pool: Pool
    file_name: str
    format: str
    offering: DiskOffering | None = None
    passphrase: Secret | None = None


def inspect_file(wanted: NewAdoption, agents: Agents) -> types_pb2.VolumeInfo:
    """Makes a host inspect the file: call it outside of transactions.

    Raises InvalidArgumentError, FailedPreconditionError VOLUME_KNOWN, and what the host finds wrong with the file.
    """
    check_name("name", wanted.name)
    if wanted.format not in wire.FORMATS:
        raise bad_field("format", f"must be {' or '.join(wire.FORMATS)}", "INVALID_FORMAT")
    if not _FILE_NAME.fullmatch(wanted.file_name):
        raise bad_field("file_name", "must be a file's name in the pool's directory, without a path", "INVALID_NAME")
    request = volume_pb2.InspectFileRequest(
        pool_id=wanted.pool.id, file_name=wanted.file_name, format=wire.FORMATS[wanted.format]
    )
    if wanted.passphrase:
        request.key.CopyFrom(types_pb2.VolumeKey(key_id=new_id(), passphrase=wanted.passphrase.reveal()))
    with session():
        check_unknown(wanted.pool, wanted.file_name)
        host = address(choose_host(wanted.pool, wanted.passphrase is not None, agents.busy))
    return agents.call(host, lambda agent: agent.volumes.InspectFile, request, _INSPECT_S)


def check_unknown(pool: Pool, file_name: str) -> None:
    """Raises FailedPreconditionError VOLUME_KNOWN for a file that is one of the fleet's already."""
    known = (
        Volume.select().where((Volume.file_id == file_name) & (Volume.pool == pool)).exists()
        or VolumeFile.select().where((VolumeFile.id == file_name) & (VolumeFile.pool == pool)).exists()
        or BackupDisk.select().where((BackupDisk.id == file_name) & (BackupDisk.pool == pool)).exists()
        or Snapshot.select().where((Snapshot.id == file_name) & (Snapshot.pool == pool)).exists()
        or VmSnapshotMemory.select()
        .where((VmSnapshotMemory.id == file_name) & (VmSnapshotMemory.pool == pool))
        .exists()
    )
    if known:
        raise FailedPreconditionError(
            f"{file_name} in pool {pool.name} belongs to a volume or a snapshot already", "VOLUME_KNOWN"
        )


def adopt(wanted: NewAdoption, found: types_pb2.VolumeInfo, user: str, keys: Keyring) -> Operation:
    """Records the volume and the operation that adopts an inspected file.

    Raises AlreadyExistsError VOLUME_EXISTS; ResourceExhaustedError QUOTA_EXCEEDED; FailedPreconditionError:
    VOLUME_KNOWN, ENCRYPTION_MISMATCH, FORMAT_MISMATCH; InvalidArgumentError INVALID_SIZE when the offering has another
    size.
    """
    check_free_name(wanted.account, wanted.name)
    check_unknown(wanted.pool, wanted.file_name)
    _check_offering(wanted, found.virtual_size_bytes)
    check_quota(wanted.account.id, Resources(volumes=1, storage_bytes=found.virtual_size_bytes))
    volume_id = new_id()
    volume = Volume.create(
        id=volume_id,
        name=wanted.name,
        account=wanted.account,
        pool=wanted.pool,
        disk_offering=wanted.offering,
        passphrase=keys.store(wanted.passphrase, volume_id) if wanted.passphrase else None,
        size_bytes=found.virtual_size_bytes,
        format=wanted.format,
        provisioning=wanted.offering.provisioning if wanted.offering else "thin",
    )
    return record_operation("volume.adopt", volume, user, AdoptInputs(wanted.file_name))


def _check_offering(wanted: NewAdoption, size_bytes: int) -> None:
    offering = wanted.offering
    if offering is None:
        return
    if offering.encrypt != (wanted.passphrase is not None):
        kind = "encrypted" if wanted.passphrase else "not encrypted"
        raise FailedPreconditionError(
            f"the file is {kind}, unlike volumes of disk offering {offering.name}", "ENCRYPTION_MISMATCH"
        )
    if offering.format != wanted.format:
        raise FailedPreconditionError(
            f"the file is {wanted.format}, and volumes of disk offering {offering.name} are {offering.format}",
            "FORMAT_MISMATCH",
        )
    if offering.size_bytes not in (0, size_bytes):
        raise bad_field(
            "disk_offering",
            f"{offering.name} has volumes of {format_size(offering.size_bytes)}, and the disk in the file has "
            f"{format_size(size_bytes)}",
            "INVALID_SIZE",
        )


@workflow("volume.adopt")
def _adopt(run: Run) -> None:
    inputs = run.read(AdoptInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        host_id: str = run.step("choose", lambda: host_jobs.choose_for(run, load(run.resource_id)))
        undo.push("release", lambda: _release(run, host_id, inputs))
        run.step("adopt", lambda: _adopt_on(run, host_id, inputs))


def _adopt_on(run: Run, host_id: str, inputs: AdoptInputs) -> None:
    volume = load(run.resource_id)
    request = volume_pb2.AdoptVolumeRequest(
        operation=run.ref(), volume=wire.keyed_ref(volume, run.keys), file_name=inputs.file_name
    )
    update = run.job(address_of(host_id), lambda agent: agent.volumes.AdoptVolume, request)
    found = wire.encrypt_format(volume, update.volume)
    with transaction():
        Volume.update(
            state=VolumeState.READY,
            state_reason="",
            encrypt_format=found,
            size_bytes=update.volume.virtual_size_bytes,
        ).where(Volume.id == volume.id).execute()


def _release(run: Run, host_id: str, inputs: AdoptInputs) -> None:
    volume = load_or_none(run.resource_id)
    if volume is None:
        return
    request = volume_pb2.ReleaseVolumeRequest(
        operation=run.ref(), volume=wire.plain_ref(volume), file_name=inputs.file_name
    )
    run.job(address_of(host_id), lambda agent: agent.volumes.ReleaseVolume, request)


def _record_failure(run: Run, undo: Undo) -> None:
    """The row goes once the file has its own name again; else it stays, so that nobody loses sight of the file."""
    with transaction():
        volume = Volume.get_or_none(Volume.id == run.resource_id)
        if volume is None:
            return
        if undo.failed("release"):
            reason = f"not adopted, and the file may be named {volume.file_id} now: {undo.error}"
            Volume.update(state=VolumeState.FAILED, state_reason=reason).where(Volume.id == volume.id).execute()
        else:
            delete_volume(volume, run.user, run.id)
