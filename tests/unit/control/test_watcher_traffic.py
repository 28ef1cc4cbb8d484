"""What the watcher sends to the hosts that it hears: thousands of them report every few seconds."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ostler.agent.v1 import host_pb2, host_pb2_grpc
from ostler.types.v1 import vm_pb2
from ostler_common.channel import host_server_name, open_aio_channel

from tests import databases
from tests.fakes.agent import FakeAgent
from tests.fakes.fleet import Fleet
from tests.fakes.relay import Relay

LOADS = 20


def test_hearing_a_hosts_loads_sends_it_nothing(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    with databases.bound(fleet.config.database):
        host, credentials = fleet.host("h1")
    agent = FakeAgent(credentials)
    with agent.serving():
        relay = Relay(agent.port)
        address, name = f"127.0.0.1:{relay.port}", host_server_name(str(host.id))
        try:
            assert asyncio.run(_sent_while_it_reports(agent, relay, address, name, fleet)) == 0
        finally:
            relay.close()


async def _sent_while_it_reports(agent: FakeAgent, relay: Relay, address: str, name: str, fleet: Fleet) -> int:
    """How many bytes."""
    async with open_aio_channel(address, fleet.config.state.client_tls(), name) as channel:
        call = host_pb2_grpc.HostServiceStub(channel).WatchHost(host_pb2.WatchHostRequest(load_interval_ms=1000))
        assert isinstance(await call.read(), host_pb2.HostUpdate)
        await asyncio.sleep(0.5)  # the connection's own beginnings
        before = relay.sent_bytes
        for number in range(LOADS):
            agent.say(host_pb2.HostUpdate(load=vm_pb2.HostLoad(cpu_used=number)))
            assert await call.read() == host_pb2.HostUpdate(load=vm_pb2.HostLoad(cpu_used=number))
            await asyncio.sleep(0.02)
        sent = relay.sent_bytes - before
        call.cancel()
        return sent
