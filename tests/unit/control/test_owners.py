"""One statement tells which of many tables have rows for some objects."""

from __future__ import annotations

import pytest
from ostler_control.models import Nic, VmDetail, VmLabel, VmMachine, Volume, db, new_id, owners

from tests.fleets import add_disks, make_fleet


@pytest.mark.usefixtures("fresh_database")
def test_owners_are_found_in_each_table_by_one_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = make_fleet(1)
    first, second, other = (fleet.vm(name) for name in ("a", "b", "c"))
    add_disks(fleet)
    for key in ("x", "y"):
        VmDetail.create(vm=first, key=key, value="1")
    VmDetail.create(vm=other, key="x", value="1")
    VmLabel.create(object=second, key="x", value="1")
    ids = [first.id, second.id, new_id()]
    execute, texts = db.obj.execute_sql, list[str]()

    def noted(text: str, values: list[str]) -> object:
        texts.append(text)
        return execute(text, values)

    monkeypatch.setattr(db.obj, "execute_sql", noted)
    having = owners((VmDetail.vm, ids), (VmLabel.object, ids), (Nic.vm, ids), (VmMachine.vm, []), (Volume.vm_id, ids))
    assert len(texts) == 1
    assert {table: sorted(found) for table, found in having.items()} == {
        VmDetail: [first.id],
        VmLabel: [second.id],
        Nic: [],
        VmMachine: [],
        Volume: sorted([first.id, second.id]),
    }
    assert owners((VmDetail.vm, [])) == {VmDetail: []}
    assert len(texts) == 1, "nothing was asked"
