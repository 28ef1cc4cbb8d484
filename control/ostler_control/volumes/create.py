"""Creating a data volume."""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import CancelledError
from peewee import JOIN

from ostler_control import settings
from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address_of
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import Operation, Passphrase, Template, Volume
from ostler_control.models.joined import columns_of, objects
from ostler_control.operations import Run, Undo, record_operation, workflow
from ostler_control.prepared import Prepared
from ostler_control.states import VolumeState
from ostler_control.volumes import host_jobs, matrix, wire
from ostler_control.volumes.new_volume import NewVolume, insert
from ostler_control.volumes.rows import load, load_or_none


@dataclass(frozen=True)
class CreateInputs:
    """iter_time_ms: how long the passphrase is stretched."""

    iter_time_ms: int


def create(wanted: NewVolume, user: str, keys: Keyring) -> Operation:
    """Records a new volume and the operation that creates its file. Raises what `new_volume.insert` raises."""
    volume = insert(wanted, keys, matrix.Operation.CREATE)
    return record_operation("volume.create", volume, user, CreateInputs(settings.encryption.LUKS_ITER_TIME.get()))


@workflow("volume.create")
def _create(run: Run) -> None:
    inputs = run.read(CreateInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: record_failure(run, undo))
        host_id: str = run.step("choose", lambda: host_jobs.choose_for(run, load(run.resource_id)))
        undo.push("remove", lambda: delete_file(run, host_id, run.resource_id))
        run.step("create", lambda: create_file(run, host_id, run.resource_id, inputs.iter_time_ms))


_TO_CREATE = Prepared(
    lambda value: (
        Volume.select(*columns_of(Volume, Template, Passphrase))
        .join(Template, JOIN.LEFT_OUTER)
        .join_from(Volume, Passphrase, JOIN.LEFT_OUTER, on=(Volume.passphrase == Passphrase.id))
        .where(Volume.id == value("volume"))
    )
)


def create_file(
    run: Run,
    host_id: str,
    volume_id: str,
    iter_time_ms: int,
    share: tuple[int, int] = (0, 100),
    source: volume_pb2.TemplateSource | None = None,
) -> None:
    """Inside a step: makes the host create the volume's file, and records what the file is.

    source: the file's first content; None: that of its template, or nothing when it has none.
    """
    with session():
        rows = _TO_CREATE.rows(tuple[object, ...], volume=volume_id)
    ((volume, template, passphrase),) = objects(rows, Volume, Template, Passphrase)
    volume.passphrase = passphrase
    request = volume_pb2.CreateVolumeRequest(
        operation=run.ref(),
        volume=wire.keyed_ref(volume, run.keys, iter_time_ms),
        size_bytes=volume.size_bytes,
        provisioning=wire.PROVISIONINGS[volume.provisioning],
        template=source or wire.template_source(template, run.keys),
    )
    update = run.job(address_of(host_id), lambda agent: agent.volumes.CreateVolume, request, share)
    found = wire.encrypt_format(volume, update.volume)
    # Storage arrays round a raw device's size up.
    size_bytes = max(volume.size_bytes, update.volume.virtual_size_bytes)

    def write() -> None:
        values = {"state": VolumeState.READY, "state_reason": "", "encrypt_format": found, "size_bytes": size_bytes}
        Volume.change(volume_id, **values)

    run.defer_write(write)


def delete_file(run: Run, host_id: str, volume_id: str, pool_id: str = "") -> None:
    """Inside a step: makes the host delete the volume's file; a file or volume that is not there is a success.

    pool_id: where the file is, if not in the volume's pool.
    """
    volume = load_or_none(volume_id)
    if volume is not None:
        host_jobs.delete_file(run, host_id, volume, pool_id)


def record_failure(run: Run, undo: Undo) -> None:
    """Undoes a new volume's row: it goes if the operation was cancelled and no file is left.

    Else it stays as failed, so that somebody can see why and delete it.
    """
    removed = not undo.failed("remove")
    with transaction():
        volume = Volume.get_or_none(Volume.id == run.resource_id)
        if volume is None:
            return
        if removed and isinstance(undo.error, CancelledError):
            delete_volume(volume, run.user, run.id)
        else:
            Volume.update(state=VolumeState.FAILED, state_reason=str(undo.error)).where(
                Volume.id == volume.id
            ).execute()
