"""A page of a list costs as many queries whether it has few rows or many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ostler.control.v1 import host_pb2, vm_pb2, volume_pb2
from ostler_control.api.convert import fleet as convert_fleet
from ostler_control.api.convert import vms as convert_vms
from ostler_control.api.convert import volumes as convert_volumes
from ostler_control.api.paging import page
from ostler_control.caller import Caller, Role
from ostler_control.models import Host, Vm, Volume, db, new_id

from tests.fleets import add_disks, fill, make_fleet

# Queries of a page of VMs that have nothing beside disks; a further one needs a reason.
MAX_VM_QUERIES = 6


@contextmanager
def queries(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The statements executed inside."""
    seen: list[str] = []
    execute = db.obj.execute_sql

    # Any: peewee's parameters and cursor.
    def counted(text: str, *args: Any, **options: Any) -> Any:
        seen.append(text)
        return execute(text, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(db.obj, "execute_sql", counted)
        yield seen


@pytest.fixture
def caller(fresh_database: str) -> Caller:
    fleet = make_fleet(60)
    fill(fleet, 120)
    add_disks(fleet)
    return Caller(Role.ADMIN, new_id(), "root", fleet.account.id)


def _vms(size: int, caller: Caller) -> int:
    return len(convert_vms.vms(page(Vm.select(), Vm, vm_pb2.ListVmsRequest(page_size=size)).rows, caller))


def _volumes(size: int, caller: Caller) -> int:
    rows = page(Volume.select(), Volume, volume_pb2.ListVolumesRequest(page_size=size)).rows
    return len(convert_volumes.volumes(rows, caller))


def _hosts(size: int, caller: Caller) -> int:
    rows = page(Host.select(), Host, host_pb2.ListHostsRequest(page_size=size)).rows
    return len(convert_fleet.hosts(rows, whole=False))


@pytest.mark.parametrize("read", [_vms, _volumes, _hosts])
def test_a_page_costs_as_many_queries_whatever_its_size(
    read: Callable[[int, Caller], int], caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for size in (2, 50):
        with queries(monkeypatch) as seen:
            assert read(size, caller) == size
        counts.append(len(seen))
    assert counts[0] == counts[1]


def test_a_page_of_vms_reads_no_reports_of_hosts(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    with queries(monkeypatch) as seen:
        _vms(50, caller)
    assert len(seen) <= MAX_VM_QUERIES
    reading_reports = [text for text in seen if '"capabilities"' in text or '"load"' in text]
    assert reading_reports == [], "a host's report is kilobytes"
