"""Revocation cannot be outrun: not by renewing in a loop, not by a later user of the same name."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from ostler_common import pki
from ostler_common.errors import NotFoundError, OstlerError, UnauthenticatedError
from ostler_common.tls import Peer
from ostler_control import database
from ostler_control.api.authorization import authorize
from ostler_control.caller import Role
from ostler_control.hosts import manage
from ostler_control.models import Account, Certificate, Cluster, Host, User
from ostler_control.trust import certificates, enrollment, users

from tests.fakes.fleet import Fleet

WHO_AM_I = "/ostler.control.v1.UserService/WhoAmI"


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


def serial(certificate_pem: bytes) -> int:
    return x509.load_pem_x509_certificate(certificate_pem).serial_number


def good(name: str) -> int:
    """How many valid certificates an identity has."""
    valid = Certificate.revoke_time.is_null() & (Certificate.name == name)
    return Certificate.select().where(valid).count()


def new_user(name: str) -> User:
    account = Account.get_or_none(Account.name == name) or Account.create(name=name)
    return users.create(name, Role.MEMBER, account, "test")


def renewing(renew: Callable[[int], int], first: int, end: Callable[[], object]) -> None:
    """Four callers renew in a loop, each with its latest certificate, while `end` takes them out of the fleet."""
    begun = threading.Barrier(5)

    def loop() -> None:
        latest = first
        begun.wait()
        try:
            for _ in range(200):
                with database.session():
                    latest = renew(latest)
        except OstlerError:
            return

    threads = [threading.Thread(target=loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait()
    end()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_user_who_renews_in_a_loop_has_nothing_after_the_revocation(fleet: Fleet) -> None:
    user = new_user("mallory")
    first = serial(users.issue(fleet.authority, user, csr(), "test"))
    renewing(
        lambda latest: serial(users.issue(fleet.authority, user, csr(), "mallory", latest)),
        first,
        lambda: users.revoke(user, "test"),
    )
    assert good(user.id) == 0


def test_a_host_that_renews_in_a_loop_has_nothing_after_its_removal(fleet: Fleet) -> None:
    secret, _ = enrollment.create_token(Cluster.get(Cluster.name == "c"), None, datetime.timedelta(hours=1), "test")
    requests = enrollment.Requests(csr(), csr())
    joined = enrollment.join(fleet.authority, secret, requests, "h9", "10.0.0.9:8442")
    renewing(
        lambda latest: serial(enrollment.renew(fleet.authority, joined.host_id, requests, latest).certificate_pem),
        serial(joined.certificate_pem),
        lambda: manage.remove(Host.get_by_id(joined.host_id), "test"),
    )
    assert good(joined.host_id) == 0


def test_a_rejoin_ends_the_certificates_of_whoever_renews(fleet: Fleet) -> None:
    hour = datetime.timedelta(hours=1)
    cluster = Cluster.get(Cluster.name == "c")
    requests = enrollment.Requests(csr(), csr())
    secret, _ = enrollment.create_token(cluster, None, hour, "test")
    stolen = enrollment.join(fleet.authority, secret, requests, "h9", "10.0.0.9:8442")
    again, _ = enrollment.create_token(cluster, Host.get_by_id(stolen.host_id), hour, "test")
    renewing(
        lambda latest: serial(enrollment.renew(fleet.authority, stolen.host_id, requests, latest).certificate_pem),
        serial(stolen.certificate_pem),
        lambda: enrollment.join(fleet.authority, again, requests, "h9", "10.0.0.9:8442"),
    )
    assert good(stolen.host_id) == 2  # those of the rejoin: the host's and its QEMU's


def test_a_revoked_certificate_renews_nothing(fleet: Fleet) -> None:
    user = new_user("mallory")
    first = serial(users.issue(fleet.authority, user, csr(), "test"))
    users.revoke(user, "test")
    with pytest.raises(UnauthenticatedError) as refused:
        users.issue(fleet.authority, user, csr(), "mallory", first)
    assert refused.value.reason == "CERTIFICATE_REVOKED"
    assert good(user.id) == 0


def test_a_certificate_of_a_deleted_user_opens_nothing_to_a_later_one_of_the_same_name(fleet: Fleet) -> None:
    first = new_user("ann")
    certificate = users.issue(fleet.authority, first, csr(), "test")
    users.delete(first, "test")
    with pytest.raises(NotFoundError):
        users.issue(fleet.authority, first, csr(), "test")
    later = new_user("ann")
    users.issue(fleet.authority, later, csr(), "test")
    # Even if the revocation had been missed, the certificate speaks for another UUID.
    Certificate.update(revoke_time=None).where(Certificate.name == first.id).execute()
    identity, number = pki.identity_and_serial(certificate)
    assert identity == users.identity(first) != users.identity(later)
    assert number is not None
    certificates.check_good(number)
    with pytest.raises(UnauthenticatedError) as refused:
        authorize(Peer(identity, number, "test"), WHO_AM_I)
    assert refused.value.reason == "UNKNOWN_CALLER"
