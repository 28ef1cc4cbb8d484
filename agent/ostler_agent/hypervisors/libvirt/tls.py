"""Installs the host's credentials for libvirt and QEMU: TLS files and settings."""

from __future__ import annotations

import grp
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ostler_common import pki

from ostler_agent.credentials import HostCredentials
from ostler_agent.hypervisors.libvirt.options import LibvirtOptions

_BEGIN = "# BEGIN Ostler (managed by ostler-agent; edit only outside this block)"
_END = "# END Ostler"
_BLOCK = re.compile(rf"^{re.escape(_BEGIN)}$.*?^{re.escape(_END)}$\n?", re.DOTALL | re.MULTILINE)
_QEMU_GROUPS = ("libvirt-qemu", "qemu")  # Debian and its children; Fedora and its


@dataclass(frozen=True)
class LibvirtTls:
    """The `driver.CredentialsConsumer` of libvirt and QEMU.

    pki_dir: where libvirt reads TLS files (/etc/pki); qemu_dir: QEMU's `default_tls_x509_cert_dir`; config_dir: of
    libvirtd.conf and qemu.conf; qemu_group: group that QEMU runs as and that may read QEMU's own key (empty: detected).
    libvirt is a client only (the migration gateway serves the network): it and QEMU read the files at every connection.
    Only root may read the host's key: a guest that breaks out of its QEMU must not be able to impersonate the host.
    """

    pki_dir: Path
    qemu_dir: Path
    config_dir: Path
    qemu_group: str = ""

    @classmethod
    def of(cls, options: LibvirtOptions) -> LibvirtTls:
        return cls(options.pki_dir, options.qemu_pki_dir, options.config_dir, options.qemu_group)

    def install(self, credentials: HostCredentials) -> bool:
        """Writes certificates, keys and revocation lists; returns whether anything changed. Raises OSError."""
        libvirt, private = self.pki_dir / "libvirt", self.pki_dir / "libvirt" / "private"
        for directory, mode in (
            (self.pki_dir / "CA", 0o755),
            (libvirt, 0o755),
            (private, 0o700),
            (self.qemu_dir, 0o750),
        ):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(mode)
        group = self._qemu_gid()
        os.chown(self.qemu_dir, -1, group)
        public = {
            self.pki_dir / "CA" / "cacert.pem": credentials.ca_pem,
            self.pki_dir / "CA" / "cacrl.pem": credentials.crl_pem,
            libvirt / "clientcert.pem": credentials.certificate_pem,
            self.qemu_dir / "ca-cert.pem": credentials.ca_pem,
            self.qemu_dir / "ca-crl.pem": credentials.crl_pem,
            self.qemu_dir / "server-cert.pem": credentials.qemu_certificate_pem,
            self.qemu_dir / "client-cert.pem": credentials.qemu_certificate_pem,
        }
        qemu_keys = (self.qemu_dir / "server-key.pem", self.qemu_dir / "client-key.pem")
        changed = [pki.replace_file(private / "clientkey.pem", credentials.key_pem, 0o600)]
        changed += [pki.replace_file(path, credentials.qemu_key_pem, 0o640, group) for path in qemu_keys]
        for path, content in public.items():
            if content:
                changed.append(pki.replace_file(path, content, 0o644))
            elif path.exists():  # GnuTLS rejects an empty list
                path.unlink()
                changed.append(True)
        return any(changed)

    def settings(self) -> dict[Path, str]:
        """The settings that libvirt's files must contain, by file."""
        daemon = "listen_tls = 0\nlisten_tcp = 0\n"
        qemu = f'default_tls_x509_cert_dir = "{self.qemu_dir}"\ndefault_tls_x509_verify = 1\nmigrate_tls_force = 1\n'
        files = {"libvirtd.conf": daemon, "virtproxyd.conf": daemon, "qemu.conf": qemu}
        return {self.config_dir / name: lines for name, lines in files.items()}

    def configure(self) -> list[str]:
        """Writes the settings into those of the files that exist; returns what the operator must do then.

        The settings are in a marked block at the top, because libvirt uses the first of two equal settings.
        """
        changed = []
        for path, lines in self.settings().items():
            if not path.exists():
                continue
            old = path.read_text()
            new = f"{_BEGIN}\n{lines}{_END}\n" + _BLOCK.sub("", old)
            if pki.replace_file(path, new.encode(), path.stat().st_mode & 0o777):
                changed.append(path)
        if not changed:
            return []
        return [
            f"changed {', '.join(map(str, changed))}; to keep keys in memory and to migrate over TLS, run:",
            "  systemctl stop libvirtd.service",
            "  systemctl enable --now ostler-libvirt-keys.service ostler-migration-gateway.service",
            "  systemctl enable --now ostler-vlan-bridges.path",
        ]

    def _qemu_gid(self) -> int:
        for name in [self.qemu_group] if self.qemu_group else _QEMU_GROUPS:
            try:
                return grp.getgrnam(name).gr_gid
            except KeyError:
                continue
        return os.getgid()
