"""The control plane: all its parts, started and stopped in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import structlog
from ostler.control.v1 import account_pb2_grpc, enrollment_pb2_grpc, event_pb2_grpc, host_pb2_grpc, pool_pb2_grpc
from ostler_common import server, tls
from ostler_common.address import split_addresses
from ostler_common.errors import OstlerError
from ostler_common.metrics import serve_metrics
from ostler_common.server import Registration, Server

from ostler_control import database, housekeeping, run_lock
from ostler_control.agents import Agents
from ostler_control.api import core, limits, work
from ostler_control.api.authorization import authorize
from ostler_control.api.enrollment import EnrollmentService, HostAgentService
from ostler_control.api.events import EventService
from ostler_control.api.hosts import HostService
from ostler_control.api.pools import PoolService
from ostler_control.api.users import UserService
from ostler_control.config import ControlConfig
from ostler_control.drs_plans import Scheduler
from ostler_control.events.linking import Linker
from ostler_control.fleet.leader import Leader
from ostler_control.fleet.watcher import Intervals, Watcher
from ostler_control.ha.guards import Guards
from ostler_control.ha.monitor import Monitor
from ostler_control.ha.returns import Returns
from ostler_control.keys import Keyring, open_provider
from ostler_control.keys.watch import KeyWatch
from ostler_control.monitoring import ControlCollector
from ostler_control.operations import Engine, old_journal, replica_id, replicas
from ostler_control.outage import log_failure, outage, reported
from ostler_control.power.keeper import Keeper
from ostler_control.run_lock import ReplicaLock
from ostler_control.templates import shared
from ostler_control.trust import revocation
from ostler_control.trust.authority import Authority
from ostler_control.trust.renewal import renew_control

log = structlog.get_logger(__name__)

_GRACE_S = 10.0
ENROLLMENT = "ostler.control.v1.EnrollmentService"


class Control:
    """A running control plane. main_port, enroll_port, metrics_port: where it listens, also when 0 was configured."""

    def __init__(self, config: ControlConfig, intervals: Intervals | None = None) -> None:
        """Starts everything; when something fails, stops what was started. Raises OstlerError, OSError."""
        self._config = config
        self._replica_lock: ReplicaLock | None = None
        state = config.state
        with ExitStack() as stack:
            self._authority = Authority.load(state, config.lifetimes)
            stack.callback(database.disconnect)
            database.connect(config.database)
            stack.enter_context(run_lock.alone(state))
            replica = replica_id(config.state_dir)
            if not database.is_sqlite():
                self._replica_lock = ReplicaLock(config.database, replica)
                stack.callback(self._replica_lock.close)
            with reported():
                database.migrate()
                if database.is_sqlite():
                    old_journal.take_over(state.old_journal)
                with database.session():
                    renew_control(state, self._authority)
                if not database.is_sqlite():
                    shared.check(state.templates, replica)
            agents = Agents(state.client_tls())
            stack.callback(agents.close)
            keys = self._keys = Keyring(open_provider(config.state_dir, config.vault, config.key_provider))
            self._key_watch = KeyWatch(keys.provider)
            _prepare(keys, self._key_watch)
            engine = Engine(replica, agents, keys, state.templates, config.main_address, limit=config.operations)
            stack.callback(engine.stop)
            engine.start()
            watcher = Watcher(state.client_tls(), self._trust, keys, Leader(replica).is_me, intervals)
            stack.callback(watcher.stop)
            watcher.start()
            linker = Linker()
            stack.callback(linker.stop)
            linker.start()
            scheduler = Scheduler(Leader(replica).is_me)
            stack.callback(scheduler.stop)
            scheduler.start()
            monitor = Monitor(Leader(replica).is_me)
            stack.callback(monitor.stop)
            monitor.start()
            returns = Returns(Leader(replica).is_me, agents)
            stack.callback(returns.stop)
            returns.start()
            guards = Guards(Leader(replica).is_me, agents)
            stack.callback(guards.stop)
            guards.start()
            keeper = Keeper(Leader(replica).is_me)
            stack.callback(keeper.stop)
            keeper.start()
            stopping = threading.Event()
            services = fleet_services(self._authority, agents, keys, config, watcher.rescan, stopping)
            main = server.serve(
                config.listen,
                credentials=tls.server_credentials(state.server_tls()),
                services={**core.SERVICES, **services, **work.services(engine)},
                authorize=authorize,
                workers=config.workers,
                limits=limits.limits(config.workers),
                explain=outage,
            )
            stack.callback(_stop, main)
            stack.callback(stopping.set)
            self._main = main
            enrollment = server.serve(
                config.enroll_listen,
                credentials=tls.server_credentials(state.server_tls(), client_certificates=False),
                services=enrollment_services(self._authority, config, watcher.rescan),
                authorize=None,
                workers=32,
                limits=limits.enrollment_limits(),
                explain=outage,
            )
            stack.callback(_stop, enrollment)
            page = serve_metrics(config.metrics, [ControlCollector(lambda: self._key_watch.missing, state.control)])
            if page:
                stack.callback(page.close)
            self.main_port, self.enroll_port = main.port, enrollment.port
            self.metrics_port = page.port if page else None
            self._stack = stack.pop_all()
        log.info("serving", main=main.port, enrollment=enrollment.port, replica=replica)

    def _trust(self) -> revocation.TrustBundle:
        # The same for every replica, so that hosts hear nothing new when another one leads.
        addresses = ",".join(sorted(split_addresses(replicas.addresses(self._config.main_address))))
        return revocation.current(self._authority, addresses)

    def check_replica(self) -> None:
        """Claims the replica id again after PostgreSQL was away. Call it regularly.

        Raises FailedPreconditionError REPLICA_RUNS_ALREADY when another process has claimed it: then stop.
        """
        if self._replica_lock is not None:
            self._replica_lock.check()

    def renew(self) -> None:
        """Renews the control plane's own certificate when it is due. Call it regularly; it never raises."""
        try:
            with database.session():
                if renew_control(self._config.state, self._authority):
                    log.info("the control plane's certificate was renewed")
        except Exception as error:
            log_failure("the control plane's certificate could not be renewed; it is tried again", error)

    def cut_unauthorized(self) -> None:
        """Ends calls of users and hosts that are not authorized any more. Call it regularly; it never raises."""
        try:
            self._main.cut_unauthorized()
        except Exception as error:
            log_failure("running calls could not be checked; it is tried again", error)

    def tidy(self) -> None:
        """Does the housekeeping. Call it regularly; it never raises."""
        try:
            housekeeping.tidy()
            _prepare(self._keys, self._key_watch)
        except Exception as error:
            log_failure("housekeeping failed; it is tried again later", error)

    def stop(self) -> None:
        """Ends calls (after a grace period), streams and operations; operations resume at the next start."""
        self._stack.close()


def _prepare(keys: Keyring, watch: KeyWatch) -> None:
    """The control plane starts without Vault too: calls that need a key fail until Vault answers."""
    try:
        with database.session():
            keys.prepare()
            watch.check()
    except OstlerError as error:
        log.warning("the key-encryption key is not at hand", reason=error.reason, why=str(error))


def fleet_services(
    authority: Authority,
    agents: Agents,
    keys: Keyring,
    config: ControlConfig,
    poke: Callable[[], None],
    stopping: threading.Event,
) -> Mapping[str, Registration]:
    """Users, hosts, pools, events, and the service that hosts call. stopping: set when the control plane stops."""
    users = UserService(authority)
    hosts = HostService(authority, agents, config.enroll_address, poke)
    pools = PoolService(agents, keys)
    host_agents = HostAgentService(authority, config.state.templates)
    events = EventService(stopping)
    return {
        "ostler.control.v1.EventService": lambda s: event_pb2_grpc.add_EventServiceServicer_to_server(events, s),
        "ostler.control.v1.UserService": lambda s: account_pb2_grpc.add_UserServiceServicer_to_server(users, s),
        "ostler.control.v1.HostService": lambda s: host_pb2_grpc.add_HostServiceServicer_to_server(hosts, s),
        "ostler.control.v1.PoolService": lambda s: pool_pb2_grpc.add_PoolServiceServicer_to_server(pools, s),
        "ostler.control.v1.HostAgentService": lambda s: enrollment_pb2_grpc.add_HostAgentServiceServicer_to_server(
            host_agents, s
        ),
    }


def enrollment_services(
    authority: Authority, config: ControlConfig, poke: Callable[[], None]
) -> Mapping[str, Registration]:
    """The enrollment port's services."""
    service = EnrollmentService(authority, config.main_address, poke)
    return {ENROLLMENT: lambda s: enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(service, s)}


def _stop(running: Server) -> None:
    running.set_serving(False)
    done: threading.Event = running.stop(_GRACE_S)
    done.wait()
