"""libvirtd of a lab host that listens with TLS, as a KVM host may have that no Ostler manages."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ostler_common.identity import Identity, Kind
from ostler_common.tls import TlsFiles

from tests.fakes.certificates import ThrowawayCa
from tests.lab.host import Host, wait_for

PORT = 16514


@dataclass(frozen=True)
class TlsLibvirt:
    """libvirtd that listens, and QEMU that may, with certificates of a CA of its own. client: what it lets in."""

    host: Host
    ca: ThrowawayCa
    client: TlsFiles

    @classmethod
    def start(cls, host: Host) -> TlsLibvirt:
        """Replaces the libvirtd that runs on the host."""
        directory = host.root / "libvirt-ca"
        directory.mkdir()
        ca = ThrowawayCa(directory, "libvirt")
        own = ca.issue(Identity(Kind.HOST, "libvirt"), addresses=(host.address,))
        pki = host.outside("/etc/pki")
        for place, file in (
            ("CA/cacert.pem", own.trust),
            ("libvirt/servercert.pem", own.certificate),
            ("libvirt/private/serverkey.pem", own.key),
            ("qemu/ca-cert.pem", own.trust),
            ("qemu/server-cert.pem", own.certificate),
            ("qemu/server-key.pem", own.key),
        ):
            (pki / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, pki / place)
        for name, lines in (
            ("libvirtd.conf", "listen_tls = 1\nlisten_tcp = 0\n"),
            ("qemu.conf", 'backup_tls_x509_cert_dir = "/etc/pki/qemu"\nbackup_tls_x509_verify = 1\n'),
        ):
            with (host.outside("/etc/libvirt") / name).open("a") as config:
                config.write(lines)
        listening = cls(host, ca, ca.issue(Identity(Kind.CONTROL, "client")))
        listening.restart()
        return listening

    def restart(self) -> None:
        """Ends libvirtd, with every connection, and starts it again."""
        self.host.stop_libvirt("KILL")
        self.host.start_daemon("libvirtd", ["libvirtd", "--listen"])
        wait_for(self._listens, f"libvirtd of {self.host.name}", 60, 0.2)

    def stranger(self) -> TlsFiles:
        """A certificate of another CA, whose holder trusts this libvirtd."""
        with tempfile.TemporaryDirectory() as name:
            other = ThrowawayCa(Path(name), "other").issue(Identity(Kind.CONTROL, "client"))
            kept = self.ca.directory / "stranger.pem"
            shutil.copy(other.certificate, kept)
        return TlsFiles(kept, kept, self.client.trust)

    def _listens(self) -> bool:
        if not self.host.daemon_alive("libvirtd"):
            raise RuntimeError(f"libvirtd of {self.host.name} ended: {self.host.log('libvirtd')}")
        return bool(self.host.run("ss", "-Hltn", f"sport = :{PORT}"))
