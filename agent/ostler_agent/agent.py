"""Assembles the agent."""

from __future__ import annotations

import importlib.metadata
import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import structlog
from ostler.agent.v1 import (
    adoption_pb2_grpc,
    conversion_pb2_grpc,
    host_pb2_grpc,
    job_pb2_grpc,
    pool_pb2_grpc,
    remote_kvm_pb2_grpc,
    vm_pb2_grpc,
    volume_pb2_grpc,
)
from ostler_common import pki
from ostler_common.errors import OstlerError
from ostler_common.metrics import serve_metrics
from ostler_common.server import Registration, Server, serve
from ostler_common.tls import server_credentials

from ostler_agent.adoption import VmAdoption
from ostler_agent.authorize import AgentAuthorizer
from ostler_agent.capabilities import Capabilities, Prober, probe_all
from ostler_agent.config import AgentConfig
from ostler_agent.control_link import ControlLink
from ostler_agent.conversion import (
    BackupFiles,
    Conversions,
    DiskWrites,
    GuestConverter,
    InPlaceConversions,
    RemoteCopies,
    RemoteVms,
    StagingDirectories,
)
from ostler_agent.credentials import CredentialsStore
from ostler_agent.guardian import run as guarding
from ostler_agent.guardian.guards import Guards
from ostler_agent.hypervisors import registry
from ostler_agent.hypervisors.base import Hypervisor, VmEvent
from ostler_agent.hypervisors.driver import Driver, UsesCredentials
from ostler_agent.isos import Isos
from ostler_agent.jobs import Jobs
from ostler_agent.memory_files import MEMORY_FILES
from ostler_agent.metrics import AgentCollector
from ostler_agent.migration.admissions import Admissions
from ostler_agent.migration.destination import IncomingMigrations
from ostler_agent.pools import Pools, PoolType
from ostler_agent.pools import registry as pool_registry
from ostler_agent.pools.unmapper import Unmapper
from ostler_agent.renewal import CredentialsManager, Renewer
from ostler_agent.seeds import SEEDS
from ostler_agent.services.adoption import AdoptionService
from ostler_agent.services.conversion import ConversionService
from ostler_agent.services.host import HostIdentity, HostService
from ostler_agent.services.jobs import JobService
from ostler_agent.services.migration import MigrationService
from ostler_agent.services.pools import PoolService
from ostler_agent.services.remote_kvm import RemoteKvmService
from ostler_agent.services.vms import VmService
from ostler_agent.services.volumes import VolumeService
from ostler_agent.state_lock import lock_state
from ostler_agent.templates import Templates, sources
from ostler_agent.volumes import Volumes

_CREDENTIAL_WAIT_S = 30.0  # for a pool's password, after the agent starts

CONVERSION_CACHE = Path("/var/cache/ostler")  # one for all agents of a machine: building it takes half a minute

log = structlog.get_logger(__name__)


def probe(config: AgentConfig) -> Capabilities:
    """Runs every probe. Needs neither credentials nor a running agent."""
    driver = registry.load_configured(config)
    facts = driver.probe(registry.context(config))
    pool_types = tuple(sorted(pool_type.name for pool_type in _pool_types(driver)))
    scratch = _scratch(config)
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    return probe_all(driver.info, facts, pool_types, config.virtio_win, scratch)


class _Reprobe:
    """Probes again when the hypervisor is reachable again."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober

    def vm_event(self, event: VmEvent) -> None:
        pass

    def reconnected(self) -> None:
        self._prober.request_probe()


class Agent:
    """The agent. Create it, start it and stop it once each."""

    def __init__(self, config: AgentConfig) -> None:
        """Raises ConfigError, FailedPreconditionError: NOT_JOINED, BAD_CREDENTIALS, ALREADY_RUNNING."""
        self._config = config
        self._driver = registry.load_configured(config)
        self._closing = ExitStack()
        state = config.state_dir
        self._store = CredentialsStore(state)
        credentials = self._store.load()
        credentials.check()
        self._closing.enter_context(lock_state(state))
        shutil.rmtree(_scratch(config), ignore_errors=True)  # left by a probe that was killed
        user = (
            self._driver.credentials_consumer(registry.context(config))
            if isinstance(self._driver, UsesCredentials)
            else None
        )
        self._manager = CredentialsManager(self._store, user, config.control_address)
        self._renewer = Renewer(self._store, self._manager)
        self._jobs = Jobs(state / "jobs")
        self._pools = Pools(state, _pool_types(self._driver))
        download = sources(ControlLink(self._store, config.control_address).download_template)
        self._templates = Templates(state / "templates", download)
        self._isos = Isos(download)
        self._prober: Prober | None = None
        self._server: Server | None = None
        self.host_id = credentials.host_id

    def start(self) -> None:
        """Resolves the jobs that an earlier run left unfinished, then serves.

        Raises OSError if the address is in use, ConfigError if the driver lacks what it states.
        """
        hypervisor = self._driver.open(registry.context(self._config))
        self._closing.callback(hypervisor.close)
        registry.check_parts(hypervisor)
        self._pools.restore()
        self._prober = Prober(lambda: probe(self._config), interval_s=self._config.probe_interval_s)
        self._closing.callback(hypervisor.subscribe(_Reprobe(self._prober)))
        services = self._services(hypervisor, self._prober)
        self._jobs.recover()
        _sweep_seeds(hypervisor)
        self._prober.start()
        self._closing.callback(self._prober.stop)
        self._renewer.start()
        self._closing.callback(self._renewer.stop)
        unmapper = Unmapper(self._pools, hypervisor)
        self._closing.callback(hypervisor.subscribe(unmapper))
        unmapper.start()
        self._closing.callback(unmapper.stop)
        self._pools.set_credential_wait(_CREDENTIAL_WAIT_S)
        self._server = serve(
            self._config.listen,
            credentials=server_credentials(self._store.files),
            services=services,
            authorize=AgentAuthorizer(self._store),
            workers=self._config.workers,
        )
        self._serve_metrics(hypervisor, self._prober)
        log.info("serving", host=self.host_id, listen=self._config.listen, port=self._server.port)

    def _serve_metrics(self, hypervisor: Hypervisor, prober: Prober) -> None:
        expire_time = lambda: self._store.load().expire_time  # noqa: E731
        collector = AgentCollector(hypervisor.samples, self._jobs.running, prober.current, expire_time)
        page = serve_metrics(self._config.metrics, [collector])
        if page:
            self._closing.callback(page.close)

    def reload(self) -> None:
        """Installs the credentials for the hypervisor again and requests a probe."""
        self._manager.install()
        if self._prober:
            self._prober.request_probe()

    def stop(self) -> None:
        """Refuses new calls, waits for running jobs, then closes everything. VMs keep running."""
        grace_s = self._config.stop_grace_s
        if self._server:
            self._server.stop(2 * grace_s)  # a job's stream ends with the job
        self._jobs.stop(grace_s)
        if self._server:
            self._server.stop(0.2).wait()  # the remaining calls are watches, which never end by themselves
        self._closing.close()

    def _services(self, hypervisor: Hypervisor, prober: Prober) -> dict[str, Registration]:
        credentials = self._store.load()
        own_volumes = Volumes(self._pools, self._templates, hypervisor)
        address = credentials.address.rpartition(":")[0].strip("[]")
        tls_name = pki.qemu_server_name(credentials.host_id)
        incoming = IncomingMigrations(
            hypervisor, own_volumes, self._pools.volume_path, address, tls_name, Admissions(), self._isos
        )
        identity = HostIdentity(self.host_id, _version(), lambda: self._store.load().expire_time)
        guards = Guards(
            self.host_id, self._pools, guarding.desk(self._config), guarding.ender(self._config) is not None
        )
        host = HostService(hypervisor, prober, self._manager, identity, guards)
        jobs = JobService(self._jobs)
        migration = MigrationService(self._jobs, hypervisor, incoming, may_start=guards.check_may_start)
        pools = PoolService(self._jobs, self._pools, hypervisor, guards.check_not_used)
        vms = VmService(
            self._jobs,
            hypervisor,
            self._pools.volume_path,
            partial(self._pools.unmap_if_unused, using=hypervisor.using),
            self._isos,
            may_start=guards.check_may_start,
        )
        guest_converter = GuestConverter(
            self._config.state_dir / "conversion",
            CONVERSION_CACHE,
            self._config.virtio_win,
            lambda: prober.current().emulates,
        )
        guest_converter.clear()
        MEMORY_FILES.clear()
        files = BackupFiles(self._pools, own_volumes.locks, guest_converter)
        volumes = VolumeService(self._jobs, own_volumes, files=files)
        staging = StagingDirectories(self._pools)
        conversions = Conversions(self._pools, staging, own_volumes.locks, guest_converter)
        writes = DiskWrites(self._pools, hypervisor, own_volumes.locks, guest_converter.work_dir)
        in_place = InPlaceConversions(self._pools, hypervisor, own_volumes.locks, guest_converter)
        conversion = ConversionService(self._jobs, staging, conversions, writes, in_place)

        remote_vms = RemoteVms(guest_converter.work_dir)
        remote_copies = RemoteCopies(self._pools, own_volumes.locks, remote_vms)
        remote_kvm = RemoteKvmService(self._jobs, remote_vms, remote_copies)
        adoption = AdoptionService(self._jobs, VmAdoption(hypervisor, self._pools, own_volumes.adoption))

        def add_adoption(server: grpc.Server) -> None:
            adoption_pb2_grpc.add_AdoptionServiceServicer_to_server(adoption, server)

        def add_conversion(server: grpc.Server) -> None:
            conversion_pb2_grpc.add_ConversionServiceServicer_to_server(conversion, server)

        def add_host(server: grpc.Server) -> None:
            host_pb2_grpc.add_HostServiceServicer_to_server(host, server)

        def add_jobs(server: grpc.Server) -> None:
            job_pb2_grpc.add_JobServiceServicer_to_server(jobs, server)

        def add_migration(server: grpc.Server) -> None:
            vm_pb2_grpc.add_MigrationServiceServicer_to_server(migration, server)

        def add_pools(server: grpc.Server) -> None:
            pool_pb2_grpc.add_PoolServiceServicer_to_server(pools, server)

        def add_remote_kvm(server: grpc.Server) -> None:
            remote_kvm_pb2_grpc.add_RemoteKvmServiceServicer_to_server(remote_kvm, server)

        def add_vms(server: grpc.Server) -> None:
            vm_pb2_grpc.add_VmServiceServicer_to_server(vms, server)

        def add_volumes(server: grpc.Server) -> None:
            volume_pb2_grpc.add_VolumeServiceServicer_to_server(volumes, server)

        return {
            "ostler.agent.v1.AdoptionService": add_adoption,
            "ostler.agent.v1.ConversionService": add_conversion,
            "ostler.agent.v1.HostService": add_host,
            "ostler.agent.v1.JobService": add_jobs,
            "ostler.agent.v1.MigrationService": add_migration,
            "ostler.agent.v1.PoolService": add_pools,
            "ostler.agent.v1.RemoteKvmService": add_remote_kvm,
            "ostler.agent.v1.VmService": add_vms,
            "ostler.agent.v1.VolumeService": add_volumes,
        }


def _pool_types(driver: Driver) -> list[PoolType]:
    """The pool types that the driver can use."""
    usable = driver.info.pool_types
    return [pool_type for pool_type in pool_registry.pool_types() if usable is None or pool_type.name in usable]


def _sweep_seeds(hypervisor: Hypervisor) -> None:
    try:
        gone = SEEDS.sweep({vm.vm_id for vm in hypervisor.vms()})
    except OstlerError as error:
        log.info("seeds are swept at the next start", reason=error.reason)
        return
    if gone:
        log.info("seeds of VMs that are not here were removed", vms=gone)


def _scratch(config: AgentConfig) -> Path:
    return config.state_dir / "scratch"


def _version() -> str:
    try:
        return importlib.metadata.version("ostler")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # running from a source tree
