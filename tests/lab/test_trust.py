"""A host's credentials through their whole life, with the real control plane, libvirt and agent."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from ostler_agent.credentials import CredentialsStore, HostCredentials

from tests.lab.host import Host, wait_for
from tests.lab.lab import Lab

pytestmark = pytest.mark.lab

LIFETIME_S = 24


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.start(hosts=1) as lab:
        lab.control.init()
        lab.control.start({"OSTLER_CONTROL_HOST_CERTIFICATE_LIFETIME": f"{LIFETIME_S}s"})
        lab.control.ostler("zone", "create", "z1")
        lab.control.ostler("cluster", "create", "c1", "--zone", "z1")
        yield lab


def join(lab: Lab, host: Host, *options: str) -> None:
    token = lab.control.ostler("host", "token", "c1", *options, "-o", "name").strip()
    host.run(sys.executable, "-m", "ostler_agent.main", "join", "--token", token, env=host.agent_environment())


def credentials(host: Host) -> HostCredentials:
    return CredentialsStore(host.outside("/var/lib/ostler/agent")).load()


def state(lab: Lab, host: Host) -> str:
    listed = json.loads(lab.control.ostler("host", "list", "-o", "json"))
    return next(str(row["state"]).lower() for row in listed if row["name"] == host.name)


def libvirt_answers_over_tls(host: Host) -> bool:
    """The gateway's certificate and the client's are both checked."""
    host.admit(credentials(host).host_id)
    return host.reaches_libvirt(host)


def over(expire_time: datetime) -> bool:
    return datetime.now(UTC) > expire_time


def test_papers_live_end_and_begin_anew(lab: Lab) -> None:
    host = lab.hosts[0]
    join(lab, host)
    host.start_libvirt()
    host.start_gateway()
    assert libvirt_answers_over_tls(host)
    host.start_agent()
    wait_for(lambda: state(lab, host) == "up", "the host", 30, 0.5)

    first = credentials(host)
    wait_for(lambda: credentials(host).certificate_pem != first.certificate_pem, "renewal", LIFETIME_S + 10, 0.5)
    assert not over(first.expire_time)  # it was in time
    wait_for(lambda: over(first.expire_time), "end of the first certificate", LIFETIME_S)
    assert libvirt_answers_over_tls(host)  # the gateway uses the new one, without a restart
    assert state(lab, host) == "up"

    host.stop_agent()
    wait_for(lambda: over(credentials(host).expire_time), "end of the last certificate", LIFETIME_S + 10)
    host.start_agent()
    wait_for(lambda: f"--rejoin {first.host_id}" in (host.log("agent") or ""), "how to rejoin", 30)
    assert state(lab, host) != "up"

    join(lab, host, "--rejoin", host.name)
    wait_for(lambda: state(lab, host) == "up", "the host's return", 60, 0.5)  # the agent was not restarted
    assert credentials(host).host_id == first.host_id
    assert libvirt_answers_over_tls(host)
