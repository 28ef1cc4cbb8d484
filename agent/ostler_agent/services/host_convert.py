"""Converts the host's state and events to protobuf."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf import timestamp_pb2
from ostler.agent.v1 import host_pb2
from ostler.types.v1 import host_pb2 as types_pb2
from ostler.types.v1 import vm_pb2 as vm_types_pb2
from ostler_common.driver_details import DetailField

from ostler_agent.capabilities import Capabilities
from ostler_agent.guardian.guards import Guard
from ostler_agent.host_load import HostLoad
from ostler_agent.hypervisors.base import VmEvent
from ostler_agent.services import convert


def timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time)
    return message


def event_message(event: VmEvent) -> host_pb2.VmEvent:
    return host_pb2.VmEvent(
        kind=host_pb2.VmEvent.Kind.Value(event.kind.value),
        vm=convert.vm_info(event.vm, event.look),
        detail=event.detail,
        time=timestamp(event.time),
    )


def guard_message(guard: Guard) -> host_pb2.Guard:
    status = guard.status
    return host_pb2.Guard(
        state=host_pb2.Guard.State.Value(status.state.upper()),
        stamp=status.stamp if status.term else "",
        term=status.term,
        pool_id=status.pool_id,
        ends_within_ms=round(guard.ends_within_s * 1000),
    )


def load_message(load: HostLoad) -> vm_types_pb2.HostLoad:
    return vm_types_pb2.HostLoad(
        time=timestamp(datetime.now(UTC)),
        cpu_used=load.cpu_used,
        cpus=load.cpus,
        memory_used_bytes=load.memory_used_bytes,
        memory_total_bytes=load.memory_total_bytes,
        cpu_pressure=load.cpu_pressure,
        memory_pressure=load.memory_pressure,
        io_pressure=load.io_pressure,
        vms=[
            vm_types_pb2.VmLoad(
                vm_id=vm.vm_id,
                cpu_used=vm.cpu_used,
                memory_rss_bytes=vm.memory_rss_bytes,
                memory_guest_used_bytes=vm.memory_guest_used_bytes,
                dirty_rate_bytes_per_s=vm.dirty_rate_bytes_per_s,
            )
            for vm in load.vms
        ],
    )


def capabilities_message(found: Capabilities) -> types_pb2.Capabilities:
    hypervisor = found.hypervisor
    return types_pb2.Capabilities(
        hypervisor_type=found.driver.type,
        hypervisor_display_name=found.driver.display_name,
        hypervisor_version=hypervisor.hypervisor_version,
        libvirt_version=hypervisor.libvirt_version,
        domain_types=hypervisor.domain_types,
        machine_types=hypervisor.machine_types,
        cpu_model=hypervisor.cpu_model,
        guest_cpu=convert.to_cpu(hypervisor.guest_cpu) if hypervisor.guest_cpu else None,
        cpus=hypervisor.cpus,
        cpu_mhz=hypervisor.cpu_mhz,
        memory_bytes=hypervisor.memory_bytes,
        numa_nodes=hypervisor.numa_nodes,
        volume_encryption=found.volume_encryption,
        uefi=found.uefi,
        secure_boot=found.secure_boot,
        instance_conversion=found.instance_conversion,
        bridges=found.bridges,
        nic_filter=found.nic_filter,
        tpm=found.tpm,
        pool_types=found.pool_types,
        template_formats=[convert.to_format(disk_format) for disk_format in sorted(found.driver.template_formats)],
        functions=sorted(found.driver.functions),
        driver_details=map(_driver_detail, found.driver.details),
        probes=[
            types_pb2.Probe(name=probe.name, ok=probe.ok, reason=probe.reason, detail=probe.detail)
            for probe in found.probes
        ],
        probe_time=timestamp(found.probe_time),
    )


def _driver_detail(field: DetailField) -> types_pb2.DriverDetail:
    return types_pb2.DriverDetail(
        key=field.key,
        summary=field.summary,
        kind=types_pb2.DriverDetail.Kind.Value(field.kind.name),
        required=field.required,
        per_vm=field.per_vm,
        values=field.values,
        max_length=field.max_length,
        minimum=field.minimum,
        maximum=field.maximum,
    )
