"""Certificates: they renew by themselves, and a removed host is refused by everybody at once."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from ostler.agent.v1 import host_pb2 as agent_pb2
from ostler.agent.v1 import host_pb2_grpc as agent_grpc
from ostler.control.v1 import enrollment_pb2, enrollment_pb2_grpc, host_pb2
from ostler_common import pki
from ostler_common.channel import CONTROL_SERVER_NAME, host_server_name, open_channel
from ostler_common.identity import Identity, Kind
from ostler_common.tls import TlsFiles

from tests.lab.fleet import Fleet, refused
from tests.lab.host import Host, wait_for
from tests.lab.lab import install_client

pytestmark = pytest.mark.lab

# What a host's agent does when a third of its certificate's life is left.
RENEW = """
from ostler_agent.config import AgentConfig
from ostler_agent.hypervisors.libvirt.options import LibvirtOptions
from ostler_agent.hypervisors.libvirt.tls import LibvirtTls
from ostler_agent.credentials import CredentialsStore
from ostler_agent.renewal import CredentialsManager
config = AgentConfig()
CredentialsManager(CredentialsStore(config.state_dir), LibvirtTls.of(LibvirtOptions())).renew()
"""


def credentials(host: Host) -> TlsFiles:
    """The host's own certificate as libvirt has it, for a caller that pretends to be the host."""
    etc = host.outside("/etc/pki")
    return TlsFiles(
        etc / "libvirt" / "clientcert.pem", etc / "libvirt" / "private" / "clientkey.pem", etc / "CA" / "cacert.pem"
    )


def qemu_credentials(host: Host) -> TlsFiles:
    """What a guest that broke out of its QEMU finds."""
    etc = host.outside("/etc/pki") / "qemu"
    return TlsFiles(etc / "client-cert.pem", etc / "client-key.pem", etc / "ca-cert.pem")


def ends(certificate: Path) -> datetime:
    return pki.expires(certificate.read_bytes()).replace(tzinfo=None)


def revokes(crl: Path, serial: int) -> bool:
    """Whether a host's revocation list, which comes with the first revocation, names a certificate."""
    return crl.exists() and serial in pki.revoked_serials(crl.read_bytes())


@pytest.mark.timeout(700)
def test_certificates_renew_by_themselves_and_the_gateway_uses_them(fleet: Fleet) -> None:
    host, other = fleet.lab.hosts[:2]
    first = fleet.first_certificates_end[host.name]
    wait_for(lambda: fleet.host(host).certificate_expire_time.ToDatetime() > first, "a newer certificate", 540, 1)
    for name in ("libvirt/clientcert.pem", "qemu/server-cert.pem"):  # soon after the control plane has issued them
        path = host.outside("/etc/pki") / name
        wait_for(lambda path=path: ends(path) > first, f"a newer {name}", 10, 0.2)  # type: ignore[misc]
    host.admit(fleet.host(other).id)
    assert other.reaches_libvirt(host)
    assert fleet.host(host).state == host_pb2.Host.UP


def test_a_removed_host_is_refused_at_once(fleet: Fleet) -> None:
    extra = fleet.lab.add_host()
    fleet.join(extra)
    extra.start_libvirt()
    extra.start_agent()
    fleet.wait_up(extra)
    host_id = fleet.host(extra).id
    fleet.lab.hosts[0].admit(host_id)
    extra.admit(fleet.host(fleet.lab.hosts[0]).id)
    assert extra.reaches_libvirt(fleet.lab.hosts[0])
    assert fleet.lab.hosts[0].reaches_libvirt(extra)
    held = credentials(extra)
    fleet.api.hosts.RemoveHost(host_pb2.RemoveHostRequest(host=extra.name))
    _, csr = pki.new_key_and_csr(Identity(Kind.HOST, host_id))
    with open_channel(fleet.lab.control.address, held, CONTROL_SERVER_NAME) as channel:
        stub = enrollment_pb2_grpc.HostAgentServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.RenewCertificate(enrollment_pb2.RenewCertificateRequest(csr_pem=csr), timeout=10)
    assert caught.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    serial = x509.load_pem_x509_certificate(held.certificate.read_bytes()).serial_number
    for host in fleet.lab.hosts[:-1]:
        crl = host.outside("/etc/pki/CA/cacrl.pem")
        wait_for(lambda crl=crl: revokes(crl, serial), "the revocation", 30, 0.2)  # type: ignore[misc]
    assert not extra.reaches_libvirt(fleet.lab.hosts[0])
    assert not fleet.lab.hosts[0].reaches_libvirt(extra)  # nor do they go to it
    with pytest.raises(subprocess.CalledProcessError) as error:
        extra.run(sys.executable, "-c", RENEW)
    assert "UnauthenticatedError" in error.value.stderr
    extra.kill()
    fleet.lab.hosts.remove(extra)


def test_qemu_can_read_its_own_key_and_no_other(fleet: Fleet) -> None:
    host = fleet.lab.hosts[0]

    def read(path: str) -> None:
        host.run("setpriv", "--reuid=libvirt-qemu", "--regid=libvirt-qemu", "--init-groups", "cat", path)

    read("/etc/pki/qemu/server-key.pem")
    read("/etc/pki/qemu/client-key.pem")
    for path in (
        "/etc/pki/libvirt/private/clientkey.pem",
        "/var/lib/ostler/agent/credentials/host.pem",
    ):
        host.run("cat", path)  # it is there
        with pytest.raises(subprocess.CalledProcessError, match="cat"):
            read(path)


def test_qemus_certificate_opens_no_door(fleet: Fleet) -> None:
    """It is good between QEMUs, which every live migration here shows, and nowhere else."""
    host, other = fleet.lab.hosts[:2]
    other.admit(fleet.host(host).id)
    doors = {
        name: host.reaches_libvirt(other, install_client(held, host, f"stolen-from-{name}"))
        for name, held in (("host", credentials(host)), ("qemu", qemu_credentials(host)))
    }
    assert doors == {"host": True, "qemu": False}

    held = qemu_credentials(host)
    with open_channel(other.agent_address, held, host_server_name(fleet.host(other).id)) as channel:
        agent = agent_grpc.HostServiceStub(channel)
        assert refused(agent.GetHost, agent_pb2.GetHostRequest()).code == "PERMISSION_DENIED"
    _, csr = pki.new_key_and_csr(None)
    with open_channel(fleet.lab.control.address, held, CONTROL_SERVER_NAME) as channel:
        renewal = enrollment_pb2.RenewCertificateRequest(csr_pem=csr, qemu_csr_pem=csr)
        error = refused(enrollment_pb2_grpc.HostAgentServiceStub(channel).RenewCertificate, renewal)
        assert error.code == "UNAUTHENTICATED"


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
