"""Row locks and races are another matter on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ostler_common.errors import AlreadyExistsError, OstlerError
from ostler_control import vms, volumes
from ostler_control.database import session, transaction
from ostler_control.models import Operation, Vm, Volume

from tests import databases
from tests.sites import MIB, Site, outcome, site_at_work

pytestmark = pytest.mark.slow

OK = ("succeeded", "")


def new_volume(site: Site, name: str) -> Operation:
    wanted = volumes.NewVolume(name, site.account, site.disks["encrypted"], 4 * MIB)
    return volumes.create(wanted, "alice", site.keys)


def test_many_lives_at_once(postgresql: str, tmp_path: Path) -> None:
    """Each makes, changes and deletes a VM and a volume, all at the same time."""
    with (
        databases.bound(databases.new_database(postgresql, "work")) as url,
        site_at_work(url, tmp_path) as (site, engine),
    ):
        made: list[Any] = []
        refused: list[str] = []

        def life(number: int) -> None:
            def done(make: Callable[[], Operation]) -> Any:
                operation = site.record(make)
                assert outcome(engine, operation) == OK
                return operation

            try:
                with session():
                    vm = Vm.get_by_id(done(lambda: site.new_vm(f"vm{number}")).resource_id)
                    made.append(vm)
                    volume = Volume.get_by_id(done(lambda: new_volume(site, f"data{number}")).resource_id)
                    done(lambda: volumes.attach(volume, vm, "alice"))
                    done(lambda: volumes.grow(volume, 8 * MIB, "alice"))
                    done(lambda: vms.stop(vm, "alice"))
                    done(lambda: volumes.detach(volume, "alice"))
                    done(lambda: vms.delete(vm, "alice"))
                    done(lambda: volumes.delete(volume, "alice"))
            except OstlerError as error:
                refused.append(error.reason)

        threads = [threading.Thread(target=life, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(made), refused) == (8, [])
        mover = site.record(lambda: site.new_vm("mover", host=site.host("h1")))
        assert outcome(engine, mover) == OK
        vm = Vm.get_by_id(mover.resource_id)
        assert outcome(engine, site.record(lambda: vms.migrate(vm, "alice"))) == OK
        host_now = Vm.get_by_id(vm.id).host
        assert host_now is not None
        assert host_now.name == "h2"
        site.check_whole()


def test_of_two_vms_of_one_name_at_once_the_second_is_told_that_it_exists(postgresql: str, tmp_path: Path) -> None:
    with databases.bound(databases.new_database(postgresql, "names")) as url, site_at_work(url, tmp_path) as (site, _):
        recorded, go_on = threading.Event(), threading.Event()

        def first() -> None:
            with transaction():
                site.new_vm("web")
                recorded.set()
                go_on.wait(20)  # the second passes its checks, which cannot see this row yet

        holder = threading.Thread(target=first)
        holder.start()
        assert recorded.wait(20)
        threading.Timer(1.0, go_on.set).start()
        with pytest.raises(AlreadyExistsError) as caught, transaction():
            site.new_vm("web", host=site.host("h2"))
        holder.join()
        assert caught.value.reason == "VM_EXISTS"
        assert Vm.select().count() == 1
