"""What tests of VMs on another KVM host share."""

from __future__ import annotations

from ostler_agent.tools.ssh import SshServer
from ostler_common.secret import Secret

from tests.lab.ssh import PORT, Sshd


def ssh_server(sshd: Sshd) -> SshServer:
    """How the agent logs in."""
    return SshServer(sshd.host.address, PORT, "root", Secret(sshd.private_key.read_bytes()), sshd.known_hosts.encode())
