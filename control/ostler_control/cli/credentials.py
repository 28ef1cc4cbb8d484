"""A user's key, certificate and profile on disk. Keys are made here and never sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
from ostler.client import profile
from ostler.client.profile import Profile
from ostler_common import pki
from ostler_common.identity import Identity, Kind

CA = "ca.pem"
PROFILE = "profile.toml"


@dataclass(frozen=True)
class Pending:
    """A directory that has a key and waits for its certificate."""

    directory: Path
    name: str
    control_address: str
    csr_pem: bytes


def request(name: str) -> tuple[bytes, bytes]:
    """A new key and the request for its certificate, both PEM."""
    return pki.new_key_and_csr(Identity(Kind.USER, name))


def new(name: str, control_address: str, directory: Path) -> Pending:
    """Makes the directory (which must not exist) with a new key in it."""
    key_pem, csr_pem = request(name)
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise click.UsageError(f"{directory} exists already: remove it, or give another --directory") from None
    pki.write_private(directory / f"{name}.key", key_pem)
    return Pending(directory, name, control_address, csr_pem)


def complete(pending: Pending, certificate_pem: bytes, ca_pem: bytes) -> Path:
    """Puts certificate, CA and profile beside the key; returns the profile's path."""
    certificate, key = f"{pending.name}.pem", f"{pending.name}.key"
    pki.write_public(pending.directory / certificate, certificate_pem)
    pki.write_public(pending.directory / CA, ca_pem)
    path = pending.directory / PROFILE
    pki.write_private(path, profile.text(pending.control_address, CA, certificate, key).encode())
    return path


def replace(old: Profile, key_pem: bytes, certificate_pem: bytes, ca_pem: bytes) -> None:
    """Puts a new key and certificate into a profile. A crash leaves the old pair or the new one, never a mixture:
    the two go into files of a new name, and the profile is replaced in one rename."""
    serial = pki.fingerprint(certificate_pem)[:8]
    directory = old.path.absolute().parent
    certificate, key = directory / f"user-{serial}.pem", directory / f"user-{serial}.key"
    pki.write_private(key, key_pem)
    pki.write_public(certificate, certificate_pem)
    if old.ca.read_bytes() != ca_pem:
        pki.write_public(old.ca, ca_pem)
    pki.write_private(old.path, profile.text(old.control_address, str(old.ca), certificate.name, key.name).encode())
    for file in {old.certificate, old.key}:
        if file.parent == directory:
            file.unlink(missing_ok=True)
