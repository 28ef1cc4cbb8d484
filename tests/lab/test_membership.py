"""Certificates: they renew by themselves, and a removed host is refused by everybody at once."""

from __future__ import annotations

import subprocess

import grpc
import pytest
from ostler.control.v1 import enrollment_pb2, enrollment_pb2_grpc, host_pb2
from ostler_common import pki
from ostler_common.channel import CONTROL_SERVER_NAME, open_channel
from ostler_common.identity import Identity, Kind
from ostler_common.tls import TlsFiles

from tests.lab.fleet import Fleet
from tests.lab.host import Host, wait_for

pytestmark = pytest.mark.lab


def papers(host: Host) -> TlsFiles:
    """The host's own certificate as libvirt has it, for a caller that pretends to be the host."""
    etc = host.outside("/etc/pki")
    return TlsFiles(
        etc / "libvirt" / "clientcert.pem", etc / "libvirt" / "private" / "clientkey.pem", etc / "CA" / "cacert.pem"
    )


def reach_libvirt(source: Host, target: Host) -> bool:
    try:
        source.run("virsh", "--connect", f"qemu+tls://{target.address}/system", "hostname", timeout_s=20)
    except subprocess.CalledProcessError:
        return False
    return True


def test_certificates_renew_by_themselves_and_libvirt_takes_them_up(fleet: Fleet) -> None:
    host, other = fleet.lab.hosts[:2]
    first = fleet.first_certificates_end[host.name]
    wait_for(lambda: fleet.host(host).certificate_expire_time.ToDatetime() > first, "a newer certificate", 150, 1)
    served = pki.expires((host.outside("/etc/pki") / "libvirt" / "servercert.pem").read_bytes())
    assert served.replace(tzinfo=None) > first
    assert reach_libvirt(other, host)
    assert fleet.host(host).state == host_pb2.Host.UP


def test_a_removed_host_is_refused_at_once(fleet: Fleet) -> None:
    extra = fleet.lab.add_host()
    fleet.join(extra)
    extra.start_libvirt()
    extra.start_agent()
    fleet.wait_up(extra)
    host_id = fleet.host(extra).id
    assert reach_libvirt(extra, fleet.lab.hosts[0])
    held = papers(extra)
    fleet.api.hosts.RemoveHost(host_pb2.RemoveHostRequest(host=extra.name))
    _, csr = pki.new_key_and_csr(Identity(Kind.HOST, host_id))
    with open_channel(fleet.lab.control.address, held, CONTROL_SERVER_NAME) as channel:
        stub = enrollment_pb2_grpc.HostAgentServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.RenewCertificate(enrollment_pb2.RenewCertificateRequest(csr_pem=csr), timeout=10)
    assert caught.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    wait_for(lambda: not reach_libvirt(extra, fleet.lab.hosts[0]), "the other hosts' refusal", 30, 0.5)
    extra.kill()
    fleet.lab.hosts.remove(extra)


def test_a_token_works_once(fleet: Fleet) -> None:
    extra = fleet.lab.add_host()
    answer = fleet.api.hosts.CreateJoinToken(host_pb2.CreateJoinTokenRequest(cluster="tcg"))
    extra.join(fleet.lab.network.gateway, answer.token)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        extra.join(fleet.lab.network.gateway, answer.token)
    assert "token" in caught.value.stderr
    fleet.api.hosts.RemoveHost(host_pb2.RemoveHostRequest(host=extra.name))
    extra.kill()
    fleet.lab.hosts.remove(extra)
