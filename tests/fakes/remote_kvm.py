"""The remote KVM service of a host that works in memory, and the KVM host that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from ostler.agent.v1 import remote_kvm_pb2 as pb
from ostler.agent.v1 import remote_kvm_pb2_grpc
from ostler.types.v1 import job_pb2
from ostler_agent.jobs import JobContext
from ostler_common.errors import FailedPreconditionError, NotFoundError

if TYPE_CHECKING:
    from tests.fakes.working_agent import FakeHost

CLIENT_CERTIFICATE = "-----BEGIN CERTIFICATE-----\n"
PRIVATE_KEY, KNOWN_HOSTS = b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "old1 ssh-ed25519 AAAA\n"


@dataclass
class KvmHost:
    """A host that no Ostler manages. vms: by name; passphrases: by target; copies: of running VMs, that are open."""

    vms: dict[str, pb.RemoteVm] = field(default_factory=dict)
    passphrases: dict[str, bytes] = field(default_factory=dict)
    copies: set[str] = field(default_factory=set)
    asked: list[pb.CopyRemoteDisksRequest] = field(default_factory=list)


class FakeRemoteKvm(remote_kvm_pb2_grpc.RemoteKvmServiceServicer):
    """One host's. A copy of a running VM stays open until EndRemoteCopy, as an agent that dies would leave it."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def ListRemoteVms(
        self, request: pb.ListRemoteVmsRequest, context: grpc.ServicerContext
    ) -> pb.ListRemoteVmsResponse:
        with self._host.errors(context):
            self._host.calls.append("ListRemoteVms")
            self._host.fail_now("ListRemoteVms")
            _log_in(request)
            vms = self._host.fleet.kvm.vms
            if request.vm:
                found = [vm for vm in vms.values() if request.vm in (vm.name, vm.vm_id)]
                if not found:
                    raise NotFoundError("there is no such VM on the source", "SOURCE_VM_NOT_FOUND")
                return pb.ListRemoteVmsResponse(vms=found)
            listed = pb.ListRemoteVmsResponse(vms=vms.values())
            for vm in listed.vms:
                for disk in vm.disks:
                    disk.ClearField("images")
            return listed

    def CopyRemoteDisks(
        self, request: pb.CopyRemoteDisksRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> job_pb2.ConversionReport:
            _log_in(request)
            source = self._host.fleet.kvm
            source.asked.append(request)
            if request.running:
                source.copies.add(request.copy_id)
            report = job_pb2.ConversionReport(elapsed_ms=1)
            for disk in request.disks:
                if disk.passphrase != source.passphrases.get(disk.target, b""):
                    raise FailedPreconditionError("the passphrase does not open the disk", "WRONG_KEY")
            for disk in request.disks:
                content = f"{request.vm_id} {disk.target}"
                report.disks.add(key=disk.target, volume=self._host.put_file(disk.volume, disk.size_bytes, content))
            return report

        return self._host.run_job("CopyRemoteDisks", "remote.copy", request, context, work)

    def EndRemoteCopy(
        self, request: pb.EndRemoteCopyRequest, context: grpc.ServicerContext
    ) -> pb.EndRemoteCopyResponse:
        with self._host.errors(context):
            self._host.calls.append("EndRemoteCopy")
            self._host.fail_now("EndRemoteCopy")
            _log_in(request)
            self._host.fleet.kvm.copies.discard(request.copy_id)
            return pb.EndRemoteCopyResponse()


def _log_in(request: pb.ListRemoteVmsRequest | pb.CopyRemoteDisksRequest | pb.EndRemoteCopyRequest) -> None:
    server = request.server
    if request.tls.host:
        if request.tls.private_key != PRIVATE_KEY or request.tls.client_certificate != CLIENT_CERTIFICATE.encode():
            raise FailedPreconditionError("the source refuses the certificate", "LOGIN_FAILED")
        return
    if server.private_key != PRIVATE_KEY:
        raise FailedPreconditionError("the source refuses the private key", "LOGIN_FAILED")
    if server.known_hosts != KNOWN_HOSTS.encode():
        raise FailedPreconditionError("the host key is another one", "HOST_KEY_MISMATCH")
