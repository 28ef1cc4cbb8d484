"""The watcher against agents over real TLS; hosts, pools and users through the API."""

from __future__ import annotations

import contextlib
import datetime
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2
from ostler.agent.v1 import host_pb2 as agent_pb
from ostler.control.v1 import (
    account_pb2,
    account_pb2_grpc,
    backup_pb2,
    backup_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    host_pb2,
    host_pb2_grpc,
    pool_pb2,
    pool_pb2_grpc,
)
from ostler.types.v1 import vm_pb2
from ostler_common import pki
from ostler_common.errors import OstlerError, from_rpc_error
from ostler_common.identity import Identity, Kind
from ostler_common.token import JoinToken
from ostler_control import database
from ostler_control.hosts import manage as manage_hosts
from ostler_control.models import (
    Account,
    Certificate,
    Cluster,
    Event,
    Host,
    Operation,
    Passphrase,
    Pool,
    PoolHost,
    Replica,
    Request,
    ServiceOffering,
    StoreBucket,
    Template,
    UnmanagedVm,
    Vm,
    VmSighting,
    Volume,
    new_id,
    now,
)
from ostler_control.operations import replicas
from ostler_control.server import Control
from ostler_control.trust.renewal import renew_control

from tests.fakes import s3
from tests.fakes.agent import FakeAgent, vm
from tests.fakes.fleet import Fleet, bare_channel, channel

LONG_AGO = datetime.timedelta(hours=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Control]]:
    """One control plane for all tests here: starting one takes a second."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    with fleet.running() as control:
        yield fleet, control


@pytest.fixture
def fleet(whole: tuple[Fleet, Control]) -> Iterator[Fleet]:
    """The fleet, which every test leaves without hosts."""
    yield whole[0]
    with database.transaction():
        for model in (PoolHost, Pool, Vm, UnmanagedVm, Host, Event):
            model.delete().execute()
        Certificate.delete().where(Certificate.kind == "host").execute()


@pytest.fixture
def control(whole: tuple[Fleet, Control]) -> Control:
    return whole[1]


@pytest.fixture
def admin(fleet: Fleet, control: Control) -> Iterator[grpc.Channel]:
    with channel(control.main_port, fleet.admin) as on:
        yield on


@contextlib.contextmanager
def agent(fleet: Fleet, name: str, **says: Any) -> Iterator[tuple[FakeAgent, Host]]:
    """A host of the fleet with its agent."""
    host, papers = fleet.host(name)
    fake = FakeAgent(papers, **says)
    with fake.serving():
        with database.session():
            Host.update(address=f"127.0.0.1:{fake.port}").where(Host.id == host.id).execute()
        yield fake, host


def eventually(holds: Callable[[], object], what: str, timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while True:
        with database.session():
            if holds():
                return
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.05)


def state_of(host: Host) -> str:
    state: str = Host.get_by_id(host.id).state
    return state


def new_vm(host: Host | None, state: str = "running", **values: Any) -> Vm:
    with database.transaction():
        account = Account.get(Account.name == "admin")
        offering = ServiceOffering.get_or_none() or ServiceOffering.create(name="small", cpus=1, memory_bytes=1 << 30)
        vm_id = new_id()
        placed = {"host": host, "last_host": host}
        row: Vm = Vm.create(
            **{
                "id": vm_id,
                "name": f"vm-{vm_id[:4]}",
                "account": account,
                "service_offering": offering,
                "cpus": 1,
                "memory_bytes": 1 << 30,
                "state": state,
                "state_time": now() - LONG_AGO,
                **placed,
                **values,
            }
        )
        return row


def attention(row: Vm) -> str:
    text: str = Vm.get_by_id(row.id).attention
    return text


def events(type_: str) -> list[str]:
    return [row.message for row in Event.select().where(Event.type == type_)]


def refusal(call: Callable[[], object]) -> OstlerError:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return from_rpc_error(error.value)


def test_host_comes_goes_and_comes_back(fleet: Fleet, control: Control) -> None:
    host, papers = fleet.host("h1")
    row = new_vm(host)
    fake = FakeAgent(papers, vms=[vm(row.id)])
    with fake.serving():
        with database.session():
            Host.update(address=f"127.0.0.1:{fake.port}").where(Host.id == host.id).execute()
        eventually(lambda: state_of(host) == "up", "the host is up")
        eventually(lambda: Vm.get_by_id(row.id).power_state == "running", "its VM was seen")
        fake.say(agent_pb.HostUpdate(load=vm_pb2.HostLoad(cpu_used=2.5)))
        eventually(lambda: "2.5" in Host.get_by_id(host.id).load, "its load is written")
        with database.session():
            found = Host.get_by_id(host.id)
            assert (found.cpus, found.agent_version, found.bridges) == (8, "0.1.9", "br0")
            assert (found.volume_encryption, found.cluster.hypervisor_type) == (True, "kvm")
    eventually(lambda: state_of(host) == "disconnected", "the host is silent")
    eventually(lambda: attention(row).startswith("its host is silent"), "its VM says so")
    with database.session():
        assert Vm.get_by_id(row.id).host_id == host.id
        assert Vm.get_by_id(row.id).state == "running"
        assert len(events("host.disconnected")) == 1
    with fake.serving(fake.port):
        eventually(lambda: state_of(host) == "up" and not attention(row), "all is well again")


def test_vm_that_stops_vanishes_or_appears_is_shown_and_not_mended(fleet: Fleet, control: Control) -> None:
    rows = [new_vm(None) for _ in range(3)]
    stranger = str(uuid.uuid4())
    with agent(fleet, "h1", vms=[*(vm(row.id) for row in rows), vm(stranger, managed=False)]) as (fake, host):
        with database.session():
            Vm.update(host=host.id).execute()
        eventually(lambda: all(Vm.get_by_id(row.id).power_state == "running" for row in rows), "the VMs were seen")
        eventually(lambda: UnmanagedVm.get_or_none(UnmanagedVm.vm_uuid == stranger), "the stranger is listed")
        with database.session():
            Vm.update(operation_id="op").where(Vm.id == rows[2].id).execute()
        for row, kind, power_state in zip(
            rows,
            (agent_pb.VmEvent.STOPPED, agent_pb.VmEvent.UNDEFINED, agent_pb.VmEvent.STOPPED),
            ("stopped", "absent", "stopped"),
            strict=True,
        ):
            fake.event(kind, vm(row.id, power_state), "destroyed")
        eventually(lambda: attention(rows[0]) == "stopped outside Ostler", "the stopped VM is shown")
        eventually(lambda: attention(rows[1]).startswith("vanished"), "the vanished VM is shown")
        with database.session():
            assert attention(rows[2]) == ""  # an operation has it
            assert events("vm.stopped") == ["stopped outside Ostler (destroyed)"]
            assert {row.state for row in Vm.select()} == {"running"}
            Vm.update(operation_id="").where(Vm.id == rows[2].id).execute()
        eventually(lambda: attention(rows[2]) == "stopped outside Ostler", "the operation is over")
        fake.event(agent_pb.VmEvent.STARTED, vm(rows[0].id))
        eventually(lambda: not attention(rows[0]), "it runs again")
        fake.event(agent_pb.VmEvent.UNDEFINED, vm(stranger, "absent", managed=False))
        eventually(lambda: not UnmanagedVm.select().exists(), "the stranger is gone")


def test_vm_seen_running_on_two_hosts_is_shouted_about(fleet: Fleet, control: Control) -> None:
    row = new_vm(None)
    with agent(fleet, "h1", vms=[vm(row.id)]) as (_, home), agent(fleet, "h2", vms=[vm(row.id)]):
        with database.session():
            Vm.update(host=home.id).execute()
        eventually(lambda: attention(row).startswith("RUNS TWICE"), "it is shouted about")
        with database.session():
            assert "h1 and h2" in attention(row)
            assert len(events("vm.doubled")) == 1


def test_where_a_vm_was_seen_outside_its_place_is_kept_until_its_absence_was_seen(
    fleet: Fleet, control: Control
) -> None:
    row = new_vm(None)

    def seen_on() -> list[str]:
        with database.session():
            return [sighting.host.name for sighting in VmSighting.select()]

    with agent(fleet, "h1") as (_, home):
        with database.session():
            Vm.update(host=home.id).execute()
        with agent(fleet, "h2", vms=[vm(row.id)]):
            eventually(lambda: seen_on() == ["h2"], "it is seen on h2")
        eventually(lambda: "which does not answer" in attention(row), "h2 is silent")
        with database.session():  # an operation ended in between, which knows nothing of h2
            Vm.update(state="stopped", attention="", state_time=now() - LONG_AGO).execute()
        eventually(lambda: "last seen running on host h2" in attention(row), "it is shown again")
        assert seen_on() == ["h2"]


def test_the_definition_of_a_vm_that_runs_elsewhere_is_given_to_an_operation(fleet: Fleet, control: Control) -> None:
    row = new_vm(None)

    def begun(host: Host) -> bool:
        mine = (Operation.verb == "host.delete-definition") & (Operation.resource_id == host.id)
        return bool(Operation.select().where(mine).exists())

    with agent(fleet, "h1", vms=[vm(row.id)]) as (_, home), agent(fleet, "h2", vms=[vm(row.id, "stopped")]) as (_, old):
        with database.session():
            Vm.update(host=home.id, last_host=home.id).execute()
        eventually(lambda: begun(old), "it is found")
        with database.session():
            assert not begun(home)


def test_revocation_reaches_hosts_and_the_removed_host_is_refused(
    fleet: Fleet, control: Control, admin: grpc.Channel
) -> None:
    stub = host_pb2_grpc.HostServiceStub(admin)
    with agent(fleet, "h1") as (stays, host), agent(fleet, "h2") as (_, goes):
        eventually(lambda: state_of(host) == state_of(goes) == "up", "both are up")
        row = new_vm(goes)
        with database.session():
            Host.update(allocated_cpus=1).where(Host.id == goes.id).execute()
        request = host_pb2.RemoveHostRequest(host="h2", validate_only=True)
        assert refusal(lambda: stub.RemoveHost(request)).reason == "HOST_HAS_VMS"
        with database.session():
            Vm.update(host=None, state="stopped").where(Vm.id == row.id).execute()
            Host.update(allocated_cpus=0).where(Host.id == goes.id).execute()
        stub.RemoveHost(request)
        assert len(stub.ListHosts(host_pb2.ListHostsRequest()).hosts) == 2
        stub.RemoveHost(host_pb2.RemoveHostRequest(host="h2"))
        assert [found.name for found in stub.ListHosts(host_pb2.ListHostsRequest()).hosts] == ["h1"]
        serial = pki.identity_and_serial(pki.split_pem((fleet.directory / "h2.pem").read_bytes())[0])[1]
        eventually(lambda: stays.lists and pki.revoked_serials(stays.lists[-1]) == {serial}, "h1 has the new list")
        with database.session():
            assert Vm.get_by_id(row.id).last_host is None


def test_host_that_comes_later_gets_the_list_first(fleet: Fleet, control: Control) -> None:
    with database.transaction():
        gone, _ = fleet.host("gone")
        manage_hosts.remove(gone, "test")
    with agent(fleet, "h1") as (fake, _):
        eventually(lambda: fake.lists, "it was told what is revoked")


def test_hosts_learn_the_addresses_of_all_replicas(fleet: Fleet, control: Control) -> None:
    with agent(fleet, "h1") as (fake, host):
        eventually(lambda: state_of(host) == "up", "it is up")
        replicas.beat("second", "ctl2.example:8440")
        own = fleet.config.main_address
        eventually(lambda: fake.control_address == f"{own},ctl2.example:8440", "it was told")
    with database.transaction():
        Replica.delete().where(Replica.id == "second").execute()


def test_pool_is_proved_by_hosts(fleet: Fleet, control: Control, admin: grpc.Channel) -> None:
    stub = pool_pb2_grpc.PoolServiceStub(admin)
    request_id = str(uuid.uuid4())
    request = pool_pb2.CreatePoolRequest(
        name="p", type="shared-mount-point", cluster="c", path="/srv/p", request_id=request_id
    )
    draft = pool_pb2.CreatePoolRequest(
        name="p", type="shared-mount-point", cluster="c", path="/srv/p", validate_only=True
    )
    fleet.host("asleep")
    assert refusal(lambda: stub.CreatePool(request)).reason == "NO_HOST_UP"
    with agent(fleet, "h1") as (one, a), agent(fleet, "h2") as (two, b):
        eventually(lambda: state_of(a) == state_of(b) == "up", "both are up")
        two.fingerprint = "other"
        assert refusal(lambda: stub.CreatePool(request)).reason == "POOL_NOT_SHARED"
        assert not one.pools | two.pools
        two.fingerprint, two.shared, one.shared = "f", False, False
        assert refusal(lambda: stub.CreatePool(request)).reason == "POOL_NOT_SHARED"
        one.refuse = two.refuse = "not mounted"
        assert refusal(lambda: stub.CreatePool(request)).reason == "POOL_NOT_REACHED"
        one.refuse, one.shared, two.shared, one.encryption = "", True, True, True
        assert stub.CreatePool(draft).encryption
        assert not one.pools | two.pools
        pool = stub.CreatePool(request)
        assert (pool.shared, pool.encryption, pool.capacity_bytes) == (True, True, 100)
        reach = {found.host_name: (found.reachable, found.reason) for found in pool.hosts}
        assert reach["h1"] == (True, "")
        assert reach["h2"] == (False, "not mounted")
        assert not reach["asleep"][0]
        assert stub.CreatePool(request).id == pool.id  # the same request again
        again = pool_pb2.CreatePoolRequest(name="q", type="shared-mount-point", cluster="c", path="/srv/p")
        assert refusal(lambda: stub.CreatePool(again)).reason == "POOL_EXISTS"
        assert one.pools == {pool.id}
        two.refuse = ""

        def reached(name: str) -> bool:
            found = stub.GetPool(pool_pb2.GetPoolRequest(pool="p"))
            return {host.host_name: host.reachable for host in found.hosts}[name]

        eventually(lambda: reached("h2"), "the watcher asked h2 again")
        two.fingerprint = "other"
        eventually(lambda: not reached("h2"), "h2 lost the mount and was noticed")
        with database.session():
            account = Account.get(Account.name == "admin")
            volume = Volume.create(name="v", account=account, pool=pool.id, size_bytes=1)
        assert refusal(lambda: stub.DeletePool(pool_pb2.DeletePoolRequest(pool="p"))).reason == "POOL_HAS_VOLUMES"
        with database.session():
            volume.delete_instance()
        stub.DeletePool(pool_pb2.DeletePoolRequest(pool="p"))
        assert not one.pools
        with database.session():
            told = {event.type for event in Event.select().where(Event.resource_id == pool.id)}
        assert {"pool.create", "pool.delete"} <= told


def test_a_backup_store_is_a_pool_of_its_own_kind(fleet: Fleet, control: Control, admin: grpc.Channel) -> None:
    stub, pools = backup_pb2_grpc.BackupServiceStub(admin), pool_pb2_grpc.PoolServiceStub(admin)
    request = backup_pb2.CreateBackupStoreRequest(
        name="vault", path="/mnt/backups", cluster="c", request_id=str(uuid.uuid4())
    )
    nowhere = backup_pb2.CreateBackupStoreRequest(name="vault", cluster="c")
    assert refusal(lambda: stub.CreateBackupStore(nowhere)).reason == "REQUIRED"
    with agent(fleet, "h1") as (fake, host):
        eventually(lambda: state_of(host) == "up", "it is up")
        store = stub.CreateBackupStore(request)
        assert (store.type, store.path, store.scope_name) == ("shared-mount-point", "/mnt/backups", "c")
        assert (store.capacity_bytes, store.available_bytes) == (100, 40)
        assert stub.CreateBackupStore(request).id == store.id  # the same request again
        assert fake.pools == {store.id}
        assert [one.name for one in stub.ListBackupStores(backup_pb2.ListBackupStoresRequest()).stores] == ["vault"]
        assert list(pools.ListPools(pool_pb2.ListPoolsRequest()).pools) == []
        with database.session():
            Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
        key = backup_pb2.SetBackupStoreKeyRequest(store="vault", access_key="a", secret_key=b"b")
        assert refusal(lambda: stub.SetBackupStoreKey(key)).reason == "NO_BUCKET"
        pool = backup_pb2.DeleteBackupStoreRequest(store="p")
        assert refusal(lambda: stub.DeleteBackupStore(pool)).reason == "NOT_A_STORE"
        stub.DeleteBackupStore(backup_pb2.DeleteBackupStoreRequest(store="vault"))
        assert store.id not in fake.pools
        with database.session():
            told = {event.type for event in Event.select().where(Event.resource_id == store.id)}
        assert {"pool.create", "pool.delete"} <= told


def test_a_bucket_is_tried_before_hosts_hear_of_it(
    fleet: Fleet, control: Control, admin: grpc.Channel, tmp_path: Path
) -> None:
    stub, pools = backup_pb2_grpc.BackupServiceStub(admin), pool_pb2_grpc.PoolServiceStub(admin)
    with s3.serving(tmp_path) as served, agent(fleet, "h1") as (fake, host):
        eventually(lambda: state_of(host) == "up", "it is up")

        def request(**changed: Any) -> backup_pb2.CreateBackupStoreRequest:
            given: dict[str, Any] = {
                "endpoint": served.endpoint,
                "bucket": s3.NAME,
                "prefix": "a/b",
                "region": s3.REGION,
            }
            given |= {"access_key": s3.ACCESS_KEY, "secret_key": s3.SECRET_KEY.encode(), "ca_pem": served.ca_pem}
            bucket = backup_pb2.S3Bucket(**(given | changed))
            return backup_pb2.CreateBackupStoreRequest(name="offsite", cluster="c", s3=bucket)

        def reason(**changed: Any) -> str:
            return refusal(lambda: stub.CreateBackupStore(request(**changed))).reason

        assert reason(secret_key=b"wrong") == "STORE_CREDENTIALS"
        assert reason(bucket="none") == "BUCKET_NOT_FOUND"
        assert reason(ca_pem=b"") == "STORE_UNTRUSTED"
        assert reason(ca_pem=b"\xff") == "INVALID_CERTIFICATE"
        assert reason(endpoint="http://127.0.0.1") == "INVALID_FIELD"
        other = pool_pb2.CreatePoolRequest(name="p", type="s3", source="https://h/b", cluster="c")
        assert refusal(lambda: pools.CreatePool(other)).reason == "POOL_TYPE_UNKNOWN"
        assert fake.pools == set()
        tried = request()
        tried.validate_only = True
        answer = stub.CreateBackupStore(tried)
        assert answer.source == f"{served.endpoint}/{s3.NAME}/a/b"
        assert (answer.capacity_bytes, answer.available_bytes) == (0, 0)
        assert (fake.pools, served.objects) == (set(), {})
        store = stub.CreateBackupStore(request())
        assert (store.type, store.source, store.path) == ("s3", f"{served.endpoint}/{s3.NAME}/a/b", "")
        assert fake.pools == {store.id}
        [listed] = stub.ListBackupStores(backup_pb2.ListBackupStoresRequest()).stores
        assert (listed.capacity_bytes, listed.available_bytes) == (0, 0), "a host's spool says nothing of the bucket"
        with database.session():
            assert [(row.pool_id, row.prefix) for row in StoreBucket.select()] == [(store.id, "a/b")]
            old_key = StoreBucket.get().passphrase_id
        key = backup_pb2.SetBackupStoreKeyRequest(store="offsite", access_key=s3.ACCESS_KEY, secret_key=b"wrong")
        assert refusal(lambda: stub.SetBackupStoreKey(key)).reason == "STORE_CREDENTIALS"
        key.secret_key = b"two words"
        assert refusal(lambda: stub.SetBackupStoreKey(key)).reason == "INVALID_FIELD"
        with database.session():
            assert StoreBucket.get().passphrase_id == old_key
        key.secret_key = s3.SECRET_KEY.encode()
        assert stub.SetBackupStoreKey(key).id == store.id
        with database.session():
            assert [StoreBucket.get().passphrase_id] == [row.id for row in Passphrase.select()] != [old_key]
            assert Event.select().where(Event.type == "pool.set-access-key").count() == 1
        stub.DeleteBackupStore(backup_pb2.DeleteBackupStoreRequest(store="offsite"))
        with database.session():
            assert (StoreBucket.select().count(), Passphrase.select().count()) == (0, 0)


def test_host_that_joins_later_gets_its_pools(fleet: Fleet, control: Control, admin: grpc.Channel) -> None:
    stub = pool_pb2_grpc.PoolServiceStub(admin)
    with agent(fleet, "h1") as (_, a):
        eventually(lambda: state_of(a) == "up", "h1 is up")
        pool = stub.CreatePool(pool_pb2.CreatePoolRequest(name="p", type="nfs", zone="z", source="s:/e"))
        with agent(fleet, "h2") as (late, _):
            eventually(lambda: late.pools == {pool.id}, "h2 has the pool")
            of_h2 = pool_pb2.ListPoolsRequest(host="h2")
            eventually(lambda: [found.name for found in stub.ListPools(of_h2).pools] == ["p"], "h2 reaches it")


def test_a_pools_password_is_sealed_and_sent_to_agents_that_lack_it(
    fleet: Fleet, control: Control, admin: grpc.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    stub = pool_pb2_grpc.PoolServiceStub(admin)
    request = pool_pb2.CreatePoolRequest(
        name="flex", type="powerflex", cluster="c", password=b"wrong", request_id=str(uuid.uuid4())
    )
    with agent(fleet, "h1") as (fake, host):
        eventually(lambda: state_of(host) == "up", "it is up")
        assert refusal(lambda: stub.CreatePool(request)).reason == "POOL_NOT_REACHED"
        request.password = b"right"
        pool = stub.CreatePool(request)
        assert stub.CreatePool(request).id == pool.id  # the same request again
        assert b"right" not in pool.SerializeToString()
        fake.passwords.clear()  # the agent has started anew
        eventually(lambda: fake.passwords == {pool.id: b"right"}, "the watcher has sent it again")
        eventually(lambda: PoolHost.get(PoolHost.pool == pool.id).reachable, "the host reaches the pool again")

        other = pool_pb2.SetPoolPasswordRequest(pool="flex", password=b"other")
        assert refusal(lambda: stub.SetPoolPassword(other)).reason == "POOL_NOT_REACHED"
        fake.password = b"other"
        stub.SetPoolPassword(other)
        fake.passwords.clear()
        eventually(lambda: fake.passwords == {pool.id: b"other"}, "it is the new one from now on")
        with database.session():
            [row] = Passphrase.select().where(Passphrase.bound_id == pool.id)
            assert b"other" not in bytes(row.sealed)
            assert Event.select().where(Event.type == "pool.set-password").exists()
            everything = " ".join(str(found) for model in (Event, Request, Pool) for found in model.select().dicts())
        assert "right" not in everything
        assert "other" not in everything
        stub.DeletePool(pool_pb2.DeletePoolRequest(pool="flex"))
        with database.session():
            assert not Passphrase.select().where(Passphrase.bound_id == pool.id).exists()
        plain = stub.CreatePool(pool_pb2.CreatePoolRequest(name="p", type="nfs", zone="z", source="s:/e"))
        refused = pool_pb2.SetPoolPasswordRequest(pool=plain.id, password=b"x")
        assert refusal(lambda: stub.SetPoolPassword(refused)).reason == "NO_PASSWORD"
    assert "right" not in caplog.text


def test_maintenance_probe_and_update(fleet: Fleet, control: Control, admin: grpc.Channel) -> None:
    stub = host_pb2_grpc.HostServiceStub(admin)
    with agent(fleet, "h1") as (fake, host):
        eventually(lambda: state_of(host) == "up", "it is up")
        entered = stub.EnterMaintenance(host_pb2.EnterMaintenanceRequest(host="h1", reason="new fans"))
        assert not entered.HasField("evacuation")
        found = entered.host
        assert (found.state, found.state_reason) == (host_pb2.Host.MAINTENANCE, "new fans")
        listed = stub.ListHosts(host_pb2.ListHostsRequest(state=host_pb2.Host.MAINTENANCE)).hosts
        assert [row.name for row in listed] == ["h1"]
        assert stub.LeaveMaintenance(host_pb2.LeaveMaintenanceRequest(host="h1")).state == host_pb2.Host.UP
        fake.encryption = False
        assert not stub.ProbeHost(host_pb2.ProbeHostRequest(host="h1")).capabilities.volume_encryption
        mask = field_mask_pb2.FieldMask(paths=["name", "enabled"])
        values = host_pb2.Host(name="node1", enabled=False)
        changed = stub.UpdateHost(host_pb2.UpdateHostRequest(host="h1", values=values, update_mask=mask))
        assert (changed.name, changed.enabled) == ("node1", False)


def test_host_whose_certificate_is_anothers_is_not_taken_for_it(fleet: Fleet, control: Control) -> None:
    _, papers = fleet.host("other")
    host, _ = fleet.host("h1")
    impostor = FakeAgent(papers)
    with impostor.serving():
        with database.session():
            Host.update(address=f"127.0.0.1:{impostor.port}").where(Host.id == host.id).execute()
        eventually(lambda: state_of(host) == "disconnected", "it is refused")
        assert not impostor.streams


def test_certificate_of_the_control_plane_is_renewed(fleet: Fleet, control: Control) -> None:
    path = fleet.config.state.control
    old = pki.split_pem(path.read_bytes())[0]
    with database.session():
        assert not renew_control(fleet.config.state, fleet.authority)
        brief = fleet.short_lived(datetime.timedelta(seconds=1))
        path.unlink()
        renew_control(fleet.config.state, brief)
    eventually(lambda: datetime.datetime.now(datetime.UTC) > pki.renew_at(path.read_bytes()), "a third is left")
    control.renew()
    new = pki.split_pem(path.read_bytes())[0]
    assert new != old
    with channel(control.main_port, fleet.admin) as on:
        assert host_pb2_grpc.HostServiceStub(on).ListHosts(host_pb2.ListHostsRequest()) is not None


def test_host_joins_renews_and_downloads(fleet: Fleet, control: Control, admin: grpc.Channel) -> None:
    fleet.host("first")  # for its cluster
    token = host_pb2_grpc.HostServiceStub(admin).CreateJoinToken(host_pb2.CreateJoinTokenRequest(cluster="c"))
    parts = JoinToken.decode(token.token)
    assert parts.ca_sha256 == pki.fingerprint(fleet.authority.fleet_pem)
    key, csr = pki.new_key_and_csr(None)
    qemu_key, qemu_csr = pki.new_key_and_csr(None)
    request = enrollment_pb2.JoinHostRequest(
        token=parts.secret, csr_pem=csr, qemu_csr_pem=qemu_csr, hostname="h9", address="10.0.0.9:1"
    )
    with database.session():
        Cluster.update(hypervisor_type="kvm").execute()
    with bare_channel(control.enroll_port, fleet.authority.fleet_pem) as on:
        request.hypervisor_type = "custom"
        stranger = refusal(lambda: enrollment_pb2_grpc.EnrollmentServiceStub(on).JoinHost(request))
        assert stranger.reason == "OTHER_HYPERVISOR_TYPE", "and the token is good still"
        request.hypervisor_type = "kvm"
        joined = enrollment_pb2_grpc.EnrollmentServiceStub(on).JoinHost(request)
        again = refusal(lambda: enrollment_pb2_grpc.EnrollmentServiceStub(on).JoinHost(request))
    assert (again.code, again.reason) == ("UNAUTHENTICATED", "BAD_TOKEN")
    assert joined.ca_pem == fleet.authority.fleet_pem
    with database.session():
        assert Host.get_by_id(joined.host_id).name == "h9"
        template = Template.create(
            name="t", format="raw", virtual_size_bytes=5 << 20, file_size_bytes=3 << 20, sha256="0"
        )
    content = bytes(range(256)) * (3 << 12)
    (fleet.config.state.templates / template.id).write_bytes(content)
    with channel(control.main_port, fleet.credentials("h9", key, joined.certificate_pem)) as on:
        stub = enrollment_pb2_grpc.HostAgentServiceStub(on)
        renewal = enrollment_pb2.RenewCertificateRequest(csr_pem=csr, qemu_csr_pem=qemu_csr)
        renewed = stub.RenewCertificate(renewal)
        identity, serial = pki.identity_and_serial(renewed.certificate_pem)
        assert identity is not None
        assert identity.name == joined.host_id
        assert serial != pki.identity_and_serial(joined.certificate_pem)[1]
        for papers in (joined, renewed):
            pki.check_pair(papers.qemu_certificate_pem, qemu_key)
            qemu, _ = pki.identity_and_serial(papers.qemu_certificate_pem)
            assert qemu == Identity(Kind.QEMU, joined.host_id)
        wanted = enrollment_pb2.DownloadTemplateRequest(template_id=template.id, offset=1 << 20)
        assert b"".join(piece.data for piece in stub.DownloadTemplate(wanted)) == content[1 << 20 :]
        wanted.offset = (3 << 20) + 1
        assert refusal(lambda: list(stub.DownloadTemplate(wanted))).code == "INVALID_ARGUMENT"
        wanted.template_id = "../fleet-ca.pem"
        assert refusal(lambda: list(stub.DownloadTemplate(wanted))).code == "NOT_FOUND"


def test_user_is_made_once_however_often_asked(fleet: Fleet, control: Control, admin: grpc.Channel) -> None:
    stub = account_pb2_grpc.UserServiceStub(admin)
    key, csr = pki.new_key_and_csr(None)
    request = account_pb2.CreateUserRequest(
        request_id=str(uuid.uuid4()), name="uma", role=account_pb2.User.MEMBER, csr_pem=csr
    )
    assert refusal(lambda: stub.CreateUser(request)).reason == "REQUIRED"
    request.account = "admin"
    request.csr_pem = b"nonsense"
    assert refusal(lambda: stub.CreateUser(request)).reason == "BAD_CERTIFICATE_REQUEST"
    request.csr_pem = csr
    first, second = stub.CreateUser(request), stub.CreateUser(request)
    assert first.user.id == second.user.id
    for made in (first, second):
        with channel(control.main_port, fleet.credentials("uma", key, made.certificate_pem)) as on:
            me = account_pb2_grpc.UserServiceStub(on).WhoAmI(account_pb2.WhoAmIRequest())
            assert (me.name, me.role, me.account_name) == ("uma", account_pb2.User.MEMBER, "admin")
    stub.RevokeUser(account_pb2.RevokeUserRequest(user="uma"))
    assert not stub.GetUser(account_pb2.GetUserRequest(user="uma")).HasField("certificate_expire_time")
    issued = stub.IssueUserCertificate(account_pb2.IssueUserCertificateRequest(user="uma", csr_pem=csr))
    with channel(control.main_port, fleet.credentials("uma", key, issued.certificate_pem)) as on:
        assert account_pb2_grpc.UserServiceStub(on).WhoAmI(account_pb2.WhoAmIRequest()).name == "uma"
    stub.DeleteUser(account_pb2.DeleteUserRequest(user="uma"))
    assert [user.name for user in stub.ListUsers(account_pb2.ListUsersRequest()).users] == ["admin"]
