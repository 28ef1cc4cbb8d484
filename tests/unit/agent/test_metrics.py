"""What an agent tells Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from ostler.types.v1 import job_pb2
from ostler_agent.capabilities import Capabilities, HypervisorFacts, Probe
from ostler_agent.hypervisors.base import DiskCounters, NicCounters, VmSample
from ostler_agent.hypervisors.libvirt.factory import DRIVER
from ostler_agent.hypervisors.libvirt.samples import sample
from ostler_agent.jobs import RunningJob
from ostler_agent.metrics import AgentCollector
from ostler_common.errors import UnavailableError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

VM = "9f1d7a8e-6f0f-4d5c-8a53-0d5f3d2f4a11"


def page(samples: Sequence[VmSample] | UnavailableError) -> str:
    def measured() -> Sequence[VmSample]:
        if isinstance(samples, UnavailableError):
            raise samples
        return samples

    probes = (Probe("volume-encryption.luks", True), Probe("uefi", False, "no firmware"))
    job = RunningJob("op1", "vm.migrate", job_pb2.Progress(phase="memory", bytes_done=5, bytes_total=10, percent=50))
    registry = CollectorRegistry()
    registry.register(
        AgentCollector(
            measured,
            lambda: [job],
            lambda: Capabilities(DRIVER.info, HypervisorFacts(), (), (), probes),
            lambda: datetime.fromtimestamp(1e9, UTC),
        )
    )
    return generate_latest(registry).decode()


def test_vms_disks_and_nics() -> None:
    text = page(
        [
            VmSample(
                VM, 2_500_000_000, 4096, 2048, 7, (DiskCounters("vda", 1, 2, 3, 4),), (NicCounters("vnet0", 5, 6, 7),)
            )
        ]
    )
    for line in (
        "ostler_hypervisor_up 1.0",
        f'ostler_vm_cpu_usage_seconds_total{{vm="{VM}"}} 2.5',
        f'ostler_vm_dirty_rate_bytes_per_second{{vm="{VM}"}} 7.0',
        f'ostler_vm_storage_write_traffic_bytes_total{{drive="vda",vm="{VM}"}} 2.0',
        f'ostler_vm_storage_iops_read_total{{drive="vda",vm="{VM}"}} 3.0',
        f'ostler_vm_network_receive_bytes_total{{interface="vnet0",vm="{VM}"}} 5.0',
        'ostler_job_percent{kind="vm.migrate",operation="op1"} 50.0',
        'ostler_probe_ok{probe="uefi"} 0.0',
        "ostler_certificate_expiry_timestamp_seconds 1e+09",
    ):
        assert line in text.splitlines()


def test_a_hypervisor_that_does_not_answer_leaves_the_rest() -> None:
    text = page(UnavailableError("no", "HYPERVISOR_UNREACHABLE"))
    assert "ostler_hypervisor_up 0.0" in text
    assert "ostler_jobs_running 1.0" in text
    assert "ostler_vm_cpu" not in text


def test_libvirts_counters_of_disks_and_nics() -> None:
    record = {
        "block.count": 1,
        "block.0.name": "vda",
        "block.0.rd.bytes": 10,
        "block.0.wr.reqs": 3,
        "net.count": 1,
        "net.0.name": "vnet3",
        "net.0.tx.bytes": 9,
    }
    found = sample(VM, record)
    assert found.disks == (DiskCounters("vda", read_bytes=10, writes=3),)
    assert found.nics == (NicCounters("vnet3", transmit_bytes=9),)
