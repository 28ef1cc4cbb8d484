"""libvirt's and QEMU's share of the host's credentials: their TLS files, their settings, and their reload."""

from __future__ import annotations

import grp
import os
import re
from dataclasses import dataclass
from pathlib import Path

import structlog
from ostler_common import pki
from ostler_common.errors import OstlerError

from ostler_agent import process
from ostler_agent.credentials import HostCredentials
from ostler_agent.hypervisors.libvirt.options import LibvirtOptions

log = structlog.get_logger(__name__)

_BEGIN = "# BEGIN Ostler (kept by ostler-agent; change what is outside of it)"
_END = "# END Ostler"
_BLOCK = re.compile(rf"^{re.escape(_BEGIN)}$.*?^{re.escape(_END)}$\n?", re.DOTALL | re.MULTILINE)
_QEMU_GROUPS = ("libvirt-qemu", "qemu")  # Debian and its children; Fedora and its
_DAEMONS = ("libvirtd", "virtproxyd")  # whichever answers qemu+tls here


@dataclass(frozen=True)
class LibvirtTls:
    """`driver.CredentialsConsumer`: keeps libvirt and QEMU in step with the credentials. Every method may be repeated.

    pki_dir: where libvirt looks (/etc/pki); qemu_dir: QEMU's `default_tls_x509_cert_dir`; config_dir: of libvirtd.conf
    and qemu.conf; qemu_group: group that QEMU runs as and that may read QEMU's own key, empty to find it out. The
    host's key is root's alone: a guest that broke out of its QEMU must not be able to speak for the host.
    """

    pki_dir: Path
    qemu_dir: Path
    config_dir: Path
    qemu_group: str = ""
    run_dir: Path = Path("/run/libvirt")  # where daemons have their sockets

    @classmethod
    def of(cls, options: LibvirtOptions) -> LibvirtTls:
        return cls(options.pki_dir, options.qemu_pki_dir, options.config_dir, options.qemu_group)

    def install(self, credentials: HostCredentials) -> bool:
        """Writes the certificates, keys and lists; returns whether anything changed. Raises OSError."""
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
            libvirt / "servercert.pem": credentials.certificate_pem,
            libvirt / "clientcert.pem": credentials.certificate_pem,
            self.qemu_dir / "ca-cert.pem": credentials.ca_pem,
            self.qemu_dir / "ca-crl.pem": credentials.crl_pem,
            self.qemu_dir / "server-cert.pem": credentials.qemu_certificate_pem,
            self.qemu_dir / "client-cert.pem": credentials.qemu_certificate_pem,
        }
        keys = (private / "serverkey.pem", private / "clientkey.pem")
        qemu_keys = (self.qemu_dir / "server-key.pem", self.qemu_dir / "client-key.pem")
        changed = [pki.replace_file(path, credentials.key_pem, 0o600) for path in keys]
        changed += [pki.replace_file(path, credentials.qemu_key_pem, 0o640, group) for path in qemu_keys]
        for path, content in public.items():
            if content:
                changed.append(pki.replace_file(path, content, 0o644))
            elif path.exists():  # GnuTLS takes an empty list for a broken one
                path.unlink()
                changed.append(True)
        return any(changed)

    def settings(self) -> dict[Path, str]:
        """What has to stand in libvirt's files."""
        pairs = {"listen_tls": "1", "auth_tls": '"none"', "tls_allowed_dn_list": '["*O=Ostler hosts*"]'}
        pairs["tls_priority"] = '"NORMAL:-VERS-ALL:+VERS-TLS1.3"'
        if self.pki_dir != Path("/etc/pki"):
            pairs["ca_file"] = f'"{self.pki_dir}/CA/cacert.pem"'
            pairs["crl_file"] = f'"{self.pki_dir}/CA/cacrl.pem"'
            pairs["cert_file"] = f'"{self.pki_dir}/libvirt/servercert.pem"'
            pairs["key_file"] = f'"{self.pki_dir}/libvirt/private/serverkey.pem"'
        daemon = "".join(f"{key} = {value}\n" for key, value in pairs.items())
        qemu = f'default_tls_x509_cert_dir = "{self.qemu_dir}"\ndefault_tls_x509_verify = 1\nmigrate_tls_force = 1\n'
        files = {"libvirtd.conf": daemon, "virtproxyd.conf": daemon, "qemu.conf": qemu}
        return {self.config_dir / name: lines for name, lines in files.items()}

    def configure(self) -> list[str]:
        """Puts the settings into those of the files that exist; when one changed, its daemon must restart.

        They stand in a marked block at the top, because libvirt takes the first of two settings.
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
            f"changed {', '.join(map(str, changed))}; now, for live migration over TLS:",
            "  systemctl stop libvirtd.service && systemctl enable --now libvirtd-tls.socket",
        ]

    def reload(self) -> None:
        """Has running daemons take up new certificates; connections and VMs are not touched. Failures are logged."""
        for daemon in _DAEMONS:
            sockets = {"libvirtd": "libvirt-admin-sock", "virtproxyd": "virtproxyd-admin-sock"}
            if not (self.run_dir / sockets[daemon]).exists():
                continue
            command = ("virt-admin", "--connect", f"{daemon}:///system", "server-update-tls", daemon)
            try:
                process.run(command, timeout_s=30)
                log.info("TLS files reloaded", daemon=daemon)
            except OstlerError as error:
                log.error("new TLS files not taken up (restart the daemon)", daemon=daemon, reason=error.message)

    def _qemu_gid(self) -> int:
        for name in [self.qemu_group] if self.qemu_group else _QEMU_GROUPS:
            try:
                return grp.getgrnam(name).gr_gid
            except KeyError:
                continue
        return os.getgid()
