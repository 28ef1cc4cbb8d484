"""The example driver's values: definitions, QEMU's command line, what the kernel and QEMU say."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from ostler_agent.hypervisors.driver import DriverContext
from ostler_agent.spec import DiskFormat, DiskSpec, NicSpec, VmSpec, VolumeRef
from ostler_common.config import ConfigError
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_qemu_driver import definition as definitions
from ostler_qemu_driver import events, samples
from ostler_qemu_driver.command import command
from ostler_qemu_driver.definition import Store
from ostler_qemu_driver.errors import to_ostler_error
from ostler_qemu_driver.factory import DRIVER, Options

VM = "7b6c9a0c-0000-4000-8000-000000000001"
VOLUMES = [f"8b6c9a0c-0000-4000-8000-00000000000{number}" for number in range(3)]
SPEC = VmSpec(
    VM,
    "web, 1",
    2,
    256 << 20,
    disks=tuple(
        DiskSpec(VolumeRef("pool", volume_id, DiskFormat.RAW), slot, boot=slot == 0)
        for slot, volume_id in enumerate(VOLUMES[:2])
    ),
    nics=(NicSpec("52:54:00:00:00:01", "br0"),),
)


def paths(ref: VolumeRef) -> Path:
    return Path("/pool", ref.volume_id)


def test_a_definition_outlives_the_driver(tmp_path: Path) -> None:
    made = definitions.define(SPEC, paths)
    store = Store(tmp_path / "vms")
    store.write(made)
    again = Store(tmp_path / "vms")
    assert again.ids() == [VM]
    assert again.read(VM) == made
    again.remove(VM)
    again.remove(VM)
    assert (again.ids(), again.read(VM)) == ([], None)
    assert list((tmp_path / "vms").iterdir()) == []


def test_half_a_removal_is_no_vm(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(definitions.define(SPEC, paths))
    (store.directory(VM) / definitions.FILE).unlink()
    assert (store.ids(), store.read(VM)) == ([], None)


def test_a_disk_has_one_slot_and_a_slot_one_disk() -> None:
    made = definitions.define(SPEC, paths)
    there = made.disks[1]
    assert definitions.has(made.disks, there, VM)
    assert not definitions.has(made.disks, replace(there, volume_id=VOLUMES[2], slot=2), VM)
    for wrong, reason in ((replace(there, slot=2), "VOLUME_ATTACHED"), (replace(there, volume_id="x"), "SLOT_TAKEN")):
        with pytest.raises(FailedPreconditionError) as error:
            definitions.has(made.disks, wrong, VM)
        assert error.value.reason == reason
    with pytest.raises(InvalidArgumentError):
        definitions.disk(replace(SPEC.disks[0], slot=definitions.MAX_DISKS), Path("/x"))


def test_qemus_command_line(tmp_path: Path) -> None:
    made = definitions.define(SPEC, paths)
    argv = command("qemu", "auto", made, tmp_path, {"qmp": 3, "console": 4}, [5])
    options = [f"{option} {value}" for option, value in itertools.pairwise(argv)]
    assert argv[argv.index("-name") + 1] == "guest=web,, 1,debug-threads=on"
    assert [line for line in options if line.startswith("-accel")] == ["-accel kvm", "-accel tcg"]
    assert "-m 262144k" in options
    assert "-chardev socket,id=qmp,fd=3,server=on,wait=off" in options
    assert "-netdev tap,id=net0,fd=5" in options
    nodes = [json.loads(argv[i + 1]) for i, word in enumerate(argv) if word == "-blockdev"]
    assert [(node["node-name"], node["driver"], node["file"]["filename"]) for node in nodes] == [
        ("disk0", "raw", f"/pool/{VOLUMES[0]}"),
        ("disk1", "raw", f"/pool/{VOLUMES[1]}"),
    ]
    devices = [json.loads(word) for word in argv if word.startswith("{") and "virtio-blk" in word]
    assert [(device["addr"], device.get("bootindex")) for device in devices] == [("0x5", 1), ("0x6", None)]
    assert argv[-2:] == ["-pidfile", str(tmp_path / "pid")]


def test_what_the_kernel_counts() -> None:
    stat = "42 (qemu) x) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 4 0 9 900000 2000 18446744073709551615"
    found = samples.parse(VM, stat)
    assert (found.cpu_time_ns, found.rss_bytes) == (200 * samples._TICK_NS, 2000 * samples._PAGE_BYTES)
    assert samples.sample(VM, 2**22 + 1) is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('Failed to get "write" lock\nIs another process using the image', "DISK_IN_USE"),
        ("Could not open '/x': No such file or directory", "VOLUME_MISSING"),
        ("something else", "HYPERVISOR_ERROR"),
    ],
)
def test_qemus_words_have_reasons(words: str, reason: str) -> None:
    assert to_ostler_error("starting VM x", words).reason == reason


def test_why_a_vm_stopped() -> None:
    assert [events.stopped_because(word) for word in ("guest-shutdown", "host-qmp-quit", "", "guest-panic")] == [
        "shutdown",
        "destroyed",
        "failed",
        "guest-panic",
    ]
    assert events.kind_of("VNC_CONNECTED") is None


def test_its_options() -> None:
    assert DriverContext(Path("/x"), {"accel": "tcg"}).options_as(Options).accel == "tcg"
    with pytest.raises(ConfigError, match=r"driver_options\.accel"):
        DRIVER.probe(DriverContext(Path("/x"), {"accel": "xen"}))
