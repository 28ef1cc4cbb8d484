"""A control plane to break: `python -m tests.chaos.replica STATE_DIR DATABASE_URL PORT`.

The services with TLS, and the engine. It watches no hosts, for the agents of `tests.fakes` tell nothing by themselves,
and reaches them without TLS.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from ostler_common import server, tls
from ostler_control import database
from ostler_control.api import core, work
from ostler_control.api.authorization import authorize
from ostler_control.config import ControlConfig
from ostler_control.outage import outage
from ostler_control.server import fleet_services
from ostler_control.trust.authority import Authority

from tests.sites import new_engine

UNREACHABLE_S = 20.0


def main(state_dir: str, url: str, port: str) -> None:
    """Serves until standard input ends: with the process that started it."""
    stopping = threading.Event()
    config = ControlConfig(state_dir=Path(state_dir), listen=f"127.0.0.1:{port}", database_url=url)
    authority = Authority.load(config.state, config.lifetimes)
    database.connect(config.database)
    engine = new_engine(config.database, config.state_dir, UNREACHABLE_S)
    engine.start()
    services = fleet_services(authority, engine.agents, engine.keys, config, lambda: None, stopping)
    main = server.serve(
        config.listen,
        credentials=tls.server_credentials(config.state.server_tls()),
        services={**core.SERVICES, **services, **work.services(engine)},
        authorize=authorize,
        workers=32,
        explain=outage,
    )
    sys.stdin.read()
    stopping.set()
    main.stop(1.0).wait()
    engine.stop()
    database.disconnect()


if __name__ == "__main__":
    main(*sys.argv[1:])
