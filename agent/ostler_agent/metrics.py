"""The agent's metrics: its VMs, its jobs, its probes and its certificate.

Names of VMs' metrics are KubeVirt's with `ostler_vm_` in front, so that dashboards are quickly adapted. VMs have their
ids as labels: their names belong to the control plane, whose page joins both (`ostler_vm_info`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import structlog
from ostler_common.errors import OstlerError
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ostler_agent.capabilities import Capabilities
from ostler_agent.hypervisors.base import VmSample
from ostler_agent.jobs import RunningJob

log = structlog.get_logger(__name__)


class AgentCollector(Collector):
    """What the agent tells. A hypervisor that cannot be reached is told by `ostler_hypervisor_up` 0."""

    def __init__(
        self,
        samples: Callable[[], Sequence[VmSample]],
        jobs: Callable[[], Sequence[RunningJob]],
        capabilities: Callable[[], Capabilities],
        certificate_expire_time: Callable[[], datetime],
    ) -> None:
        self._samples = samples
        self._jobs = jobs
        self._capabilities = capabilities
        self._certificate_expire_time = certificate_expire_time

    def collect(self) -> Iterator[Metric]:
        yield from self._vms()
        yield from job_metrics(self._jobs())
        yield from probe_metrics(self._capabilities())
        yield _gauge(
            "ostler_certificate_expiry_timestamp_seconds",
            "When this host's certificate expires.",
            self._certificate_expire_time().timestamp(),
        )

    def _vms(self) -> Iterator[Metric]:
        try:
            samples = self._samples()
        except OstlerError as error:
            log.info("VMs could not be measured", reason=error.reason)
            yield _gauge("ostler_hypervisor_up", "Whether the hypervisor answers.", 0)
            return
        yield _gauge("ostler_hypervisor_up", "Whether the hypervisor answers.", 1)
        yield from vm_metrics(samples)


def vm_metrics(samples: Sequence[VmSample]) -> Iterator[Metric]:
    """The metrics of running VMs; one that a driver does not measure has no samples."""
    yield _gauge("ostler_vms_running", "VMs that run on this host.", len(samples))
    cpu = CounterMetricFamily("ostler_vm_cpu_usage_seconds", "CPU time used by the VM.", labels=["vm"])
    resident = GaugeMetricFamily("ostler_vm_memory_resident_bytes", "Memory of the VM's process.", labels=["vm"])
    used = GaugeMetricFamily("ostler_vm_memory_used_bytes", "Memory that the guest says it uses.", labels=["vm"])
    dirty = GaugeMetricFamily(
        "ostler_vm_dirty_rate_bytes_per_second",
        "How fast the guest writes its memory, as last measured.",
        labels=["vm"],
    )
    for sample in samples:
        cpu.add_metric([sample.vm_id], sample.cpu_time_ns / 1e9)
        resident.add_metric([sample.vm_id], sample.rss_bytes)
        used.add_metric([sample.vm_id], sample.guest_used_bytes)
        dirty.add_metric([sample.vm_id], sample.dirty_rate_bytes_per_s)
    yield from (cpu, resident, used, dirty)
    yield from _disk_metrics(samples)
    yield from _nic_metrics(samples)


_DISK_METRICS = {
    "read_bytes": ("ostler_vm_storage_read_traffic_bytes", "Bytes read from the disk."),
    "write_bytes": ("ostler_vm_storage_write_traffic_bytes", "Bytes written to the disk."),
    "reads": ("ostler_vm_storage_iops_read", "Read requests to the disk."),
    "writes": ("ostler_vm_storage_iops_write", "Write requests to the disk."),
}
_NIC_METRICS = {
    "receive_bytes": ("ostler_vm_network_receive_bytes", "Bytes that the guest received."),
    "transmit_bytes": ("ostler_vm_network_transmit_bytes", "Bytes that the guest sent."),
    "receive_packets": ("ostler_vm_network_receive_packets", "Packets that the guest received."),
    "transmit_packets": ("ostler_vm_network_transmit_packets", "Packets that the guest sent."),
    "receive_drops": ("ostler_vm_network_receive_packets_dropped", "Packets to the guest that were dropped."),
    "transmit_drops": ("ostler_vm_network_transmit_packets_dropped", "Packets of the guest that were dropped."),
}


def _disk_metrics(samples: Sequence[VmSample]) -> Iterator[Metric]:
    for field, (name, text) in _DISK_METRICS.items():
        family = CounterMetricFamily(name, text, labels=["vm", "drive"])
        for sample in samples:
            for disk in sample.disks:
                family.add_metric([sample.vm_id, disk.device], getattr(disk, field))
        yield family


def _nic_metrics(samples: Sequence[VmSample]) -> Iterator[Metric]:
    for field, (name, text) in _NIC_METRICS.items():
        family = CounterMetricFamily(name, text, labels=["vm", "interface"])
        for sample in samples:
            for nic in sample.nics:
                family.add_metric([sample.vm_id, nic.interface], getattr(nic, field))
        yield family


def job_metrics(jobs: Sequence[RunningJob]) -> Iterator[Metric]:
    """Running jobs and how far each has come: migrations, copies, conversions."""
    labels = ["kind", "operation"]
    percent = GaugeMetricFamily("ostler_job_percent", "How far a running job has come.", labels=labels)
    done = GaugeMetricFamily("ostler_job_done_bytes", "Bytes of the job's phase that are done.", labels=labels)
    total = GaugeMetricFamily("ostler_job_total_bytes", "Bytes of the job's phase; 0: unknown.", labels=labels)
    for job in jobs:
        values = [job.kind, job.operation_id]
        percent.add_metric(values, job.progress.percent)
        done.add_metric(values, job.progress.bytes_done)
        total.add_metric(values, job.progress.bytes_total)
    yield _gauge("ostler_jobs_running", "Jobs that run on this host.", len(jobs))
    yield from (percent, done, total)


def probe_metrics(capabilities: Capabilities) -> Iterator[Metric]:
    """What the host has proved it can do."""
    probes = GaugeMetricFamily("ostler_probe_ok", "Whether a probe of the host succeeds.", labels=["probe"])
    for probe in capabilities.probes:
        probes.add_metric([probe.name], int(probe.ok))
    yield probes


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
