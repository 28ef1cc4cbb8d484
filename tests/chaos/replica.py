"""A control plane to break: `python -m tests.chaos.replica STATE_DIR DATABASE_URL PORT`.

The services with TLS, the engine, and the watch over hosts. It reaches hosts without TLS.
"""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import signal
import sys
import threading
from pathlib import Path

import grpc.aio
import time_machine
from ostler_common import server, tls
from ostler_common.channel import TRANSPORT_OPTIONS
from ostler_control import database
from ostler_control.api import core, work
from ostler_control.api.authorization import authorize
from ostler_control.config import ControlConfig
from ostler_control.events.linking import Linker
from ostler_control.fleet.leader import Leader
from ostler_control.fleet.watcher import Intervals, Watcher
from ostler_control.ha import run_agent
from ostler_control.ha.monitor import Monitor
from ostler_control.ha.returns import Returns
from ostler_control.operations import replica_id
from ostler_control.outage import outage
from ostler_control.periodic import Periodic
from ostler_control.server import fleet_services
from ostler_control.trust.authority import Authority
from ostler_control.trust.revocation import TrustBundle

from tests.sites import new_engine

# A host that refuses connections for so long is taken for silent, so that a hunt sees hosts fenced.
UNREACHABLE_S, GRACE_S = 20.0, 4.0


def main(state_dir: str, url: str, port: str, fence_agents: str) -> None:
    """Serves until standard input ends: with the process that started it. A line is by how many seconds its clock is
    wrong from now on."""
    faulthandler.register(signal.SIGUSR1)
    stopping, jumps = threading.Event(), contextlib.ExitStack()
    config = ControlConfig(state_dir=Path(state_dir), listen=f"127.0.0.1:{port}", database_url=url)
    authority = Authority.load(config.state, config.lifetimes)
    database.connect(config.database)
    engine = new_engine(config.state_dir, UNREACHABLE_S)
    engine.start()
    watcher = Watcher(
        config.state.client_tls(),
        lambda: TrustBundle(b""),
        engine.keys,
        Leader(replica_id(config.state_dir)).is_me,
        intervals=Intervals(grace_s=GRACE_S),
        connect=lambda address, tls, name: grpc.aio.insecure_channel(
            address, [*TRANSPORT_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        ),
    )
    watcher.start()
    leads = Leader(replica_id(config.state_dir)).is_me
    run_agent._DIRECTORY = Path(fence_agents)
    others: list[Periodic] = [Linker(), Monitor(leads), Returns(leads, engine.agents)]
    for one in others:
        one.start()
    services = fleet_services(authority, engine.agents, engine.keys, config, watcher.rescan, stopping)
    main = server.serve(
        config.listen,
        credentials=tls.server_credentials(config.state.server_tls()),
        services={**core.SERVICES, **services, **work.services(engine)},
        authorize=authorize,
        workers=32,
        explain=outage,
    )
    for line in sys.stdin:
        jumps.close()
        if seconds := int(line):
            there = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
            jumps.enter_context(time_machine.travel(there, tick=True))
    stopping.set()
    main.stop(1.0).wait()
    for one in others:
        one.stop()
    watcher.stop()
    engine.stop()
    database.disconnect()


if __name__ == "__main__":
    main(*sys.argv[1:])
