"""Every driver that is here against the conformance checks, and the checks against drivers that do wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ostler_agent.capabilities.facts import HypervisorFacts
from ostler_agent.conformance.bench import Bench, Setup
from ostler_agent.conformance.results import Outcome
from ostler_agent.conformance.suite import CHECKS, run_checks
from ostler_agent.hypervisors import registry
from ostler_agent.hypervisors.base import Console, Paths
from ostler_agent.hypervisors.driver import DriverContext
from ostler_agent.spec import VmInfo, VmSpec
from ostler_common.hypervisors import Function
from ostler_qemu_driver import factory
from ostler_qemu_driver.hypervisor import QemuHypervisor

from tests.host.conftest import need
from tests.lab.container_image import READY, container_image
from tests.lab.guest import guest_image
from tests.lab.host import environment
from tests.lab.lab import Lab

# The checks end by themselves, each by limits of its own; this one only ends a hang. All three drivers at once, and the
# other tests beside them, take many times as long on a machine with more work than processors.
HANG_S = 1500
pytestmark = [pytest.mark.host, pytest.mark.timeout(HANG_S + 100)]


@dataclass(frozen=True)
class Verdict:
    exit_code: int
    details: dict[tuple[str, str], str]  # by check and outcome
    stderr: str

    def checks(self, outcome: Outcome) -> set[str]:
        return {name for name, found in self.details if found == outcome}


GUEST = {"guest.console", "guest.console-log", "guest.unplug", "guest.reboot", "guest.shut-down"}
# What only libvirt's driver states.
KVM_ONLY = {
    *("volume-encryption.key", "uefi.start", "user-data.start", "extra-config.start", "restart.mirror"),
    *(
        "live-resize.running",
        "nic-hot-plug.running",
        "nic-link.running",
        "guest-addresses.unheard",
        "guest-agent.unheard",
        "io-limits.running",
        "iso.drives",
        "machine-type.kept",
        "secure-boot.start",
        "tpm.start",
        "firmware-state.carried",
        "adoption.hand-back",
        "adoption.unknown",
    ),
    *("online-copy.copy", "online-copy.cancelled", "online-copy.pivot", "console-log.kept", "guest.console-log"),
    *("online-backup.together", "incremental-backup.since", "memory-snapshot.continued", "send-key.pressed"),
    "screen.vnc",
}
# What a container cannot do either.
VMS_ONLY = {
    *("reboot.reset", "reboot.unheard", "screenshot.png", "online-grow.grow", "guest.unplug", "guest.reboot"),
    *("hot-plug.stopped", "hot-plug.running", "hot-plug.unheard", "restart.in-detach"),
}
# Options of `driver check` for each driver, and the checks that are skipped with them. What a guest says of libvirt's
# driver is tested elsewhere: booting one is most of the time that the checks take.
DRIVERS = {
    "libvirt": (["--option", "domain_type=qemu"], GUEST),
    "qemu": (["--option", "accel=tcg"], KVM_ONLY),
    "nspawn": ([], KVM_ONLY | VMS_ONLY),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """All drivers at the same time, on one host: they wait more than they work."""
    container = str(container_image(tmp_path_factory.mktemp("container")))
    guests = {
        "qemu": ["--image", str(guest_image()), "--ready", "tick 1"],
        "nspawn": ["--image", container, "--image-format", "raw", "--ready", READY],
    }
    with Lab.start(hosts=1) as lab:
        lab.trust_each_other()
        host = lab.hosts[0]

        def check(name: str) -> Verdict:
            argv = [sys.executable, "-m", "ostler_agent.main", "driver", "check", name, *DRIVERS[name][0], "-o", "json"]
            argv += ["--bridge", "br0", "--scratch", "/var/lib/ostler"]
            argv += ["--state-dir", f"/var/lib/ostler/check-{name}"]  # of one agent they would take turns
            argv += guests.get(name, [])
            done = subprocess.run(
                [*host.enter(), *argv], capture_output=True, text=True, env=environment(), timeout=HANG_S, check=False
            )
            results = json.loads(done.stdout or "[]")
            details = {(result["check"], result["outcome"]): result["detail"] for result in results}
            return Verdict(done.returncode, details, done.stderr)

        with ThreadPoolExecutor() as pool:
            found = dict(zip(DRIVERS, pool.map(check, DRIVERS), strict=True))
        assert host.virsh("list", "--all", "--uuid").split() == [], "nothing is left"
        assert not list(host.outside("/var/lib/ostler").glob("ostler-driver-check-*"))
        return found


@pytest.mark.parametrize("name", DRIVERS)
def test_a_driver_keeps_the_contract(verdicts: dict[str, Verdict], name: str) -> None:
    verdict = verdicts[name]
    failed = {check: verdict.details[check, "failed"] for check in verdict.checks(Outcome.FAILED)}
    assert not failed, verdict.stderr
    assert verdict.checks(Outcome.SKIPPED) == DRIVERS[name][1]
    assert len(verdict.details) == len(CHECKS)
    assert verdict.exit_code == 0


# -- the checks themselves


class Sound(QemuHypervisor):
    """The example driver as it is; below, each has one fault."""


class Lister(Sound):
    def vms(self) -> list[VmInfo]:
        return [*super().vms(), *super().vms()]


class Overwriter(Sound):
    def define(self, spec: VmSpec, paths: Paths) -> None:
        if not self.running(spec.vm_id):
            super().define(spec, paths)


class Forgetter(Sound):
    def power_off(self, vm_id: str) -> None:
        super().power_off(vm_id)
        super().delete(vm_id)


class Sharer(Sound):
    def console(self, vm_id: str, force: bool) -> Console:
        return super().console(vm_id, force=True)


class Stranger(Sound):
    def shut_down(self, vm_id: str) -> None:
        raise KeyError(vm_id)


class Shrinker(Sound):
    def grow_disk(self, vm_id: str, volume_id: str, size_bytes: int) -> None:
        super().grow_disk(vm_id, volume_id, max(size_bytes, 24 << 20))


class Station:
    """A driver of one class, that states functions of choice."""

    def __init__(self, made: type[QemuHypervisor], functions: frozenset[Function]) -> None:
        self.info = replace(factory.INFO, functions=functions)
        self._made = made

    def probe(self, context: DriverContext) -> HypervisorFacts:
        return factory.DRIVER.probe(context)

    def open(self, context: DriverContext) -> QemuHypervisor:
        return self._made(self.info, context.state_dir, "qemu-system-x86_64", "tcg")


@pytest.fixture
def outcome(tmp_path: Path) -> Iterator[Callable[..., tuple[Outcome, str]]]:
    """How one check ends for a driver of a class."""
    need("qemu-system-x86_64", "qemu-img")
    benches: list[Bench] = []

    def check(
        name: str, made: type[QemuHypervisor], functions: frozenset[Function] = factory.INFO.functions
    ) -> tuple[Outcome, str]:
        context = DriverContext(tmp_path / f"driver-{len(benches)}", {"accel": "tcg"})
        bench = Bench("none", Station(made, functions), context, Setup(tmp_path), HypervisorFacts())
        benches.append(bench)
        (result,) = run_checks(bench, name)
        return result.outcome, result.detail

    yield check
    for bench in benches:
        bench.close()


@pytest.mark.parametrize(
    ("name", "made", "said"),
    [
        ("vm.define", Lister, "listed once"),
        ("vm.refuse-running", Overwriter, "define must be refused with VM_RUNNING"),
        ("vm.power-off", Forgetter, "must be reported as"),
        ("console.one-holder", Sharer, "CONSOLE_BUSY"),
        ("vm.unknown", Stranger, "KeyError"),
        ("online-grow.grow", Shrinker, "VOLUME_SHRINK"),
    ],
)
def test_a_fault_is_found(
    outcome: Callable[..., tuple[Outcome, str]], name: str, made: type[QemuHypervisor], said: str
) -> None:
    assert outcome(name, Sound) == (Outcome.OK, "")
    verdict, detail = outcome(name, made)
    assert verdict is Outcome.FAILED
    assert said in detail


def test_a_lie_is_found(outcome: Callable[..., tuple[Outcome, str]]) -> None:
    stated = factory.INFO.functions
    assert outcome("statement.parts", Sound, stated | {Function.LIVE_MIGRATION}) == (
        Outcome.FAILED,
        "it states live-migration but lacks the calls of LiveMigration",
    )
    assert outcome("statement.parts", Sound, stated - {Function.REBOOT})[0] is Outcome.FAILED
    assert outcome("reboot.reset", Sound, stated - {Function.REBOOT})[0] is Outcome.SKIPPED


def test_the_drivers_are_listed() -> None:
    argv = [sys.executable, "-m", "ostler_agent.main", "driver", "list", "-o", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), check=True)
    rows: dict[str, Any] = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(rows) == registry.names()
    assert rows["libvirt"]["type"] == "kvm"
    assert rows["qemu"]["formats"] == ["raw"]
