"""Joining, renewing, rejoining, and new trust, against a small control plane."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from ostler_agent import join as joining
from ostler_agent.credentials import CredentialsStore, HostCredentials
from ostler_agent.hypervisors.libvirt.tls import LibvirtTls
from ostler_agent.renewal import CredentialsManager, Renewer, due_at
from ostler_common import pki
from ostler_common.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    OstlerError,
    PermissionDeniedError,
    UnavailableError,
)
from ostler_common.identity import Identity, Kind
from ostler_common.token import JoinToken

from tests.fakes.enrollment import Enrollment, enrollment

HOST = "5b6c9a0c-0000-4000-8000-000000000001"


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Enrollment]:
    directory = tmp_path / "control"
    directory.mkdir()
    with enrollment(directory) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> CredentialsStore:
    return CredentialsStore(tmp_path / "state")


@pytest.fixture
def libvirt(tmp_path: Path) -> LibvirtTls:
    config = tmp_path / "libvirt"
    config.mkdir()
    return LibvirtTls(tmp_path / "pki", tmp_path / "qemu", config)


def join(store: CredentialsStore, token: JoinToken) -> HostCredentials:
    return joining.join(store, token, "", "h1.example:8442")


def test_join_gives_papers_whose_key_never_left_the_host(control: Enrollment, store: CredentialsStore) -> None:
    credentials = join(store, control.token(HOST))
    assert credentials.host_id == HOST
    assert credentials.control_address == f"127.0.0.1:{control.control_port}"
    assert control.requests[0].address == "h1.example:8442"
    for key in (credentials.key_pem, credentials.qemu_key_pem):
        assert key not in control.requests[0].SerializeToString()
    assert vars(store.load()) == vars(credentials)


def test_token_of_another_fleet_is_not_sent(control: Enrollment, store: CredentialsStore) -> None:
    other = pki.fingerprint(pki.CertificateAuthority.create("other").certificate_pem)
    with pytest.raises(PermissionDeniedError) as caught:
        join(store, replace(control.token(HOST), ca_sha256=other))
    assert caught.value.reason == "WRONG_CONTROL_PLANE"
    assert control.requests == []
    assert not store.joined


def test_server_that_only_shows_the_right_authority_is_not_believed(control: Enrollment, tmp_path: Path) -> None:
    """Somebody in between sends the real CA's certificate along with one of their own staging."""
    token = control.token(HOST)
    directory = tmp_path / "mallory"
    directory.mkdir()
    with enrollment(directory) as mallory:
        trust = mallory.issuer.trust
        pki.write_public(trust, control.issuer.ca.certificate_pem)
        with pytest.raises(PermissionDeniedError) as caught:
            joining.verified_ca("127.0.0.1", mallory.enroll_port, token.ca_sha256)
    assert caught.value.reason == "WRONG_CONTROL_PLANE"


def test_token_is_good_once(control: Enrollment, store: CredentialsStore) -> None:
    token = control.token(HOST)
    credentials = join(store, token)
    with pytest.raises(PermissionDeniedError, match="make another one"):
        join(store, token)
    assert vars(store.load()) == vars(credentials)


def test_rejoin_keeps_the_host(control: Enrollment, store: CredentialsStore) -> None:
    control.lifetime = timedelta(minutes=1)
    assert join(store, control.token(HOST)).expired()
    control.lifetime = timedelta(days=1)
    again = join(store, control.token(HOST))
    assert (again.host_id, again.expired()) == (HOST, False)


def test_nobody_there(store: CredentialsStore) -> None:
    with pytest.raises(UnavailableError):
        joining.join(store, JoinToken("s", "0" * 64), "127.0.0.1:1", "h1:8442")


def test_renewal_uses_a_fresh_key_and_keeps_the_identity(
    control: Enrollment, store: CredentialsStore, libvirt: LibvirtTls
) -> None:
    old = join(store, control.token(HOST))
    CredentialsManager(store, libvirt).renew()
    new = store.load()
    assert new.host_id == HOST
    assert len({old.key_pem, old.qemu_key_pem, new.key_pem, new.qemu_key_pem}) == 4
    assert (libvirt.pki_dir / "libvirt/clientcert.pem").read_bytes() == new.certificate_pem


def renewer(store: CredentialsStore, libvirt: LibvirtTls, now: datetime, jitter: float = 0.0) -> Renewer:
    return Renewer(store, CredentialsManager(store, libvirt), now=lambda: now, jitter=lambda: jitter)


def test_renews_when_a_third_is_left_and_not_before(
    control: Enrollment, store: CredentialsStore, libvirt: LibvirtTls
) -> None:
    credentials = join(store, control.token(HOST))
    due = pki.renew_at(credentials.certificate_pem)
    wait_s = renewer(store, libvirt, due - timedelta(seconds=10)).turn()
    assert (control.renewals, round(wait_s)) == (0, 10)
    renewer(store, libvirt, due).turn()
    assert control.renewals == 1
    assert store.load().certificate_pem != credentials.certificate_pem


def test_jitter_spreads_renewals_over_a_tenth_of_the_last_third(control: Enrollment, store: CredentialsStore) -> None:
    credentials = join(store, control.token(HOST))
    earliest, latest = due_at(credentials, 0.0), due_at(credentials, 1.0)
    assert earliest == pki.renew_at(credentials.certificate_pem)
    assert latest - earliest == (credentials.expire_time - earliest) / 10


def test_refused_renewal_is_tried_again_while_there_is_time(
    control: Enrollment, store: CredentialsStore, libvirt: LibvirtTls
) -> None:
    credentials = join(store, control.token(HOST))
    control.refuse = True
    now = credentials.expire_time - timedelta(seconds=40)
    with structlog.testing.capture_logs() as logs:
        assert renewer(store, libvirt, now, jitter=0.5).turn() == 10
    assert "removed" in str(logs)
    assert store.load().certificate_pem == credentials.certificate_pem


def test_ended_certificate_says_how_to_rejoin_and_a_rejoin_is_noticed(
    control: Enrollment, store: CredentialsStore, libvirt: LibvirtTls
) -> None:
    credentials = join(store, control.token(HOST))
    later = credentials.expire_time + timedelta(seconds=1)
    keeping = renewer(store, libvirt, later)
    with structlog.testing.capture_logs() as logs:
        keeping.turn()
    assert f"ostler host token CLUSTER --rejoin {HOST}" in str(logs)
    assert control.renewals == 0
    control.lifetime = timedelta(days=10)
    rejoined = join(store, control.token(HOST))
    keeping.turn()
    assert (libvirt.pki_dir / "libvirt/clientcert.pem").read_bytes() == rejoined.certificate_pem


def test_new_trust_reaches_libvirt(control: Enrollment, store: CredentialsStore, libvirt: LibvirtTls) -> None:
    join(store, control.token(HOST))
    ca = control.issuer.ca
    crl = ca.crl([(4711, datetime.now(UTC))], 1)
    manager = CredentialsManager(store, libvirt)
    manager.update(ca.certificate_pem, crl)
    assert store.load().crl_pem == crl
    assert (libvirt.pki_dir / "CA/cacrl.pem").read_bytes() == crl
    before = store.load().control_address
    manager.update(ca.certificate_pem, b"")
    assert store.load().control_address == before
    manager.update(ca.certificate_pem, b"", "ctl1:8440,ctl2:8440")
    assert store.load().control_address == "ctl1:8440,ctl2:8440"
    assert not (libvirt.pki_dir / "CA/cacrl.pem").exists()
    assert not (libvirt.qemu_dir / "ca-crl.pem").exists()


@pytest.mark.parametrize(
    ("ca_pem", "crl_pem"),
    [
        (pki.CertificateAuthority.create("other").certificate_pem, b""),
        (b"no PEM", b""),
        (None, b"no PEM"),
    ],
)
def test_trust_that_would_cut_the_host_off_is_refused(
    control: Enrollment, store: CredentialsStore, libvirt: LibvirtTls, ca_pem: bytes | None, crl_pem: bytes
) -> None:
    credentials = join(store, control.token(HOST))
    with pytest.raises(InvalidArgumentError) as caught:
        CredentialsManager(store, libvirt).update(ca_pem or credentials.ca_pem, crl_pem)
    assert caught.value.reason == "BAD_TRUST"
    assert vars(store.load()) == vars(credentials)


def test_renewal_before_joining_is_an_error(store: CredentialsStore, libvirt: LibvirtTls) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        CredentialsManager(store, libvirt).renew()
    assert caught.value.reason == "NOT_JOINED"


def test_renewal_passes_over_a_replica_that_is_down(
    control: Enrollment, store: CredentialsStore, libvirt: LibvirtTls
) -> None:
    old = join(store, control.token(HOST))
    several = f"127.0.0.1:1,{old.control_address}"
    assert CredentialsManager(store, libvirt, several).renew().certificate_pem != old.certificate_pem


def test_control_plane_that_is_away_is_a_clear_error(
    control: Enrollment, store: CredentialsStore, libvirt: LibvirtTls
) -> None:
    join(store, control.token(HOST))
    with pytest.raises(OstlerError) as caught:
        CredentialsManager(store, libvirt, "127.0.0.1:1").renew()
    assert caught.value.code == "UNAVAILABLE"


def test_libvirt_files_can_be_read_by_those_who_must(
    control: Enrollment, store: CredentialsStore, libvirt: LibvirtTls
) -> None:
    credentials = join(store, control.token(HOST))
    assert libvirt.install(credentials)
    assert not libvirt.install(credentials)

    def mode(path: Path) -> int:
        return stat.S_IMODE(os.stat(path).st_mode)

    assert mode(libvirt.pki_dir / "libvirt/private/clientkey.pem") == 0o600
    assert mode(libvirt.qemu_dir / "server-key.pem") == 0o640
    assert mode(libvirt.qemu_dir) == 0o750


def test_qemu_gets_its_own_certificate_and_nothing_of_the_hosts(
    control: Enrollment, store: CredentialsStore, libvirt: LibvirtTls
) -> None:
    credentials = join(store, control.token(HOST))
    libvirt.install(credentials)
    for role in ("server", "client"):
        certificate = (libvirt.qemu_dir / f"{role}-cert.pem").read_bytes()
        pki.check_pair(certificate, (libvirt.qemu_dir / f"{role}-key.pem").read_bytes())
        assert pki.identity_and_serial(certificate)[0] == Identity(Kind.QEMU, HOST)
    for path in libvirt.qemu_dir.iterdir():
        assert credentials.key_pem not in path.read_bytes()


@pytest.mark.parametrize("written", range(8))
def test_renewal_cut_off_in_the_middle_is_completed(
    control: Enrollment, store: CredentialsStore, libvirt: LibvirtTls, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """The agent dies after so many of libvirt's and QEMU's files: the next one puts both pairs in step."""
    libvirt.install(join(store, control.token(HOST)))
    replace_file = pki.replace_file
    left = [True] * written

    def die_in_the_middle(path: Path, data: bytes, mode: int, group: int = -1) -> bool:
        if path.is_relative_to(libvirt.pki_dir) or path.is_relative_to(libvirt.qemu_dir):
            if not left:
                raise KeyboardInterrupt
            left.pop()
        return replace_file(path, data, mode, group)

    with monkeypatch.context() as patched:
        patched.setattr(pki, "replace_file", die_in_the_middle)
        with pytest.raises(KeyboardInterrupt):
            CredentialsManager(store, libvirt).renew()
    renewer(store, libvirt, datetime.now(UTC)).turn()
    credentials = store.load()
    credentials.check()
    for certificate, key, pair in (
        (
            libvirt.pki_dir / "libvirt/clientcert.pem",
            libvirt.pki_dir / "libvirt/private/clientkey.pem",
            credentials.key_pem,
        ),
        (libvirt.qemu_dir / "server-cert.pem", libvirt.qemu_dir / "server-key.pem", credentials.qemu_key_pem),
        (libvirt.qemu_dir / "client-cert.pem", libvirt.qemu_dir / "client-key.pem", credentials.qemu_key_pem),
    ):
        assert key.read_bytes() == pair
        pki.check_pair(certificate.read_bytes(), pair)


def test_settings_stand_first_and_only_once(libvirt: LibvirtTls) -> None:
    daemon, qemu = libvirt.config_dir / "libvirtd.conf", libvirt.config_dir / "qemu.conf"
    daemon.write_text('listen_tls = 1\nhost_uuid = "x"\n')
    qemu.write_text("")
    assert f"changed {daemon}, {qemu};" in libvirt.configure()[0]
    once = daemon.read_text()
    assert libvirt.configure() == []
    assert daemon.read_text() == once
    assert once.index("listen_tls = 0") < once.index("listen_tls = 1")
    assert 'host_uuid = "x"' in once
    assert "migrate_tls_force = 1" in qemu.read_text()
    assert not (libvirt.config_dir / "virtproxyd.conf").exists()
