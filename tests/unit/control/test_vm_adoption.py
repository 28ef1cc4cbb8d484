"""VMs come under Ostler and go back, from request to end, on agents that work in memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ostler.control.v1 import vm_pb2 as pb
from ostler.types.v1 import vm_pb2 as types_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError
from ostler_common.hypervisors import Function
from ostler_control.api.vms import VmService
from ostler_control.models import (
    Event,
    Host,
    Network,
    Nic,
    Operation,
    Pool,
    ServiceOffering,
    Snapshot,
    Vm,
    VmOrigin,
    Volume,
    new_id,
)
from ostler_control.scheduling import capacity

from tests import databases
from tests.fakes.working_agent import Fault
from tests.sites import GIB, MIB, outcome, site_at_work
from tests.unit.control.calls import context
from tests.unit.control.vm_adoption import Place, Response

OK = ("succeeded", "")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        yield Place(site, engine)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def test_a_running_vm_is_adopted_with_its_disks_and_interfaces(place: Place) -> None:
    found = place.put()
    assert outcome(place.engine, place.adopt()) == OK
    vm = Vm.get()
    assert (vm.id, vm.name, vm.state, vm.host_id) == (found.vm_id, "web", "running", place.host.id)
    assert (vm.service_offering.name, vm.cpus, vm.memory_bytes) == ("plain", 1, GIB // 2)
    volume = Volume.get()
    assert (volume.root, volume.slot, volume.vm_id, volume.state) == (True, 0, vm.id, "ready")
    assert set(place.files) == {"web.qcow2", volume.file_id}
    assert (Nic.get().mac, Nic.get().network.bridge) == (found.nics[0].mac, "br0")
    assert place.site.hosts["h1"].marked == {vm.id}
    assert (VmOrigin.get().source_name, VmOrigin.get().source_vm) == ("h1", "web")
    assert "StartVm" not in place.site.hosts["h1"].calls
    assert capacity.audit() == []


def test_a_stopped_vm_is_adopted_without_a_place(place: Place) -> None:
    place.put(power_state=types_pb2.POWER_STATE_STOPPED)
    assert outcome(place.engine, place.adopt(name="renamed")) == OK
    assert (Vm.get().name, Vm.get().state, Vm.get().host_id) == ("renamed", "stopped", None)
    assert Vm.get().last_host_id == place.host.id


def test_a_file_with_the_name_of_a_volume_keeps_it(place: Place) -> None:
    file_id = new_id()
    found = place.put()
    found.disks[0].file_name = file_id
    place.files[file_id] = place.files.pop("web.qcow2")
    assert outcome(place.engine, place.adopt()) == OK
    assert Volume.get().file_id == file_id


def test_what_cannot_be_mapped_is_listed(place: Place) -> None:
    bus = Response.Problem(code="DISK_BUS", text="disk sda is on the sata bus", refuses=True)
    tpm = Response.Problem(code="TPM", text="it has a TPM", refuses=True)
    lost = Response.Problem(code="MACHINE_TYPE", text="the machine type becomes q35", refuses=False)
    place.put(problems=[bus, tpm, lost])
    with pytest.raises(FailedPreconditionError) as refused:
        place.adopt(accept_losses=True)
    assert refused.value.reason == "ADOPTION_REFUSED"
    assert "sata" in refused.value.message
    assert "TPM" in refused.value.message
    place.put(problems=[lost])
    assert reason(place.adopt) == "ADOPTION_LOSSES"
    place.check_untouched()
    assert outcome(place.engine, place.adopt(accept_losses=True)) == OK


@pytest.mark.parametrize(
    ("changes", "wanted", "expected"),
    [
        ({"managed": True}, {}, "VM_MANAGED"),
        ({"disks": []}, {}, "ADOPTION_REFUSED"),
        ({"cpus": 99}, {}, "NO_OFFERING"),
        ({"memory_bytes": 2 << 40}, {"offering": "huge"}, "HOST_FULL"),
        ({"cpus": 99}, {"offering": "plain"}, "OFFERING_TOO_SMALL"),
        ({}, {"offering": "encrypted"}, "ENCRYPTION_MISMATCH"),
        ({}, {"name": "a b"}, "INVALID_NAME"),
    ],
)
def test_a_vm_that_does_not_fit_is_refused(
    place: Place, changes: dict[str, Any], wanted: dict[str, Any], expected: str
) -> None:
    ServiceOffering.create(name="huge", cpus=1, memory_bytes=4 << 40)
    place.put(**changes)
    if "offering" in wanted:
        wanted = {"offering": ServiceOffering.get(ServiceOffering.name == wanted["offering"])}
    assert reason(lambda: place.adopt(**wanted)) == expected
    place.check_untouched()


def test_unknown_vms_and_hosts_that_cannot_are_refused(place: Place) -> None:
    place.put()
    assert reason(lambda: place.adopt("nobody")) == "VM_NOT_FOUND"
    Host.update(functions="").where(Host.name == "h1").execute()
    assert reason(place.adopt) == "FUNCTION_NOT_SUPPORTED"
    place.check_untouched()


def test_a_vm_is_adopted_once(place: Place) -> None:
    place.put()
    assert outcome(place.engine, place.adopt()) == OK
    assert reason(place.adopt) == "VM_KNOWN"
    other = place.put("other")
    other.nics[0].mac = Nic.get().mac
    assert reason(lambda: place.adopt("other")) == "MAC_TAKEN"


def test_a_repeated_request_asks_the_host_nothing(place: Place) -> None:
    place.put()
    service, admin = VmService(place.engine.agents, place.site.keys), context(place.site.admin())
    request = pb.AdoptVmRequest(host="h1", vm="web", account=place.site.account.name, request_id=str(uuid.uuid4()))
    first = service.AdoptVm(request, admin)
    assert outcome(place.engine, Operation.get_by_id(first.name.rpartition("/")[2])) == OK
    del place.site.hosts["h1"].foreign["web"]  # to ask now would fail
    assert service.AdoptVm(request, admin).name == first.name


def test_an_interface_needs_a_network_of_its_bridge(place: Place) -> None:
    found = place.put()
    Network.update(all_accounts=False).execute()
    assert reason(place.adopt) == "NO_NETWORK"
    tagged = Network.create(name="tagged", zone=place.site.network.zone, bridge="br0", vlan=7, all_accounts=True)
    assert reason(place.adopt) == "NO_NETWORK"
    place.check_untouched()
    found.nics[0].bridge = "br0v7"
    assert outcome(place.engine, place.adopt()) == OK
    assert Nic.get().network_id == tagged.id


@pytest.mark.parametrize("before", [True, False])
def test_a_failed_adoption_leaves_the_vm_as_it_was(place: Place, before: bool) -> None:
    place.put()
    place.site.hosts["h1"].fail("AdoptVm", Fault(FailedPreconditionError("no", "NO_WAY"), before=before, times=1))
    assert outcome(place.engine, place.adopt()) == ("failed", "NO_WAY")
    place.check_untouched()


def test_an_adoption_that_cannot_be_undone_keeps_its_rows(place: Place) -> None:
    place.put()
    place.site.hosts["h1"].fail("AdoptVm", Fault(FailedPreconditionError("no", "NO_WAY"), before=False, times=1))
    place.site.hosts["h1"].fail("ReleaseVm", Fault(UnavailableError("gone", "GONE"), before=True, times=1))
    assert outcome(place.engine, place.adopt()) == ("failed", "NO_WAY")
    assert "not adopted" in Vm.get().attention
    assert outcome(place.engine, place.unmanage()) == OK
    assert Vm.select().count() == 0


def test_a_vm_goes_back_and_its_files_stay(place: Place) -> None:
    found = place.put()
    assert outcome(place.engine, place.adopt()) == OK
    file_id = Volume.get().file_id
    assert outcome(place.engine, place.unmanage()) == OK
    assert Vm.select().count() == Volume.select().count() == Nic.select().count() == 0
    assert file_id in place.files
    assert place.site.hosts["h1"].marked == set()
    assert capacity.audit() == []
    assert file_id in Event.get(Event.type == "vm.unmanage.report").message
    assert outcome(place.engine, place.adopt()) == OK, "and can be adopted again"
    assert Vm.get().id == found.vm_id


def test_what_could_not_run_without_ostler_is_not_handed_back(place: Place) -> None:
    place.put()
    assert outcome(place.engine, place.adopt()) == OK
    volume = Volume.get()
    Snapshot.create(name="s", volume_id=volume.id, account=volume.account_id, pool=volume.pool_id, size_bytes=MIB)
    assert reason(place.unmanage) == "SNAPSHOTS_EXIST"
    Snapshot.delete().execute()
    Volume.update(passphrase=place.site.keys.create(volume.id)).execute()
    assert reason(place.unmanage) == "VOLUME_ENCRYPTED"
    Volume.update(passphrase=None).execute()
    Pool.update(type="powerflex").execute()
    assert reason(place.unmanage) == "POOL_OF_DEVICES"
    Pool.update(type="shared-mount-point").execute()
    Vm.update(state="failed").execute()
    assert reason(place.unmanage) == "VM_STATE"
    assert Operation.select().where(Operation.verb == "vm.unmanage").count() == 0


def test_a_host_that_cannot_be_asked_keeps_its_vm(place: Place) -> None:
    place.put()
    assert outcome(place.engine, place.adopt()) == OK
    place.site.hosts["h1"].fail("ReleaseVm", Fault(FailedPreconditionError("no", "NO_WAY"), before=True, times=1))
    assert outcome(place.engine, place.unmanage()) == ("failed", "NO_WAY")
    assert Vm.get().state == "running"
    Host.update(state="disconnected").where(Host.name == "h1").execute()
    assert reason(partial(place.unmanage)) == "HOST_SILENT"


def test_a_stopped_vm_is_defined_before_it_goes(place: Place) -> None:
    place.put(power_state=types_pb2.POWER_STATE_STOPPED)
    assert outcome(place.engine, place.adopt()) == OK
    assert outcome(place.engine, place.unmanage()) == OK
    assert place.site.hosts["h1"].calls[-2:] == ["DefineVm", "ReleaseVm"]


def test_a_vm_that_its_host_does_not_know_is_not_forgotten(place: Place) -> None:
    found = place.put()
    assert outcome(place.engine, place.adopt()) == OK
    found.power_state = types_pb2.POWER_STATE_ABSENT
    assert outcome(place.engine, place.unmanage()) == ("failed", "VM_ABSENT")
    assert Vm.get().id == found.vm_id


def test_secure_boot_stays_where_the_host_can(place: Place) -> None:
    place.put("one", firmware=types_pb2.FIRMWARE_UEFI, secure_boot=True)
    place.adopt("one")
    Host.update(functions=",".join(sorted(set(Function) - {Function.SECURE_BOOT}))).execute()
    place.put("two", firmware=types_pb2.FIRMWARE_UEFI, secure_boot=True)
    place.adopt("two")
    assert {vm.name: vm.firmware for vm in Vm.select()} == {"one": "uefi_secure_boot", "two": "uefi"}
