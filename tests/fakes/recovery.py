"""What an agent in memory makes of the jobs that its death interrupted: the same as the real one, from the same facts.

A kind of job without an entry here has done all of its work or nothing when its agent dies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from google.protobuf.message import Message
from ostler.agent.v1 import vm_pb2, volume_pb2
from ostler.types.v1 import job_pb2
from ostler.types.v1 import volume_pb2 as types_volume_pb2
from ostler_agent.jobs import interrupted
from ostler_agent.journal import Record
from ostler_common.errors import AbortedError

if TYPE_CHECKING:
    from tests.fakes.working_agent import FakeHost


def _create(host: FakeHost, record: Record) -> Message:
    return _made(host, record.request_as(volume_pb2.CreateVolumeRequest).volume)


def _copy(host: FakeHost, record: Record) -> Message:
    return _made(host, record.request_as(volume_pb2.CopyVolumeRequest).target)


def _made(host: FakeHost, ref: types_volume_pb2.VolumeRef) -> Message:
    host.discard_part(ref)
    if not host.has_volume(ref):
        raise interrupted()
    return host.volume_info(ref)


def _delete_volume(host: FakeHost, record: Record) -> None:
    if host.has_volume(record.request_as(volume_pb2.DeleteVolumeRequest).volume):
        raise interrupted()


def _start(host: FakeHost, record: Record) -> Message:
    return _power_state(host, record.request_as(vm_pb2.StartVmRequest).spec.vm_id, running=True)


def _stop(host: FakeHost, record: Record) -> Message:
    return _power_state(host, record.request_as(vm_pb2.StopVmRequest).vm_id, running=False)


def _power_state(host: FakeHost, vm_id: str, *, running: bool) -> Message:
    if host.runs(vm_id) is not running:
        raise interrupted()
    return host.vm_info(vm_id)


def _delete_vm(host: FakeHost, record: Record) -> Message:
    vm_id = record.request_as(vm_pb2.DeleteVmRequest).vm_id
    if vm_id in host.vms:
        raise interrupted()
    return host.vm_info(vm_id)


def _prepare(host: FakeHost, record: Record) -> Message:
    """Deletes the targets, also when all were there."""
    request = record.request_as(vm_pb2.PrepareMigrationRequest)
    host.undo_prepare(request)
    raise interrupted()


def _move(host: FakeHost, record: Record) -> Message:
    """libvirt has gone on without the agent."""
    vm_id = record.request_as(vm_pb2.MigrateVmRequest).vm_id
    if host.runs(vm_id):
        raise AbortedError("the VM did not migrate and still runs on this host", "MIGRATION_FAILED")
    host.seeds.pop(vm_id, None)
    return job_pb2.MigrationReport()


def _finish(host: FakeHost, record: Record) -> Message:
    raise interrupted()


RECOVERIES: Mapping[str, Callable[[FakeHost, Record], Message | None]] = {
    "volume.create": _create,
    "volume.copy": _copy,
    "volume.delete": _delete_volume,
    "vm.start": _start,
    "vm.stop": _stop,
    "vm.delete": _delete_vm,
    "migration.prepare": _prepare,
    "migration.move": _move,
    "migration.finish": _finish,
}
