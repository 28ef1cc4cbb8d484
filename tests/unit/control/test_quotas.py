"""Quotas of accounts: counted, refused, and never exceeded by requests at once."""

from __future__ import annotations

import json
import threading

import pytest
from ostler.control.v1 import account_pb2 as pb
from ostler_common.errors import ResourceExhaustedError
from ostler_control import database, settings
from ostler_control.api.accounts import AccountService
from ostler_control.catalog.quotas import Resources, check_quota, find_usage
from ostler_control.models import (
    Account,
    Operation,
    Pool,
    ServiceOffering,
    Snapshot,
    Vm,
    Volume,
    VolumeFile,
)

from tests.unit.control import calls

MIB, GIB = 1 << 20, 1 << 30

pytestmark = pytest.mark.usefixtures("fresh_database")


@pytest.fixture
def account() -> Account:
    return Account.create(name="acme")


@pytest.fixture
def pool() -> Pool:
    return Pool.create(name="p", type="shared-mount-point", path="/p", scope="zone", scope_id="z")


def limit(account: Account, name: str, value: int) -> None:
    settings.change(name, str(value), "root", settings.Owner.of(account))


def new_vm(account: Account, name: str = "web") -> Vm:
    offering = ServiceOffering.select().first() or ServiceOffering.create(name="small", cpus=2, memory_bytes=GIB)
    return Vm.create(name=name, account=account, service_offering=offering, cpus=2, memory_bytes=GIB)


def new_volume(account: Account, pool: Pool, name: str = "data", size_bytes: int = GIB) -> Volume:
    return Volume.create(name=name, account=account, pool=pool, size_bytes=size_bytes)


def refusal(account: Account, wanted: Resources) -> ResourceExhaustedError:
    with pytest.raises(ResourceExhaustedError) as caught, database.transaction():
        check_quota(account.id, wanted)
    assert caught.value.reason == "QUOTA_EXCEEDED"
    return caught.value


def test_without_a_quota_there_is_no_limit(account: Account) -> None:
    check_quota(account.id, Resources(10**6, 10**6, 1 << 50, 10**6, 1 << 60, 10**6))


@pytest.mark.parametrize(
    ("name", "value", "fits", "exceeds"),
    [
        ("quota.vms", 2, Resources(vms=1), Resources(vms=2)),
        ("quota.cpus", 4, Resources(cpus=2), Resources(cpus=3)),
        ("quota.memory", 2048, Resources(memory_bytes=GIB), Resources(memory_bytes=GIB + 1)),
        ("quota.volumes", 2, Resources(volumes=1), Resources(volumes=2)),
        ("quota.storage", 2, Resources(storage_bytes=GIB), Resources(storage_bytes=GIB + 1)),
        ("quota.snapshots", 2, Resources(snapshots=1), Resources(snapshots=2)),
    ],
)
def test_what_an_account_has_counts(
    name: str, value: int, fits: Resources, exceeds: Resources, account: Account, pool: Pool
) -> None:
    new_vm(account)
    volume = new_volume(account, pool)
    Snapshot.create(name="s", account=account, volume_id=volume.id, pool=pool, size_bytes=GIB)
    other = Account.create(name="other")
    for number in range(3):
        new_vm(other, f"v{number}")
    limit(account, name, value)
    check_quota(account.id, fits)
    error = refusal(account, exceeds)
    assert name in error.message
    limit(account, name, 0)
    refusal(account, fits)
    check_quota(account.id, Resources())


def test_a_quota_below_what_there_is_refuses_only_what_is_new(account: Account) -> None:
    new_vm(account)
    new_vm(account, "db")
    limit(account, "quota.vms", 1)
    refusal(account, Resources(vms=1))
    check_quota(account.id, Resources(volumes=1))


def test_the_global_quota_is_for_accounts_without_their_own(account: Account) -> None:
    settings.change("quota.vms", "0", "root")
    refusal(account, Resources(vms=1))
    limit(account, "quota.vms", 1)
    check_quota(account.id, Resources(vms=1))
    limit(account, "quota.vms", -1)
    check_quota(account.id, Resources(vms=100))


def test_what_is_under_way_counts(account: Account, pool: Pool) -> None:
    volume = new_volume(account, pool)
    Operation.create(
        verb="volume.grow",
        resource_type="volume",
        resource_id=volume.id,
        account_id=account.id,
        user="alice",
        inputs=json.dumps({"size_bytes": 3 * GIB}),
    )
    assert find_usage([account.id])[account.id].storage_bytes == 3 * GIB
    root = new_volume(account, pool, "root")
    VolumeFile.create(volume_id=root.id, role="incoming", operation_id="x", pool=pool, size_bytes=4 * GIB)
    VolumeFile.create(volume_id=root.id, role="export", operation_id="x", pool=pool, size_bytes=9 * GIB)
    assert find_usage([account.id])[account.id].storage_bytes == 7 * GIB
    Operation.update(state="succeeded").execute()
    Volume.update(size_bytes=3 * GIB).where(Volume.id == volume.id).execute()
    assert find_usage([account.id])[account.id].storage_bytes == 7 * GIB


def test_requests_at_once_never_exceed_a_quota_together(account: Account, pool: Pool) -> None:
    limit(account, "quota.volumes", 3)
    outcomes: list[str] = []
    ready = threading.Barrier(8)

    def ask(number: int) -> None:
        ready.wait()
        try:
            with database.transaction():
                check_quota(account.id, Resources(volumes=1))
                new_volume(account, pool, f"v{number}")
            outcomes.append("made")
        except ResourceExhaustedError as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["QUOTA_EXCEEDED"] * 5 + ["made"] * 3
    assert Volume.select().count() == 3


def test_the_account_tells_what_it_owns_and_may_own(account: Account) -> None:
    new_vm(account)
    limit(account, "quota.memory", 4096)
    member = calls.context(calls.user("m", account))
    for answer in (
        AccountService().GetAccount(pb.GetAccountRequest(account="acme"), member),
        AccountService().ListAccounts(pb.ListAccountsRequest(), member).accounts[0],
    ):
        found = {quota.resource: quota for quota in answer.quotas}
        assert (found["vms"].used, found["vms"].HasField("limit")) == (1, False)
        assert (found["memory_bytes"].used, found["memory_bytes"].limit) == (GIB, 4 * GIB)
