"""What stands against an import, each finding by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_control.imports import conversion_hosts, staging
from ostler_control.imports.conversion_hosts import HostFacts
from ostler_control.imports.mapping import disk_size_bytes, guest_os, nic_model, target_vm
from ostler_control.imports.preflight import Facts, Severity, TargetPool, check, estimate_s
from ostler_control.imports.staging import PoolFacts
from ostler_control.vmware.inventory import Disk, DiskKind, Nic, Power, SourceVm, Tools

GIB = 1 << 30
DISK = Disk(key=2000, label="Hard disk 1", capacity_bytes=8 * GIB)
NIC = Nic(4000, "Network adapter 1", "vmxnet3", "00:50:56:00:00:01", "VM Network")
VM = SourceVm(
    "vm-1",
    "web",
    Power.OFF,
    guest_id="ubuntu64Guest",
    cpus=2,
    memory_bytes=2 * GIB,
    disks=(DISK,),
    nics=(NIC,),
    used_bytes=4 * GIB,
)
HOST = HostFacts("h1", "h1", "c1")
POOL = PoolFacts("p1", "nfs1", "nfs", "cluster", 100 * GIB, frozenset({"h1", "h2"}))
GOOD = Facts(
    VM,
    bridges={"VM Network": "br0"},
    fleet_bridges=frozenset({"br0"}),
    offering_cpus=2,
    offering_memory_bytes=2 * GIB,
    hosts=(HOST,),
    cluster_id="c1",
    pools=(POOL,),
    targets=(TargetPool("fast", 20 * GIB, 8 * GIB),),
)


def with_vm(**changes: Any) -> Facts:
    return replace(GOOD, vm=replace(VM, **changes))


def warm(**changes: Any) -> Facts:
    """A VM that runs, with VMware Tools, and is to be copied meanwhile; no pool can stage."""
    running = with_vm(**{"power": Power.ON, "tools": Tools.RUNNING, **changes})
    return replace(running, warm=True, pools=())


def with_disk(**changes: Any) -> Facts:
    return with_vm(disks=(replace(DISK, **changes),))


def codes(facts: Facts, severity: Severity = Severity.ERROR) -> list[str]:
    return [finding.code for finding in check(facts).findings if finding.severity is severity]


def test_nothing_stands_against_a_plain_vm() -> None:
    report = check(GOOD)
    assert report.findings == ()
    assert (report.is_go, report.host_id, report.pool_id) == (True, "h1", "p1")


@pytest.mark.parametrize(
    ("code", "facts"),
    [
        ("VM_NOT_ACCESSIBLE", with_vm(accessible=False)),
        ("VM_IS_TEMPLATE", with_vm(template=True)),
        ("VM_FAULT_TOLERANT", with_vm(fault_tolerant=True)),
        ("VM_SUSPENDED", with_vm(power=Power.SUSPENDED)),
        ("WINDOWS_RUNNING", with_vm(power=Power.ON, guest_id="windows9Server64Guest")),
        ("CLONE_NEEDS_VCENTER", replace(with_vm(power=Power.ON), is_vcenter=False)),
        ("NO_TOOLS", replace(with_vm(power=Power.ON), shutdown=True)),
        ("NO_DISKS", with_vm(disks=())),
        ("TOO_MANY_DISKS", with_vm(disks=(DISK,) * 65)),
        ("VM_ENCRYPTED", with_vm(encrypted=True)),
        ("VM_ENCRYPTED", with_disk(encrypted=True)),
        ("DISK_RAW_DEVICE", with_disk(kind=DiskKind.RDM_PHYSICAL)),
        ("DISK_RAW_DEVICE", with_disk(kind=DiskKind.OTHER)),
        ("DISK_SHARED", with_disk(shared=True)),
        ("DISK_INDEPENDENT", with_vm(power=Power.ON, disks=(replace(DISK, independent=True),))),
        ("NO_UEFI_HOST", replace(with_vm(firmware="efi"), uefi_host=False)),
        ("TOO_MANY_NICS", with_vm(nics=tuple(replace(NIC, mac=f"00:50:56:00:00:{n:02x}") for n in range(17)))),
        ("NIC_NOT_MAPPED", replace(GOOD, bridges={})),
        ("NO_SUCH_BRIDGE", replace(GOOD, fleet_bridges=frozenset())),
        ("MAC_TAKEN", replace(GOOD, taken_macs=frozenset({NIC.mac}))),
        ("OFFERING_TOO_SMALL", replace(GOOD, offering_cpus=1)),
        ("OFFERING_TOO_SMALL", replace(GOOD, offering_memory_bytes=GIB)),
        ("TARGET_SPACE", replace(GOOD, targets=(TargetPool("fast", 7 * GIB, 8 * GIB),))),
        ("NO_FEASIBLE_PLACE", replace(GOOD, placement_refusal="no host fits")),
        ("NO_CONVERSION_HOST", replace(GOOD, hosts=(replace(HOST, reaches_pools=False),))),
        ("NO_CONVERSION_HOST", replace(GOOD, hosts=(replace(HOST, up=False),))),
        ("NO_STAGING_POOL", replace(GOOD, pools=(replace(POOL, free_bytes=GIB),))),
        ("WARM_VM_OFF", warm(power=Power.OFF)),
        ("WARM_SNAPSHOTS", warm(snapshots=1)),
        ("WARM_SNAPSHOTS", warm(disks=(replace(DISK, has_parent=True),))),
        ("WARM_NO_TRACKING", warm(tracking_supported=False)),
        ("WARM_RAW_DEVICE", warm(disks=(replace(DISK, kind=DiskKind.RDM_VIRTUAL),))),
        ("DISK_INDEPENDENT", warm(disks=(replace(DISK, independent=True),))),
        ("NO_TOOLS", warm(tools=Tools.NOT_RUNNING)),
    ],
)
def test_each_error_is_a_no_go_of_its_own(code: str, facts: Facts) -> None:
    assert codes(facts) == [code]
    assert not check(facts).is_go


@pytest.mark.parametrize(
    ("code", "facts"),
    [
        ("WILL_CLONE", with_vm(power=Power.ON)),
        ("SNAPSHOTS", with_vm(snapshots=2)),
        ("SNAPSHOTS", with_disk(has_parent=True)),
        ("DISK_RDM_VIRTUAL", with_disk(kind=DiskKind.RDM_VIRTUAL)),
        ("SECURE_BOOT_KEYS", with_vm(firmware="efi", secure_boot=True)),
        ("SECURE_BOOT_OFF", replace(with_vm(firmware="efi", secure_boot=True), secure_boot_host=False)),
        ("TPM_LOST", with_vm(tpm=True)),
        ("PASSTHROUGH_LOST", with_vm(passthrough=("GPU",))),
    ],
)
def test_each_warning_lets_the_import_go_on(code: str, facts: Facts) -> None:
    assert codes(facts, Severity.WARNING) == [code]
    assert check(facts).is_go


def test_a_bios_has_no_secure_boot_whatever_its_settings_say() -> None:
    assert codes(with_vm(firmware="bios", secure_boot=True), Severity.WARNING) == []


def test_a_new_tpm_is_offered_for_one_that_is_lost() -> None:
    (lost,) = check(with_vm(tpm=True)).findings
    (replaced,) = check(replace(with_vm(tpm=True), tpm=True)).findings
    assert "--tpm" in lost.remedy
    assert ("new, empty one" in replaced.message, "--tpm" in replaced.remedy) == (True, False)


def test_a_guest_with_tools_may_be_shut_down_instead() -> None:
    running = with_vm(
        power=Power.ON,
        tools=Tools.RUNNING,
        guest_id="windows9Server64Guest",
        disks=(replace(DISK, independent=True),),
    )
    assert codes(replace(running, shutdown=True), Severity.INFO) == ["WILL_SHUT_DOWN"]
    assert check(replace(running, shutdown=True, is_vcenter=False)).is_go


def test_a_running_vm_may_be_copied_warm() -> None:
    """Windows too, for its disks are converted after a clean shutdown. Nothing is staged."""
    for facts in (warm(), warm(guest_id="windows9Server64Guest"), replace(warm(), is_vcenter=False)):
        report = check(replace(facts, hosts=(replace(HOST, failed_probes={}),)))
        assert [finding.code for finding in report.findings] == ["WILL_CUT_OVER", "WILL_TRACK"]
        assert (report.is_go, report.host_id, report.pool_id) == (True, "h1", "")


def test_two_of_its_own_nics_with_one_mac_are_told() -> None:
    assert codes(with_vm(nics=(NIC, replace(NIC, key=4001)))) == ["MAC_TAKEN", "MAC_TAKEN"]


def test_all_findings_are_told_at_once() -> None:
    facts = replace(with_vm(power=Power.SUSPENDED, disks=()), bridges={}, hosts=(), pools=())
    assert set(codes(facts)) == {"VM_SUSPENDED", "NO_DISKS", "NIC_NOT_MAPPED", "NO_CONVERSION_HOST", "NO_STAGING_POOL"}


def test_a_missing_program_is_named_with_its_remedy() -> None:
    failed = {"instance-conversion.nbdkit": "nbdkit is not installed (apt-get install nbdkit)", "ovftool": "not there"}
    lacking = replace(HOST, can_convert=False, failed_probes=failed)
    (finding,) = check(replace(GOOD, hosts=(lacking,))).findings
    assert "h1 cannot convert guests: nbdkit is not installed (apt-get install nbdkit)" in finding.message
    assert "ovftool" not in finding.message
    assert "ostler host probe" in finding.remedy


def test_windows_needs_its_drivers() -> None:
    lacking = replace(HOST, failed_probes={"windows-conversion.virtio-win": "no Windows drivers (install virtio-win)"})
    assert check(replace(GOOD, hosts=(lacking,))).is_go
    facts = replace(with_vm(guest_id="windows2019srv_64Guest"), hosts=(lacking,))
    assert "install virtio-win" in check(facts).findings[0].message


def chosen(*hosts: HostFacts, wanted: str = "", cluster: str = "c1") -> str | None:
    host, _ = conversion_hosts.choose(hosts, cluster, windows=False, wanted_id=wanted)
    return host.id if host else None


def test_the_conversion_host_is_the_least_loaded_of_the_destinations_cluster() -> None:
    busy = replace(HOST, conversions=2)
    calm = HostFacts("h2", "h2", "c1", cpu_load=0.1)
    calmer_elsewhere = HostFacts("h3", "h3", "c2")
    assert chosen(busy, calm, calmer_elsewhere) == "h2"
    assert chosen(replace(calm, cpu_load=0.9), HostFacts("h4", "h4", "c1", cpu_load=0.2)) == "h4"
    assert chosen(replace(busy, up=False), replace(calm, can_convert=False), calmer_elsewhere) == "h3"
    assert chosen(busy, calm, wanted="h1") == "h1"
    assert chosen(replace(busy, up=False), calm, wanted="h1") is None


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (replace(POOL, type="local", scope="host"), "local to one host"),
        (replace(POOL, type="powerflex"), "holds no files"),
        (replace(POOL, host_ids=frozenset({"h9"})), "not reached"),
        (replace(POOL, free_bytes=GIB), "are needed"),
    ],
)
def test_a_pool_that_cannot_stage_is_refused_with_the_reason(pool: PoolFacts, words: str) -> None:
    found, refusals = staging.choose([pool], "h1", 2 * GIB)
    assert found is None
    assert words in refusals[0].words


def test_the_staging_pool_is_the_one_with_the_most_room() -> None:
    roomy = replace(POOL, id="p2", name="smp", type="shared-mount-point", scope="zone", free_bytes=200 * GIB)
    assert staging.choose([POOL, roomy], "h1", GIB)[0] == roomy
    assert staging.choose([POOL, roomy], "h1", GIB, wanted_id="p1")[0] == POOL


def test_staging_needs_room_for_what_is_used() -> None:
    assert 4 * GIB < staging.needed_bytes(VM) < 5 * GIB
    assert staging.needed_bytes(replace(VM, used_bytes=0)) > 8 * GIB


def test_a_larger_vm_takes_longer() -> None:
    assert estimate_s(VM) < estimate_s(replace(VM, used_bytes=40 * GIB))


def test_a_vm_keeps_its_hardware() -> None:
    vm = replace(VM, firmware="efi", nics=(NIC, replace(NIC, model="e1000", mac="00:50:56:00:00:02")))
    secured = target_vm(replace(vm, firmware="efi", secure_boot=True), "web-1", {"VM Network": "br0"}, secure_boot=True)
    assert secured.firmware == "uefi_secure_boot"
    target = target_vm(vm, "web-1", {"VM Network": "br0"})
    assert (target.name, target.cpus, target.memory_bytes, target.firmware) == ("web-1", 2, 2 * GIB, "uefi")
    assert [(nic.network, nic.mac, nic.model) for nic in target.nics] == [
        ("br0", "00:50:56:00:00:01", "virtio"),
        ("br0", "00:50:56:00:00:02", "e1000"),
    ]


@pytest.mark.parametrize(
    ("guest_id", "word"),
    [
        ("ubuntu64Guest", "ubuntu"),
        ("windows2019srv_64Guest", "windows"),
        ("winXPProGuest", "windows"),
        ("rhel9_64Guest", "rhel"),
        ("other5xLinux64Guest", "linux"),
        ("otherGuest64", "other"),
        ("", "other"),
    ],
)
def test_the_guests_kind_is_kept(guest_id: str, word: str) -> None:
    assert guest_os(guest_id) == word


@given(st.integers(1, 1 << 50))
def test_a_disk_never_shrinks(capacity_bytes: int) -> None:
    size_bytes = disk_size_bytes(capacity_bytes)
    assert capacity_bytes <= size_bytes < capacity_bytes + (1 << 20)
    assert size_bytes % (1 << 20) == 0


def test_nic_models() -> None:
    assert [nic_model(model) for model in ("vmxnet3", "e1000e", "pcnet32")] == ["virtio", "e1000e", "virtio"]
