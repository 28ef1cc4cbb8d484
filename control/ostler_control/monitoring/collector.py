"""The control plane's metrics, read from the database when Prometheus reads the page."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import structlog
from ostler_common import pki
from ostler_common.identity import Kind
from peewee import PeeweeException
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ostler_control.database import session
from ostler_control.monitoring import rows
from ostler_control.operations.metrics import DURATION, ENDED
from ostler_control.trust import certificates

log = structlog.get_logger(__name__)

_EXPIRY = "ostler_certificate_expiry_timestamp_seconds"


class ControlCollector(Collector):
    """missing_keys: the key-encryption keys that a restart would not find; certificate: the control plane's own."""

    def __init__(self, missing_keys: Callable[[], Iterable[str]], certificate: Path) -> None:
        self._missing_keys = missing_keys
        self._certificate = certificate

    def collect(self) -> Iterator[Metric]:
        yield from ENDED.collect()
        yield from DURATION.collect()
        try:
            with session():
                found = list(self._from_database())
        except (PeeweeException, OSError) as error:
            log.warning("metrics could not be read from the database", error=type(error).__name__)
            found = []
        yield _gauge("ostler_database_up", "Whether the database answers.", int(bool(found)))
        yield from found

    def _from_database(self) -> Iterator[Metric]:
        yield from host_metrics(rows.hosts(), rows.guarding())
        yield from pool_metrics(rows.pools())
        yield _counts("ostler_vms", "VMs by state.", "state", rows.vms_by_state())
        yield _gauge("ostler_vms_attention", "VMs that differ from what hosts report.", rows.vms_with_attention())
        yield _gauge("ostler_vms_paused", "VMs that should run and are paused on their host.", rows.paused_vms())
        yield _gauge(
            "ostler_ha_restarts_waiting", "VMs of dead hosts that have not started again.", rows.waiting_restarts()
        )
        info = GaugeMetricFamily(
            "ostler_vm_info",
            "Names of VMs with a host, to join with agents' metrics.",
            labels=["vm", "name", "account"],
        )
        for labels in rows.vm_names():
            info.add_metric(labels, 1)
        yield info
        unfinished = GaugeMetricFamily(
            "ostler_operations_unfinished", "Operations that wait or run.", labels=["verb", "state"]
        )
        for (verb, state), count in rows.unfinished_operations().items():
            unfinished.add_metric([verb, state], count)
        yield unfinished
        yield _gauge(
            "ostler_operations_oldest_age_seconds",
            "Age of the oldest operation that waits or runs.",
            rows.oldest_operation_age_s(),
        )
        yield _counts("ostler_drs_plans", "DRS plans by state.", "state", rows.plans_by_state())
        yield _counts("ostler_drs_moves", "Moves of DRS plans by state.", "state", rows.moves_by_state())
        yield self._certificates()
        created = {kek: when.replace(tzinfo=datetime.UTC).timestamp() for kek, when in rows.key_version_times().items()}
        yield _counts("ostler_kek_created_timestamp_seconds", "When a version of the key was created.", "key", created)
        missing = dict.fromkeys(self._missing_keys(), 1)
        yield _counts("ostler_kek_missing", "Versions of the key that a restart would not find.", "key", missing)

    def _certificates(self) -> Metric:
        family = GaugeMetricFamily(_EXPIRY, "When the newest certificate expires.", labels=["kind", "name"])
        for name, expires in certificates.expire_times(Kind.HOST).items():
            family.add_metric(["host", name], expires.replace(tzinfo=datetime.UTC).timestamp())
        try:
            own = pki.expires(self._certificate.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("the control plane's certificate cannot be read", reason=str(error))
        else:
            family.add_metric(["control", "control"], own.timestamp())
        return family


def host_metrics(hosts: Sequence[rows.HostRow], guarding: Mapping[str, bool]) -> Iterator[Metric]:
    """State, capacity and allocation of each host. guarding: by host id, of those that are to guard themselves."""
    labels = ["host", "name", "cluster", "zone"]
    up = GaugeMetricFamily("ostler_host_up", "Whether the host's agent is heard.", labels=labels)
    usable = GaugeMetricFamily("ostler_host_schedulable", "Whether new VMs may go to the host.", labels=labels)
    guards = GaugeMetricFamily("ostler_host_guarding", "Whether a host that is to guard itself does.", labels=labels)
    families = {
        "cpus": GaugeMetricFamily("ostler_host_cpus", "CPUs of the host.", labels=labels),
        "memory_bytes": GaugeMetricFamily("ostler_host_memory_bytes", "Memory of the host.", labels=labels),
        "allocated_cpus": GaugeMetricFamily(
            "ostler_host_allocated_cpus", "CPUs allocated to VMs on the host.", labels=labels
        ),
        "allocated_memory_bytes": GaugeMetricFamily(
            "ostler_host_allocated_memory_bytes", "Memory allocated to VMs on the host.", labels=labels
        ),
    }
    for host in hosts:
        values = [host.id, host.name, host.cluster, host.zone]
        up.add_metric(values, int(host.state == "up"))
        usable.add_metric(values, int(host.state == "up" and host.enabled and not host.maintenance))
        if host.id in guarding:
            guards.add_metric(values, int(guarding[host.id]))
        for field, family in families.items():
            family.add_metric(values, getattr(host, field))
    yield from (up, usable, guards, *families.values())


def pool_metrics(pools: Sequence[rows.PoolRow]) -> Iterator[Metric]:
    """Size and free space of each pool."""
    capacity = GaugeMetricFamily("ostler_pool_capacity_bytes", "Size of the pool.", labels=["pool", "type"])
    available = GaugeMetricFamily("ostler_pool_available_bytes", "Free space of the pool.", labels=["pool", "type"])
    for pool in pools:
        capacity.add_metric([pool.name, pool.type], pool.capacity_bytes)
        available.add_metric([pool.name, pool.type], pool.available_bytes)
    yield from (capacity, available)


def _counts(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
