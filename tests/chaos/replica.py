"""A control plane to break: `python -m tests.chaos.replica STATE_DIR DATABASE_URL PORT`.

The services with TLS, the engine, and the watch over hosts. It reaches hosts without TLS.
"""

from __future__ import annotations

import contextlib
import datetime
import sys
import threading
from pathlib import Path

import grpc.aio
import time_machine
from ostler_common import server, tls
from ostler_control import database
from ostler_control.api import core, work
from ostler_control.api.authorization import authorize
from ostler_control.config import ControlConfig
from ostler_control.events.linking import Linker
from ostler_control.fleet.leader import Leader
from ostler_control.fleet.watcher import Watcher
from ostler_control.operations import replica_id
from ostler_control.outage import outage
from ostler_control.server import fleet_services
from ostler_control.trust.authority import Authority
from ostler_control.trust.revocation import TrustBundle

from tests.sites import new_engine

UNREACHABLE_S = 20.0


def main(state_dir: str, url: str, port: str) -> None:
    """Serves until standard input ends: with the process that started it. A line is by how many seconds its clock is
    wrong from now on."""
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
        connect=lambda address, tls, name: grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]),
    )
    watcher.start()
    linker = Linker()
    linker.start()
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
    linker.stop()
    watcher.stop()
    engine.stop()
    database.disconnect()


if __name__ == "__main__":
    main(*sys.argv[1:])
