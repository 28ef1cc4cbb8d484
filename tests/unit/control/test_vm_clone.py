"""Cloning VMs, stopped and running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.hypervisors import Function
from ostler_common.io_limits import IoLimits
from ostler_control import labels, settings, vms, volumes
from ostler_control.catalog import disk_io
from ostler_control.models import Host, Network, Nic, NicAddressing, Operation, Vm, VmExtraConfig, VmLabel, Volume
from ostler_control.operations import Engine
from ostler_control.userdata import vm_user_data
from ostler_control.userdata.seed import Addressing
from ostler_control.userdata.vm_user_data import Given
from ostler_control.vms import details

from tests import databases
from tests.fakes.working_agent import Fault
from tests.sites import MIB, Site, outcome, site_at_work

OK = ("succeeded", "")
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEGMWZ0PFLJjKGmjMEWAsNzGvBqRYhcn9o0FRx7xzYBy ada"


class Place:
    """A site with an encrypted VM "web" that has all that a VM can have."""

    def __init__(self, site: Site, engine: Engine, stopped: bool) -> None:
        self.site, self.engine = site, engine
        nic = vms.NewNic(site.network, addressing=Addressing(("192.0.2.7/24",), (), ()))
        given = Given(ssh_keys=(SSH_KEY,))
        more = {"nics": [nic], "stopped": stopped, "labels": {"env": "prod"}, "details": {"team": "shop"}}
        assert self.do(lambda: site.new_vm("web", user_data=given, **more)) == OK

    def do(self, make: Callable[[], Operation]) -> tuple[str, str]:
        return outcome(self.engine, self.site.record(make))

    @staticmethod
    def vm(name: str) -> Vm:
        return Vm.get(Vm.name == name)

    @staticmethod
    def disks(name: str) -> list[Volume]:
        return list(Volume.select().where(Volume.vm_id == Vm.get(Vm.name == name).id).order_by(Volume.slot))

    def add_disk(self) -> None:
        wanted = volumes.NewVolume("data", self.site.account, self.site.disks["encrypted"], 10 * MIB)
        assert self.do(lambda: volumes.create(wanted, "alice", self.site.keys)) == OK
        assert self.do(lambda: volumes.attach(Volume.get(Volume.name == "data"), self.vm("web"), "alice")) == OK

    def clone(self, name: str = "web-2") -> tuple[str, str]:
        return self.do(lambda: vms.clone(self.vm("web"), name, "alice", self.site.keys))


def place_of(tmp_path: Path, stopped: bool) -> Iterator[Place]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        place = Place(site, engine, stopped)
        yield place
        site.check_whole()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Place]:
    yield from place_of(tmp_path, stopped=False)


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Place]:
    yield from place_of(tmp_path, stopped=True)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def test_a_clone_has_disks_keys_and_an_identity_of_its_own(stopped: Place) -> None:
    stopped.add_disk()
    limits = IoLimits(iops=100)
    assert stopped.do(lambda: volumes.limit(Volume.get(Volume.name == "data"), limits, "root")) == OK
    VmExtraConfig.create(vm=stopped.vm("web"), name="menu", xml="<os><bootmenu enable='yes'/></os>", override_by="root")
    assert stopped.clone() == OK
    old, new = stopped.vm("web"), stopped.vm("web-2")
    assert (new.state, new.host_id, new.operation_id, old.operation_id) == ("stopped", None, "", "")
    assert (new.cpus, new.memory_bytes, new.firmware) == (old.cpus, old.memory_bytes, old.firmware)
    assert [(disk.name, disk.slot, disk.root) for disk in stopped.disks("web-2")] == [
        ("web-2-root", 0, True),
        ("web-2-data-1", 1, False),
    ]
    for mine, theirs in zip(stopped.disks("web-2"), stopped.disks("web"), strict=True):
        assert mine.passphrase_id not in (None, theirs.passphrase_id)
        files = stopped.site.fleet.pools[mine.pool_id]
        assert files[mine.file_id].content == files[theirs.file_id].content
        assert files[mine.file_id].passphrase != files[theirs.file_id].passphrase
        assert disk_io.of_volume(mine) == disk_io.of_volume(theirs)
    [mac, other] = [Nic.get(Nic.vm == vm).mac for vm in (new, old)]
    assert mac != other
    assert [row.nic.mac for row in NicAddressing.select()] == [other], "an address is in the network only once"
    assert {row.value for row in VmLabel.select()} == {"prod"}
    assert labels.of_objects(Vm, [new.id]) == {new.id: {"env": "prod"}}
    assert details.of_vms([new.id]) == {new.id: {"team": "shop"}}
    assert [(row.name, row.override_by) for row in VmExtraConfig.select().where(VmExtraConfig.vm == new)] == [
        ("menu", "")
    ]
    assert vm_user_data.given_to(new.id, stopped.site.keys).ssh_keys == (SSH_KEY,)
    seeds = [vm_user_data.seed_of(vm, stopped.site.keys) for vm in (old, new)]
    assert seeds[0] is not None
    assert seeds[1] is not None
    assert seeds[0].files()["meta-data"] != seeds[1].files()["meta-data"], "cloud-init takes it for another machine"
    VmExtraConfig.delete().execute()
    assert stopped.do(lambda: vms.start(stopped.vm("web-2"), "alice")) == OK


def test_a_running_vm_with_one_disk_is_cloned_by_its_host(running: Place) -> None:
    assert running.clone() == OK
    host = running.site.at(running.vm("web").host_id)
    assert "CopyVolume" in host.calls
    assert (running.vm("web").state, running.vm("web-2").state) == ("running", "stopped")


def test_several_disks_of_a_running_vm_are_cloned_as_of_one_moment(running: Place) -> None:
    running.add_disk()
    host = running.site.at(running.vm("web").host_id)
    host.calls.clear()
    assert running.clone() == OK
    assert (host.calls.count("CopyDisks"), host.calls.count("CopyVolume")) == (1, 0)
    files = running.site.fleet.pools
    for mine, theirs in zip(running.disks("web-2"), running.disks("web"), strict=True):
        assert (mine.state, mine.encrypt_format) == ("ready", "luks")
        assert files[mine.pool_id][mine.file_id].content == files[theirs.pool_id][theirs.file_id].content
        assert files[mine.pool_id][mine.file_id].passphrase != files[theirs.pool_id][theirs.file_id].passphrase
    assert running.do(lambda: vms.start(running.vm("web-2"), "alice")) == OK


def test_what_cannot_be_cloned_together_is_refused(running: Place) -> None:
    running.add_disk()
    Volume.update(provisioning="thick").where(Volume.name == "data").execute()
    assert refusal(running.clone) == "CLONE_NEEDS_STOP"
    Volume.update(provisioning="thin").where(Volume.name == "data").execute()
    host = Host.get_by_id(running.vm("web").host_id)
    functions = set(host.functions.split(",")) - {Function.ONLINE_BACKUP}
    Host.update(functions=",".join(functions)).where(Host.id == host.id).execute()
    assert refusal(running.clone) == "FUNCTION_NOT_SUPPORTED"
    assert running.do(lambda: vms.stop(running.vm("web"), "alice", 0, True)) == OK
    assert running.clone() == OK


def test_a_clone_of_a_running_vm_that_fails_leaves_no_disk(running: Place) -> None:
    running.add_disk()
    no = FailedPreconditionError("no", "NO_WAY")
    running.site.at(running.vm("web").host_id).fail("CopyDisks", Fault(no, before=False))
    assert running.clone() == ("failed", "NO_WAY")
    assert (running.vm("web-2").state, running.disks("web-2")) == ("failed", [])


def test_what_cannot_be_is_refused_and_changes_nothing(stopped: Place) -> None:
    before = [model.select().count() for model in (Vm, Volume, Nic)]
    assert refusal(lambda: stopped.clone("web")) == "VM_EXISTS"
    assert refusal(lambda: stopped.clone("-")) == "INVALID_NAME"
    settings.change("quota.volumes", "1", "root")
    assert refusal(stopped.clone) == "QUOTA_EXCEEDED"
    settings.reset("quota.volumes", "root")
    Volume.update(state="failed").execute()
    assert refusal(stopped.clone) == "VOLUME_STATE"
    Volume.update(state="ready").execute()
    Network.update(all_accounts=False).execute()
    assert refusal(stopped.clone) == "NETWORK_NOT_ALLOWED"
    assert [model.select().count() for model in (Vm, Volume, Nic)] == before


def test_a_clone_that_fails_leaves_no_disk_and_says_why(stopped: Place) -> None:
    stopped.add_disk()
    data = Volume.get(Volume.name == "data").file_id
    no = FailedPreconditionError("no", "NO_WAY")
    for host in stopped.site.hosts.values():
        host.fail("CopyVolume", Fault(no, before=False, only=lambda request: request.source.volume_id == data))
    assert stopped.clone() == ("failed", "NO_WAY")
    vm = stopped.vm("web-2")
    assert (vm.state, "not cloned: no" in vm.attention, stopped.disks("web-2")) == ("failed", True, [])
    assert stopped.do(lambda: vms.delete(vm, "alice")) == OK
    assert stopped.clone() == OK
