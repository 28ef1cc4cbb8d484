"""Drivers: how they are found, what is refused of those that lack something, and agents that have no libvirt."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from ostler_agent.capabilities import HypervisorFacts
from ostler_agent.config import AgentConfig
from ostler_agent.hypervisors import registry
from ostler_agent.hypervisors.base import live_migration
from ostler_agent.hypervisors.driver import DriverContext
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.hypervisors.libvirt.options import LibvirtOptions
from ostler_agent.isos import Isos
from ostler_agent.jobs import JobContext
from ostler_agent.migration.admissions import Admissions, Source
from ostler_agent.migration.destination import IncomingMigrations
from ostler_agent.spec import DiskFormat, DiskSpec, ExtraConfig, Firmware, Key, NicSpec, VmSpec, VolumeRef
from ostler_agent.vms import disks, power
from ostler_agent.volumes.runtime import online_grow
from ostler_common.config import ConfigError
from ostler_common.driver_details import DetailField
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.hypervisors import Function

from tests.fakes.hypervisor import FakeHypervisor

VM = "7b6c9a0c-0000-4000-8000-000000000001"
VOLUME = "8b6c9a0c-0000-4000-8000-000000000001"
POOL = "9b6c9a0c-0000-4000-8000-000000000001"
JOB = JobContext("test")


class Tiny:
    """A driver as a package would have it."""

    info = DriverInfo(interface_version=1)

    def probe(self, context: DriverContext) -> HypervisorFacts:
        return HypervisorFacts()

    def open(self, context: DriverContext) -> FakeHypervisor:
        return FakeHypervisor()


class Shouting(Tiny):
    info = DriverInfo(interface_version=1, type="LOUD")


class Old(Tiny):
    info = DriverInfo(interface_version=99)


TINY, SHOUTING, OLD, NONE = Tiny(), Shouting(), Old(), object()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint(name, f"{__name__}:{name.upper()}", registry.GROUP) for name in ("tiny", "shouting", "old", "none")
    ]
    points.append(EntryPoint("broken", "no.such.module:DRIVER", registry.GROUP))
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else [])
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Tiny.__module__])


@pytest.mark.usefixtures("installed")
def test_a_package_brings_a_driver_beside_libvirt() -> None:
    assert registry.names() == ["broken", "executable", "libvirt", "none", "old", "shouting", "tiny"]
    assert registry.load("tiny").info == TINY.info
    assert registry.load("libvirt").info.type == "kvm"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("xen", "only broken, executable, libvirt"),
        ("none", "is not a driver"),
        ("shouting", "'LOUD'"),
        ("old", "old implements version 99 of the driver interface"),
        ("broken", "no.such.module"),
    ],
)
def test_what_is_no_driver_is_named(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        registry.load(name)


def test_a_driver_must_have_what_it_states() -> None:
    class Boaster(FakeHypervisor):
        reboot = None  # type: ignore[assignment]

    hypervisor = FakeHypervisor()
    registry.check_parts(hypervisor)
    boaster = Boaster()
    with pytest.raises(ConfigError, match="states reboot"):
        registry.check_parts(boaster)


def test_options_are_checked_by_name(tmp_path: Path) -> None:
    assert DriverContext(tmp_path, {"uri": "test:///default"}).options_as(LibvirtOptions).uri == "test:///default"
    with pytest.raises(ConfigError, match=r"driver_options\.pki_dir: must be an absolute path"):
        DriverContext(tmp_path, {"pki_dir": "here"}).options_as(LibvirtOptions)
    with pytest.raises(ConfigError, match=r"driver_options\.libvirt_uri"):
        DriverContext(tmp_path, {"libvirt_uri": "x"}).options_as(LibvirtOptions)


def spec(**changes: object) -> VmSpec:
    return replace(VmSpec(VM, "guest", 1, 128 << 20), **changes)  # type: ignore[arg-type]


def disk(disk_format: DiskFormat = DiskFormat.RAW, key: Key | None = None) -> DiskSpec:
    return DiskSpec(VolumeRef(POOL, VOLUME, disk_format, key), 1)


def paths(volume: VolumeRef) -> Path:
    return Path("/dev/null")


@pytest.mark.parametrize(
    ("asked", "function"),
    [
        (spec(firmware=Firmware.UEFI), "uefi"),
        (spec(nics=(NicSpec("52:54:00:00:00:01", "br0"),)), "nics"),
        (spec(disks=(disk(key=Key(VOLUME, None)),)), "volume-encryption"),
    ],
)
def test_what_a_driver_does_not_state_is_not_asked_of_it(asked: VmSpec, function: str) -> None:
    hypervisor = FakeHypervisor()
    hypervisor.info = DriverInfo(interface_version=1)
    for refused in (power.define, power.start):
        with pytest.raises(FailedPreconditionError) as caught:
            refused(hypervisor, paths, asked, JOB)
        assert caught.value.reason == "FUNCTION_NOT_SUPPORTED"
        assert caught.value.metadata == {"function": function, "hypervisor_type": "custom"}
    assert hypervisor.done == []


@pytest.mark.parametrize(
    ("details", "reason"), [({}, "DETAIL_MISSING"), ({"kernel": "/k", "initrd": "/i"}, "DETAIL_UNKNOWN")]
)
def test_details_that_a_driver_does_not_accept_never_reach_it(details: dict[str, str], reason: str) -> None:
    hypervisor = FakeHypervisor()
    hypervisor.info = DriverInfo(interface_version=1, details=(DetailField("kernel", "its path", required=True),))
    for refused in (power.define, power.start):
        with pytest.raises(FailedPreconditionError) as caught:
            refused(hypervisor, paths, spec(details=details), JOB)
        assert caught.value.reason == reason
    assert hypervisor.done == []
    power.define(hypervisor, paths, spec(details={"kernel": "/k"}), JOB)
    assert hypervisor.specs[VM].details == {"kernel": "/k"}


def test_a_format_that_a_driver_does_not_state_is_refused() -> None:
    hypervisor = FakeHypervisor()
    hypervisor.info = DriverInfo(interface_version=1)
    with pytest.raises(FailedPreconditionError) as caught:
        power.start(hypervisor, paths, spec(disks=(disk(DiskFormat.QCOW2),)), JOB)
    assert caught.value.reason == "FORMAT_NOT_SUPPORTED"
    assert hypervisor.done == []


def test_calls_that_a_driver_lacks_name_the_function() -> None:
    hypervisor = FakeHypervisor()
    hypervisor.info = DriverInfo(interface_version=1)
    hypervisor.add(VM)
    isos = Isos(lambda source, offset: iter([]))
    incoming = IncomingMigrations(hypervisor, None, paths, "h1", "h1", Admissions(Path("/nowhere")), isos)  # type: ignore[arg-type]
    calls: dict[Function, Callable[[], object]] = {
        Function.REBOOT: lambda: power.reboot(hypervisor, VM, hard=True),
        Function.HOT_PLUG: lambda: disks.detach(hypervisor, VM, VOLUME, None, JOB),
        Function.ONLINE_GROW: lambda: online_grow(hypervisor),
        Function.LIVE_MIGRATION: lambda: incoming.prepare(spec(), (), Source(VM, 60), JOB),
        Function.EXTRA_CONFIG: lambda: power.start(
            hypervisor, paths, replace(spec(), vm_id=VOLUME, extra=ExtraConfig(("<pm/>",))), JOB
        ),
    }
    for function, call in calls.items():
        with pytest.raises(OstlerError) as caught:
            call()
        assert (caught.value.reason, caught.value.metadata["function"]) == ("FUNCTION_NOT_SUPPORTED", function)
    assert hypervisor.done == []
    hypervisor.info = replace(hypervisor.info, functions=frozenset(Function))
    assert live_migration(hypervisor) is hypervisor


def test_without_hot_plug_a_stopped_vm_takes_its_disks_when_it_starts(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()
    hypervisor.info = DriverInfo(interface_version=1)
    (tmp_path / VOLUME).touch()
    disks.attach(hypervisor, lambda volume: tmp_path / volume.volume_id, VM, disk(), JOB)
    disks.detach(hypervisor, VM, VOLUME, None, JOB)
    assert hypervisor.done == []


def test_an_agent_with_another_driver_never_imports_libvirt() -> None:
    script = """
import sys
sys.modules["libvirt"] = None  # importing it is an error
import ostler_agent.main, ostler_agent.agent, ostler_agent.join
from ostler_agent.hypervisors import registry
print(registry.load("libvirt").info.type)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "kvm\n", done.stderr


def test_state_of_each_driver_is_its_own(tmp_path: Path) -> None:
    context = registry.context(
        AgentConfig.model_validate({"state_dir": tmp_path, "driver": "tiny", "driver_options": {"cpus": 2}})
    )
    assert (context.state_dir, context.options) == (tmp_path / "drivers" / "tiny", {"cpus": 2})
    assert context.state_dir.stat().st_mode & 0o777 == 0o700
