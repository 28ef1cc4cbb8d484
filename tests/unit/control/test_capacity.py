from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
from ostler_common.errors import AbortedError, FailedPreconditionError, OstlerError
from ostler_control import database, settings
from ostler_control.models import (
    Cluster,
    Host,
    HostState,
    Kek,
    Network,
    Nic,
    Passphrase,
    Pool,
    PoolHost,
    Vm,
    Volume,
    Zone,
)
from ostler_control.placement import Demand, place, refusal
from ostler_control.scheduling import capacity, placement_query, reserve

from tests.fleets import GIB, Fleet, make_fleet
from tests.unit.control.test_create_cost import counted

pytestmark = pytest.mark.usefixtures("fresh_database")


def _sums(host: Host) -> tuple[int, int]:
    row = Host.get_by_id(host.id)
    return row.allocated_cpus, row.allocated_memory_bytes // GIB


def _at_once(calls: list[Callable[[], object]]) -> list[Exception]:
    """Runs them all in threads that start together; gives what they raised."""
    errors: list[Exception] = []
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        start.wait()
        try:
            with database.session():
                call()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_a_vms_share_is_claimed_once_and_given_back_once() -> None:
    fleet = make_fleet(2)
    vm = fleet.vm("web1", cpus=2, memory_bytes=3 * GIB)
    for _ in range(2):
        capacity.claim(vm, fleet.hosts[0].id)
        assert _sums(fleet.hosts[0]) == (2, 3)
    with pytest.raises(FailedPreconditionError) as caught:
        capacity.claim(vm, fleet.hosts[1].id)
    assert caught.value.reason == "ALREADY_PLACED"
    assert Vm.get_by_id(vm.id).host == fleet.hosts[0]
    for _ in range(2):
        capacity.release(vm)
        assert _sums(fleet.hosts[0]) == (0, 0)
    row = Vm.get_by_id(vm.id)
    assert (row.host, row.last_host) == (None, fleet.hosts[0])
    assert capacity.audit() == []


def test_a_migrating_vm_has_its_share_of_both_hosts_until_it_arrives() -> None:
    fleet = make_fleet(2)
    here, there = fleet.hosts
    vm = fleet.vm("web1")
    capacity.claim(vm, here.id)
    capacity.claim_destination(vm, there.id)
    assert (_sums(here), _sums(there)) == ((1, 1), (1, 1))
    assert capacity.audit() == []
    capacity.release_destination(vm)
    assert (_sums(here), _sums(there)) == ((1, 1), (0, 0))
    capacity.claim_destination(vm, there.id)
    for _ in range(2):
        capacity.arrive(vm)
        assert (_sums(here), _sums(there)) == ((0, 0), (1, 1))
    row = Vm.get_by_id(vm.id)
    assert (row.host, row.destination) == (there, None)
    assert capacity.audit() == []


@pytest.mark.parametrize(
    "change",
    [
        {"state": "disconnected"},
        {"enabled": False},
        {"maintenance": True},
        {"removed": True},
        {"cpus": 0},
        {"memory_bytes": GIB},
    ],
)
def test_a_host_that_changed_since_it_was_chosen_is_not_claimed(change: dict[str, object]) -> None:
    fleet = make_fleet(1)
    vm = fleet.vm("web1")
    Host.update(change).execute()
    with pytest.raises(AbortedError) as caught:
        capacity.claim(vm, fleet.hosts[0].id)
    assert caught.value.reason == "HOST_TAKEN"
    assert Vm.get_by_id(vm.id).host is None
    assert _sums(fleet.hosts[0]) == (0, 0)


def test_a_disabled_cluster_takes_no_vms() -> None:
    fleet = make_fleet(1)
    Cluster.update(enabled=False).execute()
    vm = fleet.vm("web1")
    with pytest.raises(AbortedError):
        capacity.claim(vm, fleet.hosts[0].id)
    with pytest.raises(FailedPreconditionError, match="1 is disabled"):
        placement_query.find(placement_query.demand_of(vm))


def test_overcommit_and_reserved_memory_are_each_clusters_own() -> None:
    fleet = make_fleet(1, cpus=2, memory_bytes=2 * GIB, cpu_overcommit=1.5, memory_overcommit=2.0)
    settings.change("host.reserved.memory", "0", "test")
    settings.change("host.reserved.memory", str(GIB), "test", settings.Owner.of(fleet.cluster))
    small = Cluster.create(name="small", zone=fleet.zone)
    Host.create(name="s1", address="x", cluster=small, state="up", cpus=1, memory_bytes=GIB)
    demand = Demand("x", cpus=1, memory_bytes=GIB)
    placed = []
    for number in range(3):
        placed.append(placement_query.find_and_claim(fleet.vm(f"v{number}"), demand).host_name)
    with pytest.raises(FailedPreconditionError, match="no host fits x: 1 lacks CPUs, 1 lacks memory"):
        placement_query.find_and_claim(fleet.vm("v3"), demand)
    # h1: (2 GiB - 1 GiB) * 2.0 = 2 VMs by memory, 2 * 1.5 = 3 by CPU; s1: 1 VM.
    assert sorted(placed) == ["h1", "h1", "s1"]
    assert capacity.audit() == []


def test_the_reserve_of_other_clusters_is_not_asked_for() -> None:
    fleet = make_fleet(1)
    near = Cluster.create(name="near", zone=fleet.zone)
    far = Cluster.create(name="far", zone=Zone.create(name="elsewhere"))
    settings.change("ha.reserve.hosts", "1", "test")

    def asked(**fields: object) -> set[str]:
        with database.transaction():
            return set(reserve.headroom(Demand("x", cpus=1, memory_bytes=GIB, **fields)))  # type: ignore[arg-type]

    assert asked() == {fleet.cluster.id, near.id, far.id}
    assert asked(zone_id=fleet.zone.id) == {fleet.cluster.id, near.id}
    assert asked(cluster_id=near.id) == {near.id}
    assert asked(host_id=fleet.hosts[0].id) == {fleet.cluster.id}
    assert asked(reserve_of=far.id) == {fleet.cluster.id, near.id}
    assert asked(cluster_id=far.id, reserve_of=far.id) == set()
    with database.transaction():
        assert reserve.headroom(Demand("work on a volume")) == {}


def test_what_a_vm_asks_for_is_read_from_its_volumes_and_nics() -> None:
    fleet = make_fleet(1)
    vm = fleet.vm("web1", cpus=3)
    Vm.update(firmware="uefi").execute()
    other = Pool.create(name="other", type="local", scope="host", scope_id=fleet.hosts[0].id)
    common = {"account": fleet.account, "size_bytes": GIB, "vm_id": vm.id}
    Volume.create(name="root", pool=fleet.pool, slot=0, root=True, **common)
    plain = placement_query.demand_of(vm)
    assert (plain.volume_encryption, plain.pool_choices) == (False, ((fleet.pool.id,),))
    passphrase = Passphrase.create(kek=Kek.create(name="k"), sealed=b"x", bound_id="v")
    Volume.create(name="data", pool=other, slot=1, passphrase=passphrase, **common)
    network = Network.create(name="lan", zone=Zone.get(), bridge="br7")
    Nic.create(vm=vm, position=0, mac="52:54:00:00:00:01", network=network)
    demand = placement_query.demand_of(Vm.get_by_id(vm.id), host_id="h")
    assert demand == Demand(
        "web1",
        cpus=3,
        memory_bytes=GIB,
        volume_encryption=True,
        uefi=True,
        host_id="h",
        bridges=frozenset({"br7"}),
        network_zones=frozenset({network.zone_id}),
        nic_filter=True,
        formats=frozenset({"qcow2"}),
        pool_choices=tuple((pool,) for pool in sorted([fleet.pool.id, other.id])),
    )


def test_pools_for_a_new_disk_are_those_that_some_host_of_the_place_reaches() -> None:
    fleet = make_fleet(1)
    Pool.create(
        name="unreached", type="nfs", scope="zone", scope_id=fleet.zone.id, encryption=True, available_bytes=GIB
    )
    assert placement_query.pools_for("d", GIB, True) == (fleet.pool.id,)
    assert placement_query.pools_for("d", GIB, True, zone_id=fleet.zone.id, cluster_id=fleet.cluster.id)
    elsewhere = Zone.create(name="elsewhere")
    with pytest.raises(FailedPreconditionError, match="no host reaches any"):
        placement_query.pools_for("d", GIB, True, zone_id=elsewhere.id)


def _messy_fleet(seed: int) -> Fleet:
    """Hosts that differ in everything that placement looks at."""
    chance = random.Random(seed)
    fleet = make_fleet(60, cpu_overcommit=1.7, memory_overcommit=1.15)
    other = Cluster.create(name="other", zone=Zone.create(name="other"), cpu_overcommit=1.3)
    local = Pool.create(name="local", type="local", scope="zone", scope_id=fleet.zone.id)
    for host in fleet.hosts:
        host.cpus = chance.choice([0, 4, 8, 32])
        host.memory_bytes = chance.choice([0, 1, 8, 16, 64]) * GIB
        host.allocated_cpus = chance.randint(0, 12)
        host.allocated_memory_bytes = chance.randint(0, 24) * GIB
        host.state = chance.choice([HostState.UP, HostState.UP, HostState.UP, HostState.DISCONNECTED])
        host.maintenance = chance.random() < 0.1
        host.enabled = chance.random() > 0.1
        host.removed = chance.random() < 0.05
        host.volume_encryption = chance.random() < 0.6
        host.uefi = chance.random() < 0.6
        host.bridges = chance.choice(["", "br0", "br0,br1"])
        host.hypervisor_type = chance.choice(["kvm", "kvm", "xen"])
        host.cluster = chance.choice([fleet.cluster, fleet.cluster, other])
        host.save()
        if chance.random() < 0.5:
            PoolHost.create(pool=local, host=host, reachable=chance.random() < 0.8)
    return fleet


def test_the_fast_way_through_the_database_chooses_what_the_pure_function_does() -> None:
    fleet = _messy_fleet(7)
    settings.change("host.reserved.memory", str(GIB // 3), "test", settings.Owner.of(fleet.cluster))
    pools = [pool.id for pool in Pool.select()]
    chance = random.Random(8)
    placed = 0
    for _ in range(150):
        demand = Demand(
            "x",
            cpus=chance.choice([0, 1, 4]),
            memory_bytes=chance.choice([0, 1, 5]) * GIB,
            volume_encryption=chance.random() < 0.5,
            uefi=chance.random() < 0.3,
            hypervisor_type=chance.choice(["", "kvm"]),
            zone_id=chance.choice(["", fleet.zone.id]),
            cluster_id=chance.choice(["", fleet.cluster.id]),
            host_id=chance.choice(["", "", "", fleet.hosts[3].id]),
            bridges=chance.choice([frozenset(), frozenset({"br1"})]),
            pool_choices=chance.choice([(), ((pools[0],),), (tuple(pools),), tuple((pool,) for pool in pools)]),
            excluded_host_id=fleet.hosts[0].id,
            preferred_host_id=chance.choice(["", fleet.hosts[5].id]),
        )

        def answer(find: Callable[[Demand], object], demand: Demand = demand) -> object:
            try:
                return find(demand)
            except FailedPreconditionError as error:
                # Which probes failed is told by the database alone.
                counted = {name: value for name, value in error.metadata.items() if name != "probes"}
                return (error.message.partition("; not proved on ")[0], counted)

        expected = answer(lambda demand: place(demand, placement_query.facts(demand)))
        found = answer(placement_query.find)
        if isinstance(expected, tuple):
            assert found == expected
            continue
        placed += 1
        chosen = {"host_id", "host_name", "pool_ids"}
        assert {key: getattr(found, key) for key in chosen} == {key: getattr(expected, key) for key in chosen}
    assert placed > 30


@pytest.mark.parametrize(
    ("scope", "reaching", "queries"),
    [
        ("zone", range(50), 1),
        ("zone", range(1), 2),
        ("host", range(1), 1),
        ("zone", range(0), 2),
        ("host", range(0), 1),
    ],
    ids=["all reach it", "only the fullest reaches it", "a host's own", "none reaches it", "not even its own"],
)
def test_a_pool_that_the_emptiest_hosts_do_not_reach_is_found_by_its_hosts(
    scope: str, reaching: range, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a thousand hosts reach the pool of their zone is asked of the best of them only."""
    fleet = make_fleet(50)
    pool = Pool.create(name="other", type="local", scope=scope, scope_id=fleet.zone.id)
    for number, host in enumerate(fleet.hosts):
        Host.update(allocated_cpus=8 - number // 10).where(Host.id == host.id).execute()
        if number in reaching:
            PoolHost.create(pool=pool, host=host, reachable=True)
    demand = Demand("x", cpus=1, memory_bytes=GIB, pool_choices=((fleet.pool.id,), (pool.id,)))
    with counted(monkeypatch, {threading.get_ident()}) as seen:
        if reaching:
            host_id = placement_query.find(demand).host_id
        else:
            with pytest.raises(FailedPreconditionError, match="no host fits"):
                placement_query.find(demand)
    if reaching:
        assert host_id == place(demand, placement_query.facts(demand)).host_id
    assert len([text for text in seen if "best.*" in text]) == queries, "\n".join(seen)


def test_every_host_that_placement_grants_is_granted_by_the_claim_and_no_other() -> None:
    fleet = _messy_fleet(9)
    for host in placement_query.facts(Demand("x")):
        vm = fleet.vm(f"on-{host.name}", cpus=2, memory_bytes=2 * GIB)
        fits = refusal(placement_query.demand_of(vm), host) is None
        try:
            capacity.claim(vm, host.id)
            assert fits, host
        except AbortedError:
            assert not fits, host


def test_fifty_deployments_at_once_never_overfill_a_nearly_full_cluster() -> None:
    fleet = make_fleet(4, cpus=8, memory_bytes=8 * GIB + 512 * (1 << 20))
    for number, host in enumerate([*fleet.hosts, *fleet.hosts]):  # leaves room for 4 * 8 - 8 = 24 more
        capacity.claim(fleet.vm(f"old{number}"), host.id)
    vms = [fleet.vm(f"new{number}") for number in range(50)]

    def deploy(vm: Vm) -> Callable[[], object]:
        return lambda: placement_query.find_and_claim(vm, placement_query.demand_of(vm))

    errors = _at_once([deploy(vm) for vm in vms])
    assert {getattr(error, "reason", repr(error)) for error in errors} == {"NO_FEASIBLE_HOST"}
    assert len(errors) == 50 - 24
    assert [_sums(host) for host in fleet.hosts] == [(8, 8)] * 4
    assert Vm.select().where(Vm.host.is_null(False)).count() == 32
    assert capacity.audit() == []


def test_a_storm_of_claims_migrations_and_releases_leaves_no_drift() -> None:
    fleet = make_fleet(3, cpus=6, memory_bytes=7 * GIB)
    vms = [fleet.vm(f"v{number}") for number in range(12)]

    def live(seed: int) -> Callable[[], object]:
        chance = random.Random(seed)

        def run() -> None:
            for _ in range(12):
                vm, host = chance.choice(vms), chance.choice(fleet.hosts)
                claim = chance.choice([capacity.claim, capacity.claim_destination])
                give_back = chance.choice([capacity.release, capacity.release_destination, capacity.arrive])
                try:
                    if chance.random() < 0.5:
                        claim(vm, host.id)
                    else:
                        give_back(vm)
                except OstlerError as error:
                    reasons.add(error.reason)

        return run

    reasons: set[str] = set()
    assert _at_once([live(seed) for seed in range(8)]) == []
    assert reasons <= {"HOST_TAKEN", "ALREADY_PLACED"}
    assert capacity.audit() == []
    for host in fleet.hosts:
        cpus, memory = _sums(host)
        assert 0 <= cpus == memory <= 6


def test_the_audit_sees_drift() -> None:
    fleet = make_fleet(2)
    capacity.claim(fleet.vm("web1"), fleet.hosts[1].id)
    Host.update(allocated_cpus=Host.allocated_cpus + 1).where(Host.id == fleet.hosts[1].id).execute()
    assert capacity.audit() == [capacity.Drift(fleet.hosts[1].id, "h2", (2, GIB), (1, GIB))]


def test_candidates_are_all_hosts_with_their_refusals() -> None:
    fleet = make_fleet(2)
    Host.update(maintenance=True).where(Host.id == fleet.hosts[0].id).execute()
    found = placement_query.candidates(placement_query.demand_of(fleet.vm("web1")))
    assert [(row.host_name, row.refusal.code if row.refusal else "") for row in found] == [
        ("h2", ""),
        ("h1", "IN_MAINTENANCE"),
    ]


def test_a_vm_that_is_gone_claims_nothing() -> None:
    fleet = make_fleet(1)
    vm = fleet.vm("web1")
    Vm.delete().execute()
    with pytest.raises(FailedPreconditionError) as caught:
        capacity.claim(vm, fleet.hosts[0].id)
    assert caught.value.reason == "VM_GONE"
