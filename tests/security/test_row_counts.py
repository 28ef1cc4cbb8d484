"""No account and no holder of a certificate fills the database's tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ostler_common import pki
from ostler_common.errors import ResourceExhaustedError
from ostler_control import database
from ostler_control.caller import Role
from ostler_control.catalog import row_limits
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.keys import FileProvider, Keyring
from ostler_control.models import Account, Certificate, Host, Snapshot, User, Vm, Volume
from ostler_control.scheduling import affinity
from ostler_control.trust import certificates, enrollment, users
from ostler_control.userdata import registered

from tests.fakes.fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path, fresh_database: str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, fresh_database)
    database.connect(fresh_database)  # initialize has let go of it
    with database.session():
        yield fleet


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ResourceExhaustedError) as error:
        call()
    return error.value.reason


def test_what_members_create_is_limited(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = dict.fromkeys(row_limits.MAX_ROWS_PER_ACCOUNT, 2)
    monkeypatch.setattr(row_limits, "MAX_ROWS_PER_ACCOUNT", limits)
    acme, other = Account.create(name="acme"), Account.create(name="other")
    keys = Keyring(FileProvider(fleet.config.state.kek))

    def group(name: str, account: Account) -> None:
        affinity.create(name, account, affinity.AFFINITY, False, "test")

    def data(name: str, account: Account) -> None:
        registered.register(name, account, b"#cloud-config\n{}\n", [], "test", keys)

    for create in (group, data):
        create("a", acme)
        create("b", acme)
        assert refused(lambda create=create: create("c", acme)) == "TOO_MANY_OBJECTS"  # type: ignore[misc]
        create("c", other)


@pytest.mark.parametrize("model", [Vm, Volume, Snapshot])
def test_vms_volumes_and_snapshots_are_limited_without_a_quota(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, model: type[Vm | Volume | Snapshot]
) -> None:
    account = Account.create(name="acme")
    wanted = {Vm: Resources(vms=1), Volume: Resources(volumes=1), Snapshot: Resources(snapshots=1)}[model]
    check_quota(account.id, wanted)
    monkeypatch.setattr(row_limits, "MAX_ROWS_PER_ACCOUNT", {Vm: 1, Volume: 1, Snapshot: 1, model: 0})
    assert refused(lambda: check_quota(account.id, wanted)) == "TOO_MANY_OBJECTS"


def test_who_renews_in_a_loop_is_stopped(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "MAX_VALID", 3)
    fleet.user("mallory", Role.MEMBER)
    user = User.get(User.name == "mallory")
    serial = int(Certificate.get(Certificate.name == user.id).serial, 16)
    csr = pki.new_key_and_csr(None)[1]

    def renew() -> None:
        users.issue(fleet.authority, user, csr, "mallory", serial)

    renew()
    renew()
    assert refused(renew) == "TOO_MANY_CERTIFICATES"

    host, _ = fleet.host("h1")
    of_host = Certificate.get((Certificate.name == host.id) & (Certificate.kind == "host"))

    def renew_host() -> None:
        requests = enrollment.Requests(csr, csr)
        enrollment.renew(fleet.authority, Host.get().id, requests, int(of_host.serial, 16))

    renew_host()
    renew_host()
    assert refused(renew_host) == "TOO_MANY_CERTIFICATES"
