"""Members learn no host's, no bridge's and no pool's name: neither from what is hidden, nor from what is suggested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from ostler.control.v1 import vm_pb2, volume_pb2, volume_pb2_grpc
from ostler_common.errors import FailedPreconditionError, from_rpc_error
from ostler_control import database
from ostler_control.api.redact import HIDDEN, concealed, concealer
from ostler_control.caller import Role
from ostler_control.models import Account, AffinityGroup, Cluster, Host, Network, NetworkAccount, Pool, Zone

from tests import databases
from tests.fakes.fleet import Fleet, channel


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    """An account with a group named as a host, h2; the hosts are h1, h2 and rack-7."""
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite"), database.transaction():
        cluster = Cluster.create(name="c", zone=Zone.create(name="z"))
        for name in ("h1", "h2", "rack-7"):
            Host.create(name=name, address=f"{name}:8442", cluster=cluster)
        account = Account.create(name="acme")
        AffinityGroup.create(name="h2", account=account, kind="affinity")
        yield account


def test_hosts_are_hidden(account: Account) -> None:
    conceal = concealer(account.id)
    assert conceal("h1 is on fire") == f"{HIDDEN} is on fire"
    assert conceal("it ran on rack-7.") == f"it ran on {HIDDEN}."
    assert conceal("host h1 is silent") == f"host {HIDDEN} is silent"
    assert conceal("no host fits: 3 lack memory") == "no host fits: 3 lack memory"


def test_a_guessed_name_reads_the_same_whether_or_not_there_is_such_a_host(account: Account) -> None:
    def told(name: str) -> str:
        error = FailedPreconditionError(f'VM "{name}" does not exist', "VM_NOT_FOUND", {"name": name})
        redacted = concealed(error, concealer(account.id, vm_pb2.StopVmRequest(vm=name)))
        return repr((redacted.message, redacted.metadata)).replace(name, "NAME")

    assert told("rack-7") == told("rack-8")
    conceal = concealer(account.id)
    assert conceal("group h2 deleted") == "group h2 deleted", "it is the account's own"
    assert conceal("host h2 is silent") == conceal("host h9 is silent") == f"host {HIDDEN} is silent"


@pytest.mark.parametrize(
    ("message", "reason", "metadata", "shown"),
    [
        ("this host has no bridge lanbr (create it)", "BRIDGE_MISSING", {"bridge": "lanbr"}, "no bridge (hidden)"),
        (
            "bridge br9 has no uplink that could carry VLAN 77 (add it)", "VLAN_UPLINK_MISSING",
            {"bridge": "br9", "vlan": "77"}, "bridge (hidden) has no uplink that could carry VLAN (hidden)",
        ),
        ("bridge lanbrv77 was not created", "VLAN_BRIDGE_MISSING", {"bridge": "lanbrv77"}, "bridge (hidden) was"),
        ("host h1 has no bridge lanbr: network lan needs it", "LACKS_BRIDGE", {}, "bridge (hidden): network lan"),
        ("--bridge lanbr --allow acme", "NO_NETWORK", {"bridge": "lanbr"}, "--bridge (hidden) --allow acme"),
    ],
)  # fmt: skip
def test_bridges_and_vlan_tags_are_hidden(
    account: Account, message: str, reason: str, metadata: dict[str, str], shown: str
) -> None:
    network = Network.create(name="lan", zone=Zone.get(), bridge="lanbr")
    Network.create(name="tagged", zone=Zone.get(), bridge="lanbr", vlan=77)
    NetworkAccount.create(network=network, account=account)
    redacted = concealed(FailedPreconditionError(message, reason, metadata), concealer(account.id))
    assert shown in redacted.message
    assert (redacted.reason, redacted.metadata) == (reason, {})


def test_a_network_that_is_named_as_its_bridge_keeps_its_name(account: Account) -> None:
    Network.create(name="br0", zone=Zone.get(), bridge="br0", all_accounts=True)
    conceal = concealer(account.id)
    assert conceal("network br0 is in another zone") == "network br0 is in another zone"
    assert conceal("it has no bridge br0") == f"it has no bridge {HIDDEN}"


def test_members_get_no_pool_suggested(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    with fleet.running() as control:
        member = fleet.user("mia", Role.MEMBER)
        with database.transaction():
            zone = Zone.create(name="z")
            Pool.create(name="secret-pool", type="nfs", path="/p", scope="zone", scope_id=zone.id)
        with channel(control.main_port, member) as on, pytest.raises(grpc.RpcError) as refused:
            volume_pb2_grpc.VolumeServiceStub(on).ListVolumes(volume_pb2.ListVolumesRequest(pool="secret-poo"))
        error = from_rpc_error(refused.value)
        assert error.reason == "ADMINS_ONLY_FIELD"
        assert "secret-pool" not in str(error)
