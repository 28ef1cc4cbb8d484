"""Rows of several tables as objects, on both databases: they are those that peewee makes."""

from __future__ import annotations

from typing import Any

import pytest
from ostler_control.models import Account, Kek, Passphrase, Pool, ServiceOffering, Template, Vm, Volume, new_id
from ostler_control.models.base import db
from ostler_control.models.joined import columns_of, objects
from ostler_control.vms.rows import disks_of, load_with_disks
from peewee import JOIN


@pytest.fixture
def account(fresh_database: str) -> Any:
    return Account.create(name="acme")


def new_volume(account: Any, name: str, **values: Any) -> Any:
    pool = Pool.get_or_none() or Pool.create(name="p", type="local", scope="host", scope_id=new_id())
    return Volume.create(name=name, account=account, pool=pool, size_bytes=1 << 20, **values)


def new_passphrase(volume_id: str) -> Any:
    kek = Kek.get_or_none() or Kek.create(id="v1", name="v1", current=True)
    return Passphrase.create(kek=kek, sealed=b"\0sealed", bound_id=volume_id)


def test_each_row_is_an_object_of_each_model_or_none(account: Any) -> None:
    template = Template.create(
        name="t", format="qcow2", virtual_size_bytes=1, file_size_bytes=1, sha256="0" * 64, firmware="uefi"
    )
    key = new_passphrase("some volume")
    new_volume(account, "a", template=template, passphrase=key, root=True)
    new_volume(account, "b")
    models = (Volume, Template, Passphrase)
    query = Volume.select(*columns_of(*models)).join(Template, JOIN.LEFT_OUTER)
    query = query.join_from(Volume, Passphrase, JOIN.LEFT_OUTER).order_by(Volume.name)
    (a, its_template, its_key), (b, *others) = objects(db.execute(query).fetchall(), Volume, Template, Passphrase)
    assert a.__data__ == Volume.get(Volume.name == "a").__data__
    assert its_template is not None
    assert its_key is not None
    assert its_template.__data__ == Template.get().__data__
    assert (its_key.id, its_key.create_time, bytes(its_key.sealed)) == (key.id, key.create_time, b"\0sealed")
    assert (b.__data__, others) == (Volume.get(Volume.name == "b").__data__, [None, None])
    assert (a.root, type(a.root), type(a.state)) == (True, bool, type(Volume.get().state))
    assert objects([], Volume, Template, Passphrase) == []


def test_a_vm_comes_with_its_disks_by_slot_and_their_passphrases(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    offering = ServiceOffering.create(name="o", cpus=1, memory_bytes=1)
    vm = Vm.create(name="v", account=account, service_offering=offering, cpus=1, memory_bytes=1)
    bare = Vm.create(name="w", account=account, service_offering=offering, cpus=1, memory_bytes=1)
    keys = [new_passphrase(new_id()) for _ in range(2)]
    new_volume(account, "plain", vm_id=vm.id, slot=2)
    for slot, key in enumerate(keys):
        new_volume(account, f"d{slot}", vm_id=vm.id, slot=1 - slot, passphrase=key)
    found, disks = load_with_disks(vm.id)
    assert (found.__data__, [disk.name for disk in disks]) == (Vm.get_by_id(vm.id).__data__, ["d1", "d0", "plain"])
    assert [disk.__data__ for disk in disks] == [disk.__data__ for disk in disks_of(vm.id)]
    monkeypatch.setattr(db.obj, "execute_sql", lambda *_: pytest.fail("a passphrase is read again"))
    assert [disk.passphrase and disk.passphrase.id for disk in disks] == [keys[1].id, keys[0].id, None]
    monkeypatch.undo()
    found, disks = load_with_disks(bare.id)
    assert (found.id, disks) == (bare.id, [])
