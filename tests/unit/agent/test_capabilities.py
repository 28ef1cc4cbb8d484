"""Capabilities: what fails says why, and what changes is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ostler_agent.capabilities import Capabilities, HypervisorFacts, Probe, Prober, conversion, encryption, network
from ostler_agent.capabilities.facts import attempt
from ostler_agent.capabilities.packages import stamp
from ostler_agent.hypervisors.libvirt.info import INFO
from ostler_common.errors import UnavailableError
from ostler_common.hypervisors import Function

EMPTY = Capabilities(INFO, HypervisorFacts(), (), (), ())


def program(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of programs in front of the real ones."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/sbin:/usr/bin:/sbin:/bin")
    return directory


def test_broken_qemu_img_gives_the_reason(programs: Path, tmp_path: Path) -> None:
    program(programs, "qemu-img", "echo 'Unsupported cipher mode' >&2; exit 1")
    program(programs, "cryptsetup", "exit 0")
    found = {probe.name: probe for probe in encryption.probe(tmp_path)}
    qemu_img = found["volume-encryption.qemu-img"]
    assert not qemu_img.ok
    assert "Unsupported cipher mode" in qemu_img.reason
    assert not replace(EMPTY, probes=tuple(found.values())).volume_encryption


def test_qemu_img_that_only_pretends_is_found_out(programs: Path, tmp_path: Path) -> None:
    program(programs, "qemu-img", "exit 0")
    program(programs, "cryptsetup", "exit 0")
    reasons = [probe.reason for probe in encryption.probe(tmp_path)]
    assert reasons == ["an encrypted image opens with a wrong key"] * 2


def test_probe_leaves_nothing_behind(programs: Path, tmp_path: Path) -> None:
    program(programs, "qemu-img", "exit 1")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    encryption.probe(scratch)
    assert list(scratch.iterdir()) == []


def test_missing_programs_are_named(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(programs))
    absent = tmp_path / "absent"
    found = {probe.name: probe for probe in conversion.probe(absent, absent, absent)}
    assert not any(probe.ok for probe in found.values())
    remedies = {name.partition(".")[2]: probe.reason.rpartition("apt-get install ")[2] for name, probe in found.items()}
    assert remedies["virt-v2v"] == "virt-v2v, 2.2 or newer)"
    assert remedies["qemu-storage-daemon"] == "qemu-system-common)"
    assert remedies["kernel"] == "linux-image-generic)"


def test_conversion_with_every_program(programs: Path, tmp_path: Path) -> None:
    program(
        programs, "virt-v2v-in-place", "[ $1 = --version ] && echo virt-v2v-in-place 2.2.0 || echo input:libvirtxml"
    )
    program(programs, "nbdkit", 'echo "nbdkit 1.32.5 (nbdkit-1.32.5-1)"')
    program(programs, "qemu-storage-daemon", 'echo "qemu-storage-daemon version 7.2.22 (Debian)"')
    program(programs, "supermin", 'echo "supermin 5.2.2"')
    program(programs, "guestfish", 'echo "guestfish 1.48.6"')
    program(programs, "ovftool", 'echo "VMware ovftool 4.6.3 (build-1)"')
    (tmp_path / "vmlinuz-6.1.0").touch()
    found = conversion.probe(tmp_path, Path("/dev/null"), tmp_path)
    details = ["2.2.0", "1.32.5", "7.2.22", "/dev/null", "5.2.2", "6.1.0", str(tmp_path), "1.48.6", "4.6.3"]
    assert [probe.detail for probe in found] == details
    assert replace(EMPTY, probes=tuple(found)).instance_conversion


def test_an_ovftool_without_parallel_transfers_is_refused(programs: Path, tmp_path: Path) -> None:
    program(programs, "ovftool", 'echo "VMware ovftool 4.3.0 (build-1)"')
    ovftool = conversion.probe(tmp_path)[-1]
    assert (ovftool.ok, ovftool.reason) == (False, "ovftool 4.3.0 is too old (install 4.4.0 or newer)")


def test_windows_drivers_and_ovftool_are_not_needed_for_conversion() -> None:
    probes = (Probe("instance-conversion.virt-v2v", ok=True), Probe("ovftool", ok=False))
    assert replace(EMPTY, probes=probes).instance_conversion


def test_family_that_was_not_probed_is_not_there() -> None:
    assert not EMPTY.volume_encryption
    assert not replace(EMPTY, probes=(Probe("volume-encryption-extra", ok=True),)).volume_encryption


def raises(error: Exception) -> Callable[[], str]:
    def work() -> str:
        raise error

    return work


def test_attempt_never_raises() -> None:
    assert attempt("x", lambda: "1.0") == Probe("x", ok=True, detail="1.0")
    assert attempt("x", raises(UnavailableError("away", "AWAY"))) == Probe("x", ok=False, reason="away")
    assert "KeyError" in attempt("x", raises(KeyError("k"))).reason


def test_bridges_are_read_from_sys(tmp_path: Path) -> None:
    for interface in ("br1/bridge", "br0/bridge", "eth0"):
        (tmp_path / interface).mkdir(parents=True)
    assert network.bridges(tmp_path) == ("br0", "br1")


def test_stamp_changes_with_packages_and_programs(programs: Path, tmp_path: Path) -> None:
    database = tmp_path / "status"
    seen = [stamp([database], ["qemu-image"])]
    database.write_text("one package")
    seen.append(stamp([database], ["qemu-image"]))
    program(programs, "qemu-image", "exit 0")
    seen.append(stamp([database], ["qemu-image"]))
    assert len(set(seen)) == 3
    assert stamp([database], ["qemu-image"]) == seen[-1]


def test_prober_probes_again_when_something_was_installed() -> None:
    outcomes = [EMPTY, replace(EMPTY, bridges=("br0",))]
    stamps = [1, 1, 2]
    prober = Prober(lambda: outcomes.pop(0), stamp=lambda: stamps.pop(0))
    received: list[Capabilities] = []
    prober.subscribe(received.append)
    assert not prober.check_for_changes()
    assert prober.current().bridges == ()
    assert prober.check_for_changes()
    assert prober.current().bridges == ("br0",)
    assert received == [prober.current()]


def test_listeners_hear_of_changes_only() -> None:
    prober = Prober(lambda: replace(EMPTY), stamp=lambda: 1)
    received: list[Capabilities] = []
    end = prober.subscribe(received.append)
    prober.probe()
    assert received == []
    end()


@pytest.mark.parametrize(
    ("uefi", "secure_boot", "is_proved"),
    [(True, True, True), (True, False, False), (True, None, True), (False, None, False), (False, True, False)],
)
def test_secure_boot_is_proved_by_its_probe_or_where_a_driver_has_none_by_uefi(
    uefi: bool, secure_boot: bool | None, is_proved: bool
) -> None:
    probes = [Probe("uefi", ok=uefi)] + ([] if secure_boot is None else [Probe("secure-boot", ok=secure_boot)])
    found = replace(EMPTY, probes=tuple(probes))
    assert found.secure_boot is is_proved
    without = replace(INFO, functions=INFO.functions - {Function.SECURE_BOOT})
    assert not replace(found, driver=without).secure_boot
