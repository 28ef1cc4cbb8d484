"""Agents that do their work in memory: hosts, pools they share, volumes, VMs, migrations; and faults on request.

The jobs are the real agent's (`ostler_agent.jobs`), so what a repeated, stale or cancelled call gets is what a real
agent answers. What is fake is the hypervisor and the disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from ostler.agent.v1 import (
    adoption_pb2_grpc,
    conversion_pb2_grpc,
    host_pb2_grpc,
    job_pb2_grpc,
    remote_kvm_pb2_grpc,
    vm_pb2_grpc,
    volume_pb2_grpc,
)
from ostler.agent.v1.conversion_pb2 import ExportVmRequest
from ostler_common.channel import TRANSPORT_OPTIONS

from tests.fakes.adoption import FakeAdoption
from tests.fakes.agent_devices import DeviceCalls
from tests.fakes.agent_guests import GuestCalls
from tests.fakes.agent_migration import MigrationCalls
from tests.fakes.agent_vms import VmCalls
from tests.fakes.agent_volumes import VolumeCalls
from tests.fakes.conversion import Directory, FakeConversion
from tests.fakes.faults import Fault
from tests.fakes.files import File, bytes_of
from tests.fakes.guard import Leases
from tests.fakes.jobs_of_life import JobsOfLife
from tests.fakes.machines import Machine
from tests.fakes.recovery import RECOVERIES
from tests.fakes.remote_kvm import FakeRemoteKvm, KvmHost

__all__ = ["FakeHost", "Fault", "File", "Fleet", "Machine", "bytes_of", "wait_until"]


class Fleet:
    """Hosts and the storage behind them. pools: pool id -> volume id -> file; local pools have one host.

    template_keys: SHA-256 of a template -> the passphrase that opens it; those not in it are plain. staging: files of
    imports by pool id and import id; ovftool: the files that an export by a host brings; archives: files by URL;
    exported: what was asked for; kvm: a KVM host that is no part of the fleet;
    written: by volume id, what warm copies have written; image_locks: whether a disk that is open on one host is
    refused on another, as QEMU does; refused_by_locks: the VMs for which that was needed; pace: called by each job
    before and after its work; parts: pool and volume of files that are not complete yet; full: pools without space.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.parts: set[tuple[str, str]] = set()
        self.full: set[str] = set()
        self.hosts: dict[str, FakeHost] = {}
        self.pools: dict[str, dict[str, File]] = {}
        self.template_keys: dict[str, bytes] = {}
        self.staging: dict[tuple[str, str], Directory] = {}
        self.ovftool: dict[str, bytes] = {}
        self.archives: dict[str, dict[str, bytes]] = {}
        self.exported: list[ExportVmRequest] = []
        self.written: dict[str, bytearray] = {}
        self.kvm = KvmHost()
        self.image_locks = False
        self.refused_by_locks: set[str] = set()
        self.pace: Callable[[], None] = lambda: None
        self.leases: Leases = {}
        self.spools: set[str] = set()  # pools of which each host has its own files
        self.sent: dict[str, File] = {}  # to stores, by volume
        self.lock = threading.RLock()

    def add_host(self, name: str, host_id: str) -> FakeHost:
        host = FakeHost(self, name, host_id)
        self.hosts[host_id] = host
        host.start()
        return host

    def running_on(self, vm_id: str) -> list[str]:
        """Names of the hosts on which a VM runs: more than one would be the end of its disks."""
        with self.lock:
            return [host.name for host in self.hosts.values() if vm_id in host.vms and host.vms[vm_id].running]

    def files(self) -> dict[str, str]:
        """Volume id -> pool id of every file there is."""
        with self.lock:
            return {volume_id: pool_id for pool_id, files in self.pools.items() for volume_id in files}

    def stop(self) -> None:
        for host in self.hosts.values():
            host.stop()


class FakeHost(
    VolumeCalls,
    VmCalls,
    DeviceCalls,
    GuestCalls,
    MigrationCalls,
    volume_pb2_grpc.VolumeServiceServicer,
    vm_pb2_grpc.VmServiceServicer,
    vm_pb2_grpc.MigrationServiceServicer,
):
    """One host's agent on a loopback port. calls: every method called, in order."""

    def __init__(self, fleet: Fleet, name: str, host_id: str) -> None:
        super().__init__(fleet, name, host_id)
        for kind, recover in RECOVERIES.items():
            self.life.knows(kind, partial(recover, self))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listens, on the same port as before."""
        # As a real one: what the network has cut off must not hold a thread for ever.
        pings = ("grpc.http2.min_ping_interval_without_data_ms", 10_000)
        options = [*TRANSPORT_OPTIONS, pings, ("grpc.so_reuseport", 0)]
        server = grpc.server(ThreadPoolExecutor(32), options=options)
        volume_pb2_grpc.add_VolumeServiceServicer_to_server(self, server)
        vm_pb2_grpc.add_VmServiceServicer_to_server(self, server)
        vm_pb2_grpc.add_MigrationServiceServicer_to_server(self, server)
        conversion = FakeConversion(self)
        conversion_pb2_grpc.add_ConversionServiceServicer_to_server(conversion, server)
        adoption_pb2_grpc.add_AdoptionServiceServicer_to_server(FakeAdoption(self), server)
        remote_kvm_pb2_grpc.add_RemoteKvmServiceServicer_to_server(FakeRemoteKvm(self), server)
        job_pb2_grpc.add_JobServiceServicer_to_server(JobsOfLife(self.life), server)
        if self.watched is not None:
            self.watched.serve_on(server)
        else:
            host_pb2_grpc.add_HostServiceServicer_to_server(self.guard, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        server.start()
        self._server = server

    def stop(self) -> None:
        """Does not answer any more; VMs and jobs go on."""
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def kill(self) -> None:
        """The agent dies; VMs go on. It begins its next life with `revive`."""
        with self.fleet.lock:
            if not self.life.died.is_set():
                self.life.end()
        self.stop()

    def revive(self) -> None:
        """Removes keys that no VM uses, then finds out what became of the jobs, as a real agent does."""
        with self.fleet.lock:
            specs = [machine.spec for machine in self.vms.values() if machine.running]
            self.secrets &= {disk.volume.key.key_id for spec in specs for disk in spec.disks} | {
                spec.tpm.key.key_id for spec in specs
            }
            self.life.begin()
        self.start()


def wait_until(condition: Any, timeout_s: float = 20.0) -> None:
    """Waits for something that another thread brings about."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
