"""Which exported file is which disk, when a host has downloaded them."""

from __future__ import annotations

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control.imports.host_export import disk_names
from ostler_control.imports.ovf import Ovf, OvfDisk
from ostler_control.vmware.inventory import Disk, Power, SourceVm

GIB = 1 << 30
VM = SourceVm(
    "vm-1",
    "web",
    Power.OFF,
    disks=(
        Disk(2000, "Hard disk 1", GIB, "ParaVirtualSCSIController", 0, 0),
        Disk(16000, "Hard disk 2", GIB, "VirtualAHCIController", 0, 1),
    ),
)


def described(*disks: OvfDisk) -> Ovf:
    return Ovf("web", 1, GIB, disks=disks)


def test_disks_are_told_apart_by_controller_and_unit() -> None:
    found = disk_names(
        VM,
        described(
            OvfDisk("web-2.vmdk", GIB, "vmware.sata.ahci", 0, 1),
            OvfDisk("web-1.vmdk", GIB, "virtualscsi", 0, 0),
        ),
    )
    assert found == {"2000": "web-1.vmdk", "16000": "web-2.vmdk"}


@pytest.mark.parametrize(
    "disks",
    [
        (OvfDisk("web-1.vmdk", GIB, "virtualscsi", 0, 0),),
        (OvfDisk("web-1.vmdk", GIB, "virtualscsi", 0, 0), OvfDisk("web-2.vmdk", GIB, "virtualscsi", 0, 0)),
        (OvfDisk("web-1.vmdk", GIB, "virtualscsi", 0, 0), OvfDisk("web-2.vmdk", GIB, "lsilogic", 3, 1)),
    ],
)
def test_files_that_are_not_the_vms_disks_are_refused(disks: tuple[OvfDisk, ...]) -> None:
    with pytest.raises(FailedPreconditionError) as refused:
        disk_names(VM, described(*disks))
    assert refused.value.reason == "OVF_DISKS_DIFFER"
