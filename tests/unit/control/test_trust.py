"""Tokens, certificates, users, and what `ostler-control init` leaves behind."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from ostler_common import pki
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, OstlerError, UnauthenticatedError
from ostler_common.identity import Identity, Kind
from ostler_control import database
from ostler_control.caller import Role
from ostler_control.hosts import manage as manage_hosts
from ostler_control.initialize import initialize, write_user_profile
from ostler_control.models import Certificate, Cluster, Event, Host, JoinToken, User, now
from ostler_control.trust import certificates, enrollment, revocation, tokens, users

from tests.fakes.fleet import Fleet

HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def fleet(tmp_path: Path, fresh_database: str) -> Iterator[Fleet]:
    """A fleet on each kind of database, with cluster c."""
    fleet = Fleet(tmp_path, fresh_database)
    database.connect(fresh_database)  # initialize has let go of it
    with database.session():
        fleet.host("first")
        yield fleet


def csr() -> bytes:
    return pki.new_key_and_csr(None)[1]


def requests() -> enrollment.Requests:
    return enrollment.Requests(csr(), csr())


def join(fleet: Fleet, secret: str, name: str) -> enrollment.HostCertificates:
    return enrollment.join(fleet.authority, secret, requests(), name, "10.0.0.9:8442")


def serial(certificate_pem: bytes) -> int:
    return x509.load_pem_x509_certificate(certificate_pem).serial_number


def token(host: Host | None = None, ttl: datetime.timedelta = HOUR) -> str:
    return enrollment.create_token(Cluster.get(Cluster.name == "c"), host, ttl, "test")[0]


def at_once(calls: list[Callable[[], object]]) -> list[object]:
    """What each of the calls, begun at the same moment, returns or raises."""
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return call()
        except OstlerError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(one, calls))


def test_token_is_used_once_however_many_try(fleet: Fleet) -> None:
    secret = token()
    results = at_once([lambda i=i: join(fleet, secret, f"h{i}") for i in range(8)])  # type: ignore[misc]
    winners = [result for result in results if isinstance(result, enrollment.HostCertificates)]
    assert len(winners) == 1
    assert all(isinstance(result, UnauthenticatedError) for result in results if result not in winners)
    assert Host.select().where(Host.name.startswith("h")).count() == 1


def test_token_ends(fleet: Fleet) -> None:
    secret = token(ttl=datetime.timedelta(seconds=-1))
    with pytest.raises(UnauthenticatedError):
        join(fleet, secret, "late")


def test_failed_join_leaves_its_token_good(fleet: Fleet) -> None:
    secret = token()
    with pytest.raises(OstlerError, match="a host first already"):
        join(fleet, secret, "first")
    for bad in (enrollment.Requests(b"no request", csr()), enrollment.Requests(csr(), b"")):
        with pytest.raises(InvalidArgumentError):
            enrollment.join(fleet.authority, secret, bad, "second", "10.0.0.9:8442")
    assert join(fleet, secret, "second").host_id


def test_only_the_tokens_digest_is_kept(fleet: Fleet) -> None:
    secret = token()
    rows: Any = list(JoinToken.select().dicts())
    assert rows
    assert all(secret not in str(value) for row in rows for value in row.values())


def test_rejoining_host_keeps_its_id_and_its_older_certificates_end(fleet: Fleet) -> None:
    host = Host.get(Host.name == "first")
    old = Certificate.get(Certificate.name == host.id)
    papers = join(fleet, token(host), "whatever")
    assert papers.host_id == host.id
    again = Host.get_by_id(host.id)
    assert (again.name, again.address) == ("first", "10.0.0.9:8442")
    with pytest.raises(UnauthenticatedError):
        certificates.check_good(int(old.serial, 16))
    assert good(papers.certificate_pem) == Identity(Kind.HOST, host.id)
    assert revocation.current(fleet.authority).revoked == {int(old.serial, 16)}
    assert pki.revoked_serials(revocation.current(fleet.authority).crl_pem) == {int(old.serial, 16)}


def test_host_certificate_names_what_libvirt_checks(fleet: Fleet) -> None:
    papers = join(fleet, token(), "h7")
    certificate = x509.load_pem_x509_certificate(papers.certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "10.0.0.9" in map(str, names.get_values_for_type(x509.IPAddress))
    assert {"h7", pki.host_server_name(papers.host_id)} <= set(names.get_values_for_type(x509.DNSName))
    again = enrollment.renew(fleet.authority, papers.host_id, requests(), serial(papers.certificate_pem))
    renewed = x509.load_pem_x509_certificate(again.certificate_pem)
    assert renewed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value == names


def good(certificate_pem: bytes) -> Identity | None:
    """Whose it is; None when it is not good."""
    identity, number = pki.identity_and_serial(certificate_pem)
    assert number is not None
    try:
        certificates.check_good(number)
    except UnauthenticatedError:
        return None
    return identity


def test_qemus_certificates_come_and_go_with_their_host(fleet: Fleet) -> None:
    papers = join(fleet, token(), "h7")
    host = Host.get_by_id(papers.host_id)
    renewed = enrollment.renew(fleet.authority, host.id, requests(), serial(papers.certificate_pem))
    assert Event.get(Event.type == "host.renew").actor == "host/h7"
    for pem in (papers.qemu_certificate_pem, renewed.qemu_certificate_pem):
        assert good(pem) == Identity(Kind.QEMU, host.id)
    again = join(fleet, token(host), "h7")
    assert [good(pem) for pem in (papers.qemu_certificate_pem, renewed.qemu_certificate_pem)] == [None, None]
    assert good(again.qemu_certificate_pem) == Identity(Kind.QEMU, host.id)
    manage_hosts.remove(host, "test")
    assert good(again.qemu_certificate_pem) is None
    revoked = revocation.current(fleet.authority).revoked
    assert x509.load_pem_x509_certificate(again.qemu_certificate_pem).serial_number in revoked
    assert len(revoked) == 6


def test_host_that_calls_itself_the_control_plane_is_refused(fleet: Fleet) -> None:
    for name, address in (
        (pki.CONTROL_SERVER_NAME, "10.0.0.9:8442"),
        ("h8", f"{pki.CONTROL_SERVER_NAME}:8442"),
        (pki.host_server_name(Host.get(Host.name == "first").id), "10.0.0.9:8442"),
    ):
        with pytest.raises(InvalidArgumentError):
            enrollment.join(fleet.authority, token(), requests(), name, address)


@pytest.mark.parametrize("lifetime", [datetime.timedelta(seconds=3), datetime.timedelta(minutes=59), HOUR, 24 * HOUR])
def test_certificates_are_good_at_once_and_due_when_a_third_is_left(fleet: Fleet, lifetime: datetime.timedelta) -> None:
    identity = Identity(Kind.HOST, "h1")
    with database.transaction():
        pem = fleet.short_lived(lifetime).issue(csr(), identity)
    pki.check_issued(pem, fleet.authority.fleet_pem)
    assert pki.expires(pem) - pki.renew_at(pem) == lifetime / 3
    assert pki.renew_at(pem) > datetime.datetime.now(datetime.UTC)


def test_nothing_revoked_is_an_empty_list_and_ended_ones_are_left_out(fleet: Fleet) -> None:
    assert revocation.current(fleet.authority).crl_pem == b""
    Certificate.update(expire_time=now(), revoke_time=now()).where(Certificate.kind == "host").execute()
    assert revocation.current(fleet.authority).crl_pem == b""


def test_last_admin_stays(fleet: Fleet) -> None:
    admin = User.get(User.name == "admin")
    for act in (users.revoke, users.delete):
        with pytest.raises(FailedPreconditionError, match="last admin"):
            act(admin, "test")
    fleet.user("bob", Role.ADMIN)
    users.revoke(User.get(User.name == "bob"), "test")
    with pytest.raises(FailedPreconditionError, match="last admin"):
        users.delete(admin, "test")  # bob has no good certificate


def test_two_admins_cannot_remove_each_other(fleet: Fleet) -> None:
    admin = User.get(User.name == "admin")
    fleet.user("bob", Role.ADMIN)
    bob = User.get(User.name == "bob")
    results = at_once([lambda: users.delete(admin, "bob"), lambda: users.delete(bob, "admin")])
    assert sorted(type(result).__name__ for result in results) == ["FailedPreconditionError", "NoneType"]
    assert User.select().where(User.role == "admin").count() == 1


def test_init_again_changes_no_key_and_completes_what_is_missing(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    state = fleet.config.state
    keys = {path: path.read_bytes() for path in (state.fleet_ca, state.users_ca, state.kek, state.control)}
    profile = tmp_path / "profile.toml"
    said = list(initialize(fleet.config, "admin", profile))
    assert not [line for line in said if "made" in line or "written" in line]
    profile.unlink()
    state.control.unlink()
    state.fleet_trust.unlink()
    said = list(initialize(fleet.config, "admin", profile))
    assert profile.exists()
    assert state.fleet_trust.exists()
    assert {path: path.read_bytes() for path in keys if path != state.control} == {
        path: key for path, key in keys.items() if path != state.control
    }


def test_init_does_not_take_another_fleets_profile_for_its_own(tmp_path: Path) -> None:
    Fleet(tmp_path / "a")
    config = Fleet(tmp_path / "b").config
    before = (tmp_path / "a" / "profile.toml").read_bytes()
    with pytest.raises(FailedPreconditionError, match="another fleet"):
        list(initialize(config, "admin", tmp_path / "a" / "profile.toml"))
    assert (tmp_path / "a" / "profile.toml").read_bytes() == before


def test_way_back_in(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    path = tmp_path / "again.toml"
    assert str(path) in write_user_profile(fleet.config, "admin", path)
    pki.check_pair((tmp_path / "again-admin.pem").read_bytes(), (tmp_path / "again-admin.pem").read_bytes())
    with pytest.raises(FailedPreconditionError, match="exists already"):
        write_user_profile(fleet.config, "admin", path)
    with pytest.raises(OstlerError, match="no user nobody"):
        write_user_profile(fleet.config, "nobody", tmp_path / "other.toml")


def test_withdrawn_tokens_are_useless(fleet: Fleet) -> None:
    host = Host.get(Host.name == "first")
    secret = token(host)
    tokens.withdraw(host.id)
    with pytest.raises(UnauthenticatedError):
        join(fleet, secret, "first")


def test_init_makes_no_new_keys_for_a_database_in_use(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.config.state.users_ca.unlink()
    with pytest.raises(FailedPreconditionError, match=r"users-ca\.pem"):
        list(initialize(fleet.config, "admin", tmp_path / "profile.toml"))
    assert not fleet.config.state.users_ca.exists()
