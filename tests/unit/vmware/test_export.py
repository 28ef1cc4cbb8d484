"""Exporting a VM through a lease: whole, checked, and through faults."""

from __future__ import annotations

import hashlib
import subprocess
import threading
import time
from pathlib import Path

import pytest
from ostler_common.errors import CancelledError, FailedPreconditionError, OstlerError, UnavailableError
from ostler_control.vmware import fetch
from ostler_control.vmware.clone import clone, clone_name, delete_clones, list_clones
from ostler_control.vmware.connection import Connection, connected
from ostler_control.vmware.export import Export, Exporter, manifest_text, stream_count
from ostler_control.vmware.inventory import Power, SourceVm
from ostler_control.vmware.read_inventory import read_vm
from ostler_control.vmware.sink import Digest, DirectorySink

from tests.fakes.vcenter import FakeVcenter, vcenter
from tests.unit.vmware.conftest import vm_spec
from tests.unit.vmware.exports import find, never

DISK_0, DISK_1 = "disk-0.vmdk", "disk-1.vmdk"


def exporter(connection: Connection, name: str, directory: Path, *, streams: int = 2) -> Exporter:
    vm = find(connection, name)
    return Exporter(connection, vm, vm.ref, DirectorySink(directory), streams, never, lambda done, total: None)


def check_whole(export: Export, directory: Path, vm: SourceVm, vmdks: list[Path]) -> None:
    """The files are the source's, and nothing else is there."""
    assert sorted(path.name for path in directory.iterdir()) == sorted([*export.files, "vm.mf"])
    for disk, source in zip(vm.disks, vmdks, strict=True):
        assert (directory / export.disks[disk.key]).read_bytes() == source.read_bytes()
    for name, digest in export.files.items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest.sha256
    assert (directory / "vm.mf").read_text() == manifest_text(export.files)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    directory = tmp_path / "export"
    directory.mkdir()
    return directory


def states(site: FakeVcenter) -> list[str]:
    return [lease["state"] for lease in site.leases()]


def test_a_vm_that_is_off_is_exported_without_a_clone(
    site: FakeVcenter, connection: Connection, target: Path, vmdks: list[Path]
) -> None:
    export = exporter(connection, "off", target).run()
    check_whole(export, target, find(connection, "off"), vmdks)
    descriptor = (target / "vm.ovf").read_text()
    assert all(name in descriptor for name in export.disks.values())
    assert states(site) == ["done"]
    image = target / export.disks[find(connection, "off").disks[0].key]
    subprocess.run(["qemu-img", "compare", image, vmdks[0]], check=True, timeout=60)


def test_a_vm_that_runs_is_cloned_and_the_clone_deleted(
    site: FakeVcenter, connection: Connection, target: Path, vmdks: list[Path]
) -> None:
    vm = find(connection, "on")
    with pytest.raises(FailedPreconditionError) as refused:
        exporter(connection, "on", target).run()
    assert refused.value.reason == "VCENTER_POWER_STATE"
    ref = clone(connection, vm, "op-1", never)
    assert list_clones(connection) == {ref: "op-1"}
    made = read_vm(connection, ref)
    assert (made.name, made.power, made.firmware) == (clone_name("op-1"), Power.OFF, "efi")
    assert clone(connection, vm, "op-1", never) == ref, "a repeated step finds the clone of the first"
    export = Exporter(connection, vm, ref, DirectorySink(target), 2, never, lambda done, total: None).run()
    check_whole(export, target, vm, vmdks)
    assert "<Name>on</Name>" in (target / "vm.ovf").read_text(), "the descriptor has the VM's name, not the clone's"
    delete_clones(connection, vm.ref, "op-1", never)
    delete_clones(connection, vm.ref, "op-1", never)
    assert list_clones(connection) == {}
    assert read_vm(connection, vm.ref).power is Power.ON


def test_a_clone_that_fails_leaves_nothing(site: FakeVcenter, connection: Connection) -> None:
    site.faults(clone_error="no room")
    with pytest.raises(OstlerError) as failed:
        clone(connection, find(connection, "on"), "op-1", never)
    assert failed.value.reason == "VCENTER_NO_RESOURCES"
    delete_clones(connection, find(connection, "on").ref, "op-1", never)
    assert list_clones(connection) == {}


def test_a_clone_that_a_dead_process_began_is_waited_for_and_deleted(site: FakeVcenter, connection: Connection) -> None:
    vm = find(connection, "on")
    site.faults(clone_ms=1500)

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clone(connection, vm, "op-1", die)
    with connected(site.server(), site.password) as later:
        delete_clones(later, vm.ref, "op-1", never)
        assert list_clones(later) == {}
        time.sleep(1.5)
        assert list_clones(later) == {}, "it does not appear afterwards either"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_broken_stream_is_resumed_or_starts_over(
    ranges: bool, chunked: bool, site: FakeVcenter, connection: Connection, target: Path, vmdks: list[Path]
) -> None:
    site.faults(ranges=ranges, chunked=chunked, cut_after={DISK_0: 200_000}, cut_times={DISK_0: 2})
    export = exporter(connection, "off", target).run()
    check_whole(export, target, find(connection, "off"), vmdks)
    assert [site.leases()[0]["files"][name]["gets"] for name in (DISK_0, DISK_1)] == [3, 1]


def test_a_stream_that_always_breaks_ends_the_lease(
    site: FakeVcenter, connection: Connection, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_S", 0.01)
    site.faults(cut_after={DISK_1: 1000})
    with pytest.raises(UnavailableError) as broke:
        exporter(connection, "off", target).run()
    assert broke.value.reason == "DISK_STREAM_BROKE"
    assert states(site) == ["error"]
    assert not list(target.glob("vm.*")), "no descriptor without its disks"


def test_a_busy_server_is_asked_again(
    site: FakeVcenter, connection: Connection, target: Path, vmdks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_S", 0.5)
    site.faults(status={DISK_0: 503})
    threading.Timer(0.7, site.faults).start()
    check_whole(exporter(connection, "off", target).run(), target, find(connection, "off"), vmdks)


def test_a_damaged_disk_is_fetched_again(
    site: FakeVcenter, connection: Connection, target: Path, vmdks: list[Path]
) -> None:
    site.faults(corrupt={DISK_0: 1})
    check_whole(exporter(connection, "off", target).run(), target, find(connection, "off"), vmdks)
    assert [site.leases()[0]["files"][name]["gets"] for name in (DISK_0, DISK_1)] == [2, 1]


def test_a_disk_that_is_always_damaged_is_refused(site: FakeVcenter, connection: Connection, target: Path) -> None:
    site.faults(corrupt={DISK_0: 99})
    with pytest.raises(FailedPreconditionError) as corrupt:
        exporter(connection, "off", target).run()
    assert corrupt.value.reason == "DISK_CORRUPT"
    assert states(site) == ["error"]


def test_an_expired_session_is_survived_and_whole_disks_are_kept(
    site: FakeVcenter, connection: Connection, target: Path, vmdks: list[Path]
) -> None:
    size_bytes = vmdks[1].stat().st_size
    site.faults(nfc_session=True, bytes_per_sec={DISK_1: size_bytes // 2})

    def end_sessions() -> None:
        site.faults()
        site.end_sessions()

    threading.Timer(1.0, end_sessions).start()
    check_whole(exporter(connection, "off", target).run(), target, find(connection, "off"), vmdks)
    first, second = site.leases()
    assert (first["state"], second["state"]) == ("error", "done")
    assert (first["files"][DISK_0]["gets"], second["files"][DISK_0]["gets"]) == (1, 0)


def test_a_slow_export_keeps_its_lease_alive(
    site: FakeVcenter, connection: Connection, target: Path, vmdks: list[Path]
) -> None:
    size_bytes = vmdks[0].stat().st_size
    site.faults(lease_timeout=2, bytes_per_sec={DISK_0: size_bytes // 4})
    check_whole(exporter(connection, "off", target).run(), target, find(connection, "off"), vmdks)
    (lease,) = site.leases()
    assert lease["state"] == "done"
    assert len(lease["progress"]) > 3
    assert lease["progress"] == sorted(lease["progress"])


def test_a_short_outage_of_the_server_is_survived(
    site: FakeVcenter, connection: Connection, target: Path, vmdks: list[Path]
) -> None:
    slow = {DISK_0: vmdks[0].stat().st_size // 4}
    site.faults(lease_timeout=8, bytes_per_sec=slow)
    threading.Timer(0.5, lambda: site.faults(lease_timeout=8, bytes_per_sec=slow, soap_down=True)).start()
    threading.Timer(3.0, lambda: site.faults(lease_timeout=8, bytes_per_sec=slow)).start()
    check_whole(exporter(connection, "off", target).run(), target, find(connection, "off"), vmdks)
    assert [lease["state"] for lease in site.leases()] == ["done"]


def test_a_server_that_stays_away_ends_the_export(
    site: FakeVcenter, connection: Connection, target: Path, vmdks: list[Path]
) -> None:
    slow = {DISK_0: vmdks[0].stat().st_size // 60}
    site.faults(lease_timeout=2, bytes_per_sec=slow)
    threading.Timer(0.5, lambda: site.faults(bytes_per_sec=slow, soap_down=True)).start()
    with pytest.raises(UnavailableError) as gone:
        exporter(connection, "off", target).run()
    assert gone.value.reason == "VCENTER_UNREACHABLE"


def test_a_lease_that_fails_says_why(site: FakeVcenter, connection: Connection, target: Path) -> None:
    site.faults(lease_error="the disk is locked")
    with pytest.raises(FailedPreconditionError, match="the disk is locked"):
        exporter(connection, "off", target).run()


def test_cancelling_ends_the_lease_soon(site: FakeVcenter, connection: Connection, target: Path) -> None:
    site.faults(bytes_per_sec={DISK_0: 100_000, DISK_1: 100_000})
    began = time.monotonic()

    def cancel_soon() -> None:
        if time.monotonic() > began + 1:
            raise CancelledError("cancelled", "CANCELLED")

    export = exporter(connection, "off", target)
    export.check = cancel_soon
    with pytest.raises(CancelledError):
        export.run()
    assert time.monotonic() < began + 10
    assert states(site) == ["error"]


def test_a_later_try_keeps_the_disks_that_are_whole(
    site: FakeVcenter, connection: Connection, target: Path, vmdks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_S", 0.01)
    site.faults(cut_after={DISK_1: 1000})
    with pytest.raises(UnavailableError):
        exporter(connection, "off", target, streams=1).run()
    site.faults()
    check_whole(exporter(connection, "off", target).run(), target, find(connection, "off"), vmdks)
    assert [lease["files"][DISK_0]["gets"] for lease in site.leases()] == [1, 0]


def test_disks_from_an_esxi_host_are_pinned_by_its_thumbprint(tmp_path: Path, target: Path, vmdks: list[Path]) -> None:
    with (
        vcenter(tmp_path, [vm_spec("off", vmdks)], esx=True) as site,
        connected(site.server(), site.password) as connection,
    ):
        check_whole(exporter(connection, "off", target).run(), target, find(connection, "off"), vmdks)


def test_a_standalone_host_exports_what_is_off_and_clones_nothing(
    tmp_path: Path, target: Path, vmdks: list[Path]
) -> None:
    machines = [vm_spec(name, vmdks, on=on) | {"nics": ["VM Network"]} for name, on in (("off", False), ("on", True))]
    with (
        vcenter(tmp_path, machines, standalone=True) as site,
        connected(site.server(), site.password) as connection,
    ):
        vm = find(connection, "off")
        assert (connection.is_vcenter, vm.cluster, vm.nics[0].network) == (False, "", "VM Network")
        assert vm.host
        check_whole(exporter(connection, "off", target).run(), target, vm, vmdks)
        with pytest.raises(FailedPreconditionError) as refused:
            clone(connection, find(connection, "on"), "op-1", never)
        assert refused.value.reason == "CLONE_NEEDS_VCENTER"


def test_a_star_in_a_disks_address_means_the_server(
    site: FakeVcenter, connection: Connection, target: Path, vmdks: list[Path]
) -> None:
    site.faults(url_host="*", nfc_session=True)
    check_whole(exporter(connection, "off", target).run(), target, find(connection, "off"), vmdks)


@pytest.mark.parametrize(
    ("setting", "disks", "streams"),
    [(0, 1, 1), (0, 4, 4), (0, 64, 10), (-1, 4, 1), (1, 4, 1), (2, 4, 2), (8, 4, 4), (50, 64, 10), (3, 0, 1)],
)
def test_the_setting_says_how_many_disks_are_fetched_at_once(setting: int, disks: int, streams: int) -> None:
    assert stream_count(setting, disks) == streams


def test_a_manifest_names_files_in_order() -> None:
    files = {"b.vmdk": Digest(1, "", "bb"), "a.ovf": Digest(1, "", "aa")}
    assert manifest_text(files) == "SHA256(a.ovf)= aa\nSHA256(b.vmdk)= bb\n"
