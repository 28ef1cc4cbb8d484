"""A whole control plane in this process, and callers of every kind for it."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path

import grpc
from ostler_common import pki
from ostler_common.channel import CONTROL_SERVER_NAME, open_channel
from ostler_common.identity import Identity, Kind
from ostler_common.tls import TlsFiles
from ostler_control import database
from ostler_control.caller import Role
from ostler_control.config import ControlConfig
from ostler_control.fleet.watcher import Intervals
from ostler_control.initialize import initialize
from ostler_control.models import Account, Cluster, Host, Zone
from ostler_control.server import Control
from ostler_control.trust import users
from ostler_control.trust.authority import Authority, Lifetimes

QUICK = Intervals(rescan_s=0.2, sweep_s=0.3, pools_s=0.5, grace_s=1.0)


class Fleet:
    """A control plane's state, made by `initialize`, with ways to make callers for it."""

    def __init__(self, directory: Path, database_url: str = "") -> None:
        self.directory = directory
        self.config = ControlConfig(
            state_dir=directory / "state",
            listen="127.0.0.1:0",
            enroll_listen="127.0.0.1:0",
            metrics_listen="127.0.0.1:0",
            advertise_address="127.0.0.1",
            database_url=database_url,
            workers=16,
        )
        self.said = list(initialize(self.config, "admin", directory / "profile.toml"))
        self.authority = Authority.load(self.config.state, self.config.lifetimes)

    @contextlib.contextmanager
    def running(self) -> Iterator[Control]:
        """The control plane serving on free loopback ports."""
        control = Control(self.config, QUICK)
        try:
            yield control
        finally:
            control.stop()

    @property
    def admin(self) -> TlsFiles:
        """The first admin's credentials."""
        pair = self.directory / "profile-admin.pem"
        return TlsFiles(pair, pair, self.directory / "profile-ca.pem")

    def user(self, name: str, role: Role) -> TlsFiles:
        """A new user's credentials. Needs the database bound, like everything below."""
        with database.transaction():
            account = Account.get_or_none(Account.name == name) or Account.create(name=name)
            user = users.create(name, role, account, "test")
            key, csr = pki.new_key_and_csr(users.identity(user))
            return self.credentials(name, key, users.issue(self.authority, user, csr, "test"))

    def host(self, name: str, address: str = "127.0.0.1:1") -> tuple[Host, TlsFiles]:
        """A host as after its join, in cluster c of zone z, and its credentials."""
        with database.transaction():
            zone = Zone.get_or_none(Zone.name == "z") or Zone.create(name="z")
            cluster = Cluster.get_or_none(Cluster.name == "c") or Cluster.create(name="c", zone=zone)
            host: Host = Host.create(name=name, address=address, cluster=cluster)
            identity = Identity(Kind.HOST, str(host.id))
            key, csr = pki.new_key_and_csr(identity)
            return host, self.credentials(name, key, self.authority.issue(csr, identity, ("127.0.0.1",)))

    def credentials(self, name: str, key: bytes, certificate: bytes) -> TlsFiles:
        """Credentials on disk, as their holder keeps them."""
        path = self.directory / f"{name}.pem"
        pki.write_private(path, key + certificate)
        return TlsFiles(path, path, self.config.state.fleet_trust)

    def short_lived(self, lifetime: datetime.timedelta) -> Authority:
        """The same authority, whose certificates end soon."""
        return Authority.load(self.config.state, Lifetimes(lifetime, lifetime, lifetime))


def channel(port: int, credentials: TlsFiles) -> grpc.Channel:
    """A channel to the control plane under test."""
    return open_channel(f"127.0.0.1:{port}", credentials, CONTROL_SERVER_NAME)


def bare_channel(port: int, ca_pem: bytes) -> grpc.Channel:
    """A channel without a client certificate."""
    options = (("grpc.ssl_target_name_override", CONTROL_SERVER_NAME), ("grpc.use_local_subchannel_pool", 1))
    return grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(ca_pem), options)
