"""Control is killed at every point of what it does by itself: the definition that a silent host kept is deleted, and
what the firmware of a guest that shut down by itself keeps is copied."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from ostler_control import vms
from ostler_control.database import transaction
from ostler_control.hosts.definitions import Left, delete_left
from ostler_control.models import Event, Operation, PowerState, Vm, VmFirmwareState
from ostler_control.vms import firmware_states

from tests.sites import Site
from tests.unit.control.crashes import Aftermath, aftermath_of, names, record, run_without_crash, states

pytestmark = pytest.mark.slow

# Three a step (look, delete, tell; keep), the end, and one never killed.
POINTS = {"left": 11, "ended": 5}


def prepare(site: Site) -> None:
    """VMs that were started elsewhere while their host was silent, and VMs with a TPM whose guests have shut down."""
    wanted = {"offering": site.plain, "pool": site.pools["shared"], "host": site.host("h1")}
    left, ended = (names(kind, POINTS[kind]) for kind in ("left", "ended"))
    made = [record(partial(site.new_vm, name, tpm=name in ended, **wanted)) for name in (*left, *ended)]
    run_without_crash(site, made)
    run_without_crash(site, [record(partial(vms.stop, named(name), "root", 0, True)) for name in left])
    site.silence("h1")
    run_without_crash(site, [record(partial(vms.start, named(name), "root", site.host("h2"))) for name in left])
    site.revive("h1")
    with transaction():
        for name in ended:
            vm = named(name)
            site.hosts["h1"].vms[vm.id].running = False
            site.hosts["h1"].tpms[vm.id].content = name.encode()
            Vm.update(power_state=PowerState.STOPPED).where(Vm.id == vm.id).execute()


def named(name: str) -> Vm:
    return Vm.get(Vm.name == name)


def start(site: Site, kind: str, name: str) -> Operation:
    vm = named(name)
    if kind == "left":
        operation = delete_left(Left(site.hosts["h1"].host_id, vm.id, vm.name))
        assert operation is not None
        return operation
    vms.keep_of_ended(site.keys)
    mine = (Operation.verb == "vm.keep-firmware-state") & (Operation.resource_id == vm.id)
    return Operation.get(mine)


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    with aftermath_of(tmp_path_factory.mktemp("silent"), POINTS, prepare, start) as found:
        yield found


def test_each_definition_is_deleted_and_each_vm_runs_on(aftermath: Aftermath) -> None:
    site, operations = aftermath
    assert states(operations["left"]) == {"succeeded"}
    for name in names("left", POINTS["left"]):
        assert site.fleet.running_on(named(name).id) == ["h2"]
        assert named(name).id not in site.hosts["h1"].vms
    told = [row.id for row in Event.select().where(Event.type == "host.vm.definition-deleted")]
    assert len(told) >= POINTS["left"]
    assert Vm.select().where(Vm.operation_id != "").count() == 0


def test_each_copy_is_taken_once(aftermath: Aftermath) -> None:
    site, operations = aftermath
    assert states(operations["ended"]) == {"succeeded"}
    assert VmFirmwareState.select().count() == POINTS["ended"]
    for name in names("ended", POINTS["ended"]):
        assert firmware_states.next_of(named(name).id, site.keys).tpm.endswith(name.encode())
    vms.keep_of_ended(site.keys)
    assert Operation.select().where(Operation.verb == "vm.keep-firmware-state").count() == POINTS["ended"]
    with transaction():
        for name in names("ended", POINTS["ended"]):
            site.hosts["h1"].vms[named(name).id].running = True
    site.check_whole()
