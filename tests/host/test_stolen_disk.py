"""A host's disk, pulled out while VMs run, opens no encrypted volume."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ostler_agent.hypervisors.libvirt.driver import LibvirtDriver

from tests.lab.lab import Lab
from tests.lab.machines import PASSPHRASE, empty_image, in_shared, spec, volume

pytestmark = pytest.mark.host

QEMU = "/var/lib/libvirt/qemu"


def files_of(root: Path) -> list[Path]:
    """Every file on the host's disk."""
    return [Path(directory, name) for directory, _, names in os.walk(root) for name in names]


def test_no_key_is_on_the_disk_of_a_host_that_lost_its_power() -> None:
    with Lab.start(hosts=1) as lab:
        lab.trust_each_other()
        host = lab.hosts[0]
        driver = LibvirtDriver(host.libvirt_uri, "qemu")
        driver.open()
        driver.start(spec(empty_image(host, volume())), in_shared)
        # libvirt writes its key of the VM there, and the command line is logged: the test looks for something real.
        assert host.run("find", QEMU, "-name", "master-key.aes").split()
        log = host.run("sh", "-c", "cat /var/log/libvirt/qemu/*.log")
        assert '"keyid":"masterKey0"' in log.replace(" ", "")
        host.kill()  # what was in memory is gone; the disk stays
        driver.close()
        found = files_of(host.root)
        assert found
        assert not [path for path in found if path.name == "master-key.aes"]
        secret = PASSPHRASE.reveal()
        holders = [path for path in found if path.is_file() and not path.is_symlink() and secret in path.read_bytes()]
        assert not holders


def test_what_must_persist_persists() -> None:
    with Lab.start(hosts=1) as lab:
        lab.trust_each_other()
        host = lab.hosts[0]
        host.run("sh", "-c", f"echo variables >{QEMU}/nvram/guest_VARS.fd")
        host.kill()
        host.boot()
        host.start_libvirt()
        assert host.run("cat", f"{QEMU}/nvram/guest_VARS.fd") == "variables\n"
