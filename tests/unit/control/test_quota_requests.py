"""Every request that gives an account more is refused beyond its quota, and changes nothing then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ostler_common.errors import ResourceExhaustedError
from ostler_control import settings, snapshots, vms, volumes
from ostler_control.catalog.quotas import find_usage
from ostler_control.models import Operation, Template, Vm, Volume, VolumeFile
from ostler_control.operations import Engine

from tests import databases
from tests.sites import GIB, MIB, Site, outcome, site_at_work


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Engine]]:
    state_dir: Path = tmp_path_factory.mktemp("site")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as working:
        yield working


@pytest.fixture(scope="module")
def full(working: tuple[Site, Engine]) -> Site:
    """An account with a stopped VM and a volume, which may have nothing more."""
    site, engine = working
    made = site.record(lambda: site.new_vm("web", stopped=True))
    assert outcome(engine, made) == ("succeeded", "")
    new = volumes.NewVolume("data", site.account, site.disks["plain"], size_bytes=4 * MIB)
    assert outcome(engine, site.record(lambda: volumes.create(new, "alice", site.keys))) == ("succeeded", "")
    for setting in settings.quotas.SETTINGS:
        settings.change(setting.name, "0", "root", settings.Owner.of(site.account))
    return site


def data() -> Volume:
    return Volume.get(Volume.name == "data")


def larger_template(site: Site) -> Template:
    found: Template = site.template
    template: Template = Template.get_by_id(found.id)
    template.virtual_size_bytes = GIB
    return template


REQUESTS: dict[str, Callable[[Site], Operation]] = {
    "vm": lambda site: site.new_vm("db"),
    "volume": lambda site: volumes.create(
        volumes.NewVolume("more", site.account, site.disks["plain"], size_bytes=4 * MIB), "alice", site.keys
    ),
    "copy": lambda site: volumes.copy(volumes.NewCopy("more", site.account, data()), "alice", site.keys),
    "grow": lambda site: volumes.grow(data(), 8 * MIB, "alice"),
    "reinstall": lambda site: vms.reinstall(Vm.get(Vm.name == "web"), "alice", site.keys, larger_template(site)),
    "snapshot": lambda site: snapshots.create(snapshots.NewSnapshot(data()), "alice"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_beyond_the_quota_changes_nothing(name: str, full: Site) -> None:
    usage = find_usage([full.account.id])
    counts = [model.select().count() for model in (Operation, Vm, Volume, VolumeFile)]
    with pytest.raises(ResourceExhaustedError) as caught:
        full.record(lambda: REQUESTS[name](full))
    assert caught.value.reason == "QUOTA_EXCEEDED"
    assert find_usage([full.account.id]) == usage
    assert [model.select().count() for model in (Operation, Vm, Volume, VolumeFile)] == counts


def test_what_gives_nothing_more_still_works(working: tuple[Site, Engine], full: Site) -> None:
    vm = Vm.get(Vm.name == "web")
    assert outcome(working[1], full.record(lambda: vms.start(vm, "alice"))) == ("succeeded", "")
    assert outcome(working[1], full.record(lambda: vms.stop(vm, "alice", force=True))) == ("succeeded", "")
