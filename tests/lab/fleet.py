"""The whole of Ostler in a lab: what the end-to-end tests hold in their hands."""

from __future__ import annotations

import datetime
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import grpc
from google.longrunning import operations_pb2 as lro
from google.protobuf.duration_pb2 import Duration
from ostler.client import profile
from ostler.client.client import open_to
from ostler.client.services import Services
from ostler.control.v1 import (
    host_pb2,
    network_pb2,
    offering_pb2,
    operation_pb2,
    pool_pb2,
    setting_pb2,
    template_pb2,
    vm_pb2,
    volume_pb2,
    zone_pb2,
)
from ostler.types.v1 import vm_pb2 as vm_types
from ostler.types.v1 import volume_pb2 as volume_types
from ostler_common.errors import OstlerError, from_rpc_error, from_status

from tests.lab.console import Console
from tests.lab.guest import guest_image
from tests.lab.host import LOCAL, SHARED, Host, wait_for
from tests.lab.lab import Lab
from tests.lab.machines import BRIDGE
from tests.lab.secrets import Watch

MIB = 1 << 20
CLUSTER, SHARED_POOL, LAN = "tcg", "shared", "lan"
SECRET, PLAIN = "secret", "plain"  # service offerings
# Short, so that renewals happen all through the tests; the third that is left at a renewal is longer than any test
# keeps an agent from renewing.
CERTIFICATE_LIFETIME = "12m"
OPERATION_S = 120.0


def fresh() -> str:
    """A request id."""
    return str(uuid.uuid4())


@dataclass
class Fleet:
    """Three hosts joined, pools "shared" and "local-hN", templates "tiny" (bootable) and "blank", offerings."""

    lab: Lab
    watch: Watch
    first_certificates_end: dict[str, datetime.datetime] = field(default_factory=dict)

    @cached_property
    def api(self) -> Services:
        return Services(open_to(profile.load(self.lab.control.profile)))

    @classmethod
    def make(cls, lab: Lab) -> Fleet:
        lab.control.init()
        fleet = cls(lab, Watch(lab))
        fleet.start_control()
        api = fleet.api
        api.zones.CreateZone(zone_pb2.CreateZoneRequest(request_id=fresh(), name="lab"))
        api.clusters.CreateCluster(
            zone_pb2.CreateClusterRequest(request_id=fresh(), name=CLUSTER, zone="lab", cpu_overcommit=16)
        )
        for host in lab.hosts:
            fleet.join(host)
        lab.start_libvirt()
        lab.start_agents()
        fleet.wait_up(*lab.hosts)
        for host in lab.hosts:
            fleet.first_certificates_end[host.name] = fleet.host(host).certificate_expire_time.ToDatetime()
        api.networks.CreateNetwork(
            network_pb2.CreateNetworkRequest(request_id=fresh(), name=LAN, bridge=BRIDGE, all_accounts=True)
        )
        api.pools.CreatePool(
            pool_pb2.CreatePoolRequest(
                request_id=fresh(), name=SHARED_POOL, type="shared-mount-point", path=SHARED, cluster=CLUSTER
            )
        )
        for host in lab.hosts:
            api.pools.CreatePool(
                pool_pb2.CreatePoolRequest(
                    request_id=fresh(), name=f"local-{host.name}", type="local", path=LOCAL, host=host.name
                )
            )
        blank = lab.directory / "blank.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", blank, "16M"], check=True)
        for name, image in (("tiny", guest_image()), ("blank", blank)):
            fleet.upload(name, image)
        for name, encrypted in ((SECRET, True), (PLAIN, False)):
            api.offerings.CreateServiceOffering(
                offering_pb2.CreateServiceOfferingRequest(
                    request_id=fresh(), name=name, cpus=1, memory_bytes=128 * MIB, encrypt_root=encrypted
                )
            )
            api.offerings.CreateDiskOffering(
                offering_pb2.CreateDiskOfferingRequest(request_id=fresh(), name=f"{name}-data", encrypt=encrypted)
            )
        api.offerings.CreateDiskOffering(
            offering_pb2.CreateDiskOfferingRequest(
                request_id=fresh(), name="secret-thick", encrypt=True, provisioning=volume_types.PROVISIONING_THICK
            )
        )
        return fleet

    def start_control(self) -> None:
        self.lab.control.start({"OSTLER_CONTROL_HOST_CERTIFICATE_LIFETIME": CERTIFICATE_LIFETIME})

    # -- hosts

    def join(self, host: Host) -> None:
        """Creates a host a member; its daemons are not started."""
        answer = self.api.hosts.CreateJoinToken(host_pb2.CreateJoinTokenRequest(cluster=CLUSTER))
        host.join(self.lab.network.gateway, answer.token)

    def host(self, host: Host) -> host_pb2.Host:
        return self.api.hosts.GetHost(host_pb2.GetHostRequest(host=host.name))

    def wait_up(self, *hosts: Host, timeout_s: float = 60) -> None:
        for host in hosts:
            self.wait_state(host, host_pb2.Host.UP, timeout_s)

    def wait_state(self, host: Host, state: host_pb2.Host.State.ValueType, timeout_s: float = 60) -> None:
        name = host_pb2.Host.State.Name(state)

        def found() -> str:
            row = self.host(host)
            said = (host.log("agent") or "").splitlines()[-2:]
            print(self.lab.control.log()[-5000:])
            print(self.lab.control.threads())
            return f"(it is {host_pb2.Host.State.Name(row.state)}: {row.state_reason}; its agent said: {said})"

        wait_for(lambda: self.host(host).state == state, f"{host.name} {name}", timeout_s, 0.3, found)

    # -- operations

    def wait(self, operation: lro.Operation, timeout_s: float = OPERATION_S) -> lro.Operation:
        """The operation when it is done, however it ended; a control plane that restarts meanwhile is waited for."""

        def done() -> bool:
            nonlocal operation
            try:
                operation = self.api.operations.WaitOperation(
                    lro.WaitOperationRequest(name=operation.name, timeout=Duration(seconds=2)), timeout=15
                )
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
            return bool(operation.done)

        wait_for(done, f"end of {self.metadata(operation)}", timeout_s)
        return operation

    def do(self, operation: lro.Operation, timeout_s: float = OPERATION_S) -> None:
        """Waits for success; raises the `OstlerError` that it ended with instead."""
        self.watch.remember()
        operation = self.wait(operation, timeout_s)
        if operation.HasField("error"):
            raise from_status(operation.error)

    def error(self, operation: lro.Operation, timeout_s: float = OPERATION_S) -> OstlerError:
        """Waits for failure, and answers with it."""
        operation = self.wait(operation, timeout_s)
        assert operation.HasField("error"), f"it succeeded: {self.metadata(operation)}"
        return from_status(operation.error)

    @staticmethod
    def metadata(operation: lro.Operation) -> operation_pb2.OperationMetadata:
        metadata = operation_pb2.OperationMetadata()
        operation.metadata.Unpack(metadata)
        return metadata

    def state_of(self, operation: lro.Operation) -> operation_pb2.OperationMetadata:
        return self.metadata(self.api.operations.GetOperation(lro.GetOperationRequest(name=operation.name)))

    def wait_phase(self, operation: lro.Operation, phase: str, timeout_s: float = 30) -> None:
        """Waits until the operation's phase holds this text."""
        wait_for(lambda: phase in self.state_of(operation).progress.phase, f"phase {phase!r}", timeout_s, 0.1)

    # -- VMs and volumes

    def create_vm(self, name: str, offering: str = SECRET, template: str = "tiny", **more: object) -> vm_pb2.Vm:
        request = vm_pb2.CreateVmRequest(request_id=fresh(), name=name, template=template, service_offering=offering)
        for key, value in {"pool": SHARED_POOL, **more}.items():
            setattr(request, key, value)
        self.do(self.api.vms.CreateVm(request))
        return self.vm(name)

    def vm(self, name: str) -> vm_pb2.Vm:
        return self.api.vms.GetVm(vm_pb2.GetVmRequest(vm=name))

    def vms(self) -> list[vm_pb2.Vm]:
        return list(self.api.vms.ListVms(vm_pb2.ListVmsRequest()).vms)

    def delete_vm(self, name: str) -> None:
        self.do(self.api.vms.DeleteVm(vm_pb2.DeleteVmRequest(request_id=fresh(), vm=name, force=True)))

    def start(self, name: str, host: str = "") -> lro.Operation:
        return self.api.vms.StartVm(vm_pb2.StartVmRequest(request_id=fresh(), vm=name, host=host))

    def stop(self, name: str, timeout_s: int = 0, force: bool = False) -> lro.Operation:
        request = vm_pb2.StopVmRequest(request_id=fresh(), vm=name, timeout_s=timeout_s, force=force)
        return self.api.vms.StopVm(request)

    def resize(self, name: str, offering: str) -> lro.Operation:
        return self.api.vms.ResizeVm(vm_pb2.ResizeVmRequest(request_id=fresh(), vm=name, service_offering=offering))

    def migrate(self, name: str, host: str = "", with_storage: bool = False, pool: str = "") -> lro.Operation:
        request = vm_pb2.MigrateVmRequest(request_id=fresh(), vm=name, host=host, with_storage=with_storage, pool=pool)
        return self.api.vms.MigrateVm(request)

    def create_volume(self, name: str, offering: str, size_mib: int, pool: str = SHARED_POOL) -> lro.Operation:
        request = volume_pb2.CreateVolumeRequest(
            request_id=fresh(), name=name, disk_offering=offering, size_bytes=size_mib * MIB, pool=pool
        )
        return self.api.volumes.CreateVolume(request)

    def volume(self, name: str, read_file: bool = False) -> volume_pb2.Volume:
        return self.api.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume=name, read_file=read_file))

    def grow(self, name: str, size_mib: int) -> lro.Operation:
        request = volume_pb2.GrowVolumeRequest(request_id=fresh(), volume=name, size_bytes=size_mib * MIB)
        return self.api.volumes.GrowVolume(request)

    def limit(self, name: str, limits: volume_types.IoLimits | None) -> lro.Operation:
        request = volume_pb2.LimitVolumeRequest(request_id=fresh(), volume=name, limits=limits)
        return self.api.volumes.LimitVolume(request)

    def attach(self, volume: str, vm: str) -> lro.Operation:
        return self.api.volumes.AttachVolume(volume_pb2.AttachVolumeRequest(request_id=fresh(), volume=volume, vm=vm))

    def detach(self, volume: str) -> lro.Operation:
        return self.api.volumes.DetachVolume(volume_pb2.DetachVolumeRequest(request_id=fresh(), volume=volume))

    def delete_volume(self, volume: str) -> lro.Operation:
        return self.api.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(request_id=fresh(), volume=volume))

    def console(self, vm: str) -> Console:
        return Console(self.api.vms, vm)

    def file(self, volume: str) -> Path:
        """A volume's file as the root namespace sees it."""
        return self.file_of(self.volume(volume))

    def file_of(self, found: volume_pb2.Volume) -> Path:
        host = self.lab.hosts[0] if found.pool_name == SHARED_POOL else self.lab.host(found.pool_name[-2:])
        return host.outside(found.path)

    def root_volume(self, vm: str) -> str:
        """Id of a VM's root disk."""
        volumes: list[str] = [volume.volume_id for volume in self.vm(vm).volumes if volume.slot == 0]
        return volumes[0]

    # -- the truth, asked of hypervisors and the kernel

    def hosts_running(self, vm_id: str) -> list[str]:
        """Names of the hosts whose libvirt says that the VM executes there."""
        return [host.name for host in self.lab.hosts if vm_id in host.virsh("list", "--state-running", "--uuid")]

    def has_key(self, host: Host, vm: str) -> bool:
        """Whether the host's libvirt holds a key for the VM: a secret's usage names it."""
        return self.vm(vm).id in host.virsh("secret-list")

    @staticmethod
    def processes(vm_id: str) -> int:
        """How many QEMU processes there are on this machine for the VM, in whatever namespace."""
        count = 0
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            count += words[0].startswith(b"/usr/bin/qemu-system") and vm_id.encode() in words
        return count

    def assert_runs_once(self, name: str) -> str:
        """The one host on which the VM executes; fails unless there is exactly one, with exactly one process."""
        vm = self.vm(name)
        wait_for(lambda: self.processes(vm.id) == 1, f"one process for {name}", 20)
        running = self.hosts_running(vm.id)
        assert len(running) == 1, f"{name} runs on {running}"
        wait_for(
            lambda: self.vm(name).host_name == running[0], f"{name} on {running[0]} in the control plane's view", 20
        )
        return running[0]

    def assert_no_vm_runs_twice(self) -> None:
        for vm in self.vms():
            assert len(self.hosts_running(vm.id)) <= 1, f"{vm.name} runs twice"
            wait_for(partial(self._at_most_one_process, vm.id), f"at most one process for {vm.name}", 20)

    def _at_most_one_process(self, vm_id: str) -> bool:
        return self.processes(vm_id) <= 1

    def other_host(self, name: str) -> Host:
        """A host that the VM is not on."""
        return next(host for host in self.lab.hosts if host.name != self.vm(name).host_name)

    @contextmanager
    def setting(self, name: str, value: str) -> Iterator[None]:
        """A setting with another value for a while."""
        self.api.settings.UpdateSetting(setting_pb2.UpdateSettingRequest(name=name, value=value))
        try:
            yield
        finally:
            self.api.settings.ResetSetting(setting_pb2.ResetSettingRequest(name=name))

    def upload(
        self,
        name: str,
        image: Path,
        firmware: vm_types.Firmware.ValueType = vm_types.FIRMWARE_BIOS,
        tpm: bool = False,
    ) -> None:
        header = template_pb2.UploadTemplateRequest.Header(
            request_id=fresh(),
            name=name,
            format=volume_types.DISK_FORMAT_QCOW2,
            firmware=firmware,
            tpm=tpm,
            file_size_bytes=image.stat().st_size,
        )
        parts = [template_pb2.UploadTemplateRequest(header=header)]
        data = image.read_bytes()
        parts += [template_pb2.UploadTemplateRequest(data=data[i : i + MIB]) for i in range(0, len(data), MIB)]
        self.api.templates.UploadTemplate(iter(parts))


def refused(call: object, *arguments: object) -> OstlerError:
    """The error that a call is refused with at once."""
    assert callable(call)
    try:
        call(*arguments)
    except grpc.RpcError as error:
        return from_rpc_error(error)
    raise AssertionError("it was not refused")
