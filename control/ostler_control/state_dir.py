"""The state directory: its files, and who may read them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ostler_common.tls import TlsFiles

# Where systemd looks for credentials; only root may read it.
CREDENTIAL_STORE = "/etc/credstore"


@dataclass(frozen=True)
class StateDir:
    """Paths in the control plane's state directory (0700).

    fleet_ca, users_ca and control hold a certificate and its key in one file: both come and change in one rename.
    """

    path: Path

    @property
    def fleet_ca(self) -> Path:
        return self._secret("fleet-ca.pem", "ostler-fleet-ca")

    @property
    def users_ca(self) -> Path:
        return self._secret("users-ca.pem", "ostler-users-ca")

    @property
    def control(self) -> Path:
        """The control plane's own certificate and key."""
        return self.path / "control.pem"

    @property
    def fleet_trust(self) -> Path:
        """The fleet CA's certificate: what agents are verified by."""
        return self.path / "trust-fleet.pem"

    @property
    def callers_trust(self) -> Path:
        """The certificates of both CAs: what callers of the main port are verified by."""
        return self.path / "trust-callers.pem"

    @property
    def database(self) -> Path:
        return self.path / "ostler.db"

    @property
    def old_journal(self) -> Path:
        """The steps of operations, as older releases kept them when the database is SQLite."""
        return self.path / "dbos.sqlite"

    @property
    def templates(self) -> Path:
        """Template files, each named by its id."""
        return self.path / "templates"

    @property
    def kek(self) -> Path:
        """The key-encryption key."""
        return self._secret("kek", "ostler-kek")

    def server_tls(self) -> TlsFiles:
        """What the servers speak TLS with."""
        return TlsFiles(self.control, self.control, self.callers_trust)

    def client_tls(self) -> TlsFiles:
        """What agents are spoken to with."""
        return TlsFiles(self.control, self.control, self.fleet_trust)

    def _secret(self, name: str, credential: str) -> Path:
        """systemd's credential where there is one (handed over, or about to be), else the file here."""
        return credential_file(credential) or self.path / name


def credential_file(name: str) -> Path | None:
    """systemd's credential of this name: handed over, or about to be."""
    places = [Path(place) for place in (os.environ.get("CREDENTIALS_DIRECTORY"), CREDENTIAL_STORE) if place]
    return next((place / name for place in places if (place / name).exists()), None)
