"""RemoteKvmService."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from google.protobuf.message import Message
from ostler.agent.v1 import remote_kvm_pb2, remote_kvm_pb2_grpc
from ostler.types.v1 import job_pb2
from ostler_common.errors import bad_field

from ostler_agent.conversion import RemoteCopies, RemoteVms
from ostler_agent.jobs import Jobs
from ostler_agent.journal import Record
from ostler_agent.services import convert, remote_kvm_convert

_KIND = "remote.copy"


class RemoteKvmService(remote_kvm_pb2_grpc.RemoteKvmServiceServicer):
    def __init__(self, jobs: Jobs, vms: RemoteVms, copies: RemoteCopies) -> None:
        self._jobs = jobs
        self._vms = vms
        self._copies = copies
        jobs.on_recover(_KIND, self._recover)

    def ListRemoteVms(
        self, request: remote_kvm_pb2.ListRemoteVmsRequest, context: grpc.ServicerContext
    ) -> remote_kvm_pb2.ListRemoteVmsResponse:
        server = remote_kvm_convert.server(request)
        if len(request.vm) > remote_kvm_convert.MAX_NAME:
            raise bad_field("vm", f"must be at most {remote_kvm_convert.MAX_NAME} characters")
        found = [self._vms.inspect(server, request.vm)] if request.vm else self._vms.list(server)
        return remote_kvm_pb2.ListRemoteVmsResponse(vms=map(remote_kvm_convert.vm, found))

    def CopyRemoteDisks(
        self, request: remote_kvm_pb2.CopyRemoteDisksRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        server, source = remote_kvm_convert.server(request), remote_kvm_convert.copy(request)
        return self._jobs.run(
            request.operation,
            _KIND,
            request,
            lambda job: remote_kvm_convert.report(
                source.disks, self._copies.copy(job, server, source, request.timeout_s)
            ),
        )

    def EndRemoteCopy(
        self, request: remote_kvm_pb2.EndRemoteCopyRequest, context: grpc.ServicerContext
    ) -> remote_kvm_pb2.EndRemoteCopyResponse:
        vm_id, copy_id = convert.uuid_field(request.vm_id, "vm_id"), convert.uuid_field(request.copy_id, "copy_id")
        self._vms.end_copy(remote_kvm_convert.server(request), vm_id, copy_id)
        return remote_kvm_pb2.EndRemoteCopyResponse()

    def _recover(self, record: Record) -> Message:
        disks = remote_kvm_convert.copy(record.request_as(remote_kvm_pb2.CopyRemoteDisksRequest)).disks
        return remote_kvm_convert.report(disks, self._copies.recover([disk.volume for disk in disks], record.facts))
