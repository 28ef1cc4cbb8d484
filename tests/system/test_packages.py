"""The packages on machines with real systemd: docs/first-host.md block by block, then restarts and an upgrade.

The tests of this module build on each other, in their order.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from systemd import packages
from tests.lab.guest import guest_image
from tests.lab.host import wait_for
from tests.system.first_host import NOT_RUN, Block, blocks
from tests.system.machine import Machine, machines

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

OLD = "0.0.9"
HOST_UNITS = ("ostler-agent", "ostler-migration-gateway", "ostler-libvirt-keys", "ostler-vlan-bridges.path")
AGENT_PACKAGES = ("ostler_", "ostler-agent_")
CONTROL_PACKAGES = ("ostler_", "ostler-control_")


@dataclass
class Site:
    """The control plane `ctl` and the hosts `h1` and `h2`."""

    ctl: Machine
    h1: Machine
    h2: Machine
    new: list[Path]

    def run(self, block: Block, host: Machine, join: str = "") -> str:
        """Runs a block of the page where it says. join: the command that `ostler host token` printed."""
        script = re.sub(r"^ostler-agent join .*$", join, block.script, flags=re.MULTILINE)
        return (host if block.where.startswith("the host") else self.ctl).run(script, 300)

    def ticks(self, vm: str = "web-1") -> list[int]:
        """What the guest counts on its console, as a person sees it."""
        command = f"timeout 40 script -qfec 'ostler vm console {vm}' /dev/null | grep -a -m 2 -o 'tick [0-9]*' || true"
        return [int(number) for number in re.findall(r"tick (\d+)", self.ctl.run(command, 60))]

    def host_of(self, vm: str = "web-1") -> Machine:
        name = re.search(r"^host\s+(\S+)", self.ctl.run(f"ostler vm show {vm}"), re.MULTILINE | re.IGNORECASE)
        assert name, self.ctl.run(f"ostler vm show {vm}")
        return self.h1 if name[1] == "h1" else self.h2

    def wait_up(self, *hosts: str) -> None:
        """Waits until the control plane hears these hosts."""

        def up() -> bool:
            shown = self.ctl.run("ostler host list || true")
            return all(re.search(rf"^{host}\s.*\bup\b", shown, re.MULTILINE) for host in hosts)

        try:
            wait_for(up, f"{hosts} up", 90, every_s=1)
        except TimeoutError as error:
            for machine, unit in ((self.ctl, "ostler-control"), (self.h1, "ostler-agent"), (self.h2, "ostler-agent")):
                log = machine.run(f"systemctl status {unit} || true; journalctl -u {unit} -n 30 --no-pager || true")
                error.add_note(f"{machine.name}\n{log}")
            raise

    def qemu(self, machine: Machine) -> str:
        """The process ids of the VMs on a host."""
        return machine.run("pgrep -f qemu-system | sort | tr '\\n' ' '")


def older(package: Path, directory: Path) -> Path:
    """The same package as the release before: there is none yet whose package could be kept."""
    tree = directory / package.stem
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(packages.version(), OLD))
    old = directory / package.name.replace(packages.version(), OLD)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, old], check=True, stdout=subprocess.DEVNULL
    )
    shutil.rmtree(tree)
    return old


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    new = packages.build()
    directory = tmp_path_factory.mktemp("system")
    old = [older(package, directory) for package in new]
    shared = directory / "san"
    shared.mkdir()
    with machines(["ctl", "h1", "h2"], directory, shared) as all_machines:
        for machine in all_machines.values():
            for package in old:
                if package.name.startswith(CONTROL_PACKAGES if machine.name == "ctl" else AGENT_PACKAGES):
                    machine.copy_in(package)
            if machine.name != "ctl":
                # The cgroups of a container inside a machine without systemd cannot be written.
                machine.run("echo 'cgroup_controllers = []' >>/etc/libvirt/qemu.conf")
        all_machines["ctl"].copy_in(guest_image(), "debian-12-generic-amd64.qcow2")
        yield Site(**all_machines, new=new)


def page(*sections: str) -> list[Block]:
    return [block for block in blocks() if block.section in sections and block.where not in NOT_RUN]


def test_every_block_of_the_page_says_where_it_runs() -> None:
    wheres = {block.where for block in blocks()}
    assert set(NOT_RUN) < wheres
    assert "the control plane" in wheres


def test_the_page_leads_to_a_running_vm(site: Site) -> None:
    said = ""
    for block in page("1", "2", "3", "4", "5", "6", "7"):
        join = re.search(r"ostler-agent join .*", said)
        if "ostler host list" in block.script:
            site.wait_up("h1")
        said = site.run(block, site.h1, join[0] if join else "false")
        if "ostler host list" in block.script:
            assert re.search(r"h1\s.*\bup\b", said), said
            assert re.search(r"encryption\s+yes", said), said
    assert site.ticks()
    header = site.h1.run(
        "head -c 4096 /srv/ostler/*/* /srv/ostler/* /mnt/san/* 2>/dev/null | strings | grep -c luks || true"
    )
    assert header


def test_units_run_in_their_sandbox(site: Site) -> None:
    for machine, units in ((site.ctl, ("ostler-control",)), (site.h1, HOST_UNITS)):
        for unit in units:
            assert machine.is_active(unit), machine.run(f"systemctl status {unit} || true")
    status = site.ctl.run("cat /proc/$(systemctl show -p MainPID --value ostler-control)/status")
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)


def test_a_second_host_takes_the_vm_while_it_runs(site: Site) -> None:
    said = site.ctl.run("ostler host token web")
    join = re.search(r"ostler-agent join .*", said)
    assert join, said
    for block in page("1", "4"):
        if block.where == "the host":
            site.run(block, site.h2, join[0])
    site.wait_up("h1", "h2")
    for block in page("8"):
        before = site.host_of()
        counted = site.ticks()
        other = site.h2 if before is site.h1 else site.h1
        site.run(replace(block, script=block.script.replace("--host h2", f"--host {other.name}")), site.h1)
        assert site.host_of() is other
        assert max(site.ticks()) > max(counted)


def test_restarting_any_unit_leaves_vms_alone(site: Site) -> None:
    host = site.host_of()
    before = site.qemu(host)
    assert before
    host.run("systemctl restart ostler-agent ostler-migration-gateway ostler-libvirt-keys libvirtd")
    site.ctl.run("systemctl restart ostler-control")
    site.wait_up("h1", "h2")
    assert site.qemu(host) == before
    assert site.ticks()


def test_systemd_replaces_a_guardian_that_hangs(site: Site) -> None:
    host = site.host_of()
    before = site.qemu(host)
    host.run("systemctl enable --now ostler-guardian")
    main_pid = "systemctl show --property=MainPID --value ostler-guardian"
    number = host.run(main_pid).strip()
    host.run(f"kill -STOP {number}")
    wait_for(lambda: host.run(main_pid).strip() not in (number, "0"), "another guardian", 60, 0.5)
    wait_for(lambda: host.run("systemctl is-active ostler-guardian || true").strip() == "active", "its start", 60, 0.5)
    assert '"state": "off"' in host.run("cat /run/ostler/guardian/status.json")
    assert site.qemu(host) == before
    host.run("systemctl restart ostler-guardian")
    assert site.qemu(host) == before


def test_an_upgrade_leaves_vms_and_operations_alone(site: Site) -> None:
    host = site.host_of()
    before = site.qemu(host)
    for machine in (site.ctl, site.h1, site.h2):
        machine.run("rm -f /root/*.deb")
        for package in site.new:
            if package.name.startswith(CONTROL_PACKAGES if machine is site.ctl else AGENT_PACKAGES):
                machine.copy_in(package)
    site.ctl.run("ostler volume create later --offering secret --size 1GiB --no-wait")
    for block in page("9"):
        for machine in (site.h1, site.h2) if block.where.startswith("the host") else (site.ctl,):
            site.run(block, machine)
    site.wait_up("h1", "h2")
    assert site.qemu(host) == before
    assert site.ticks()
    assert "ostler-agent" in host.run(f"dpkg-query -W ostler-agent | grep {packages.version()}")
    wait_for(lambda: "ready" in site.ctl.run("ostler volume show later"), "the volume", 60, every_s=1)


def test_a_purge_leaves_the_keys_and_says_so(site: Site) -> None:
    site.ctl.run("ostler vm delete web-1 --force --yes")
    said = site.ctl.run("apt-get purge -y ostler-control")
    assert "kept the keys in /var/lib/ostler/control" in said
    assert set(site.ctl.run("ls /var/lib/ostler/control").split()) == {"kek", "fleet-ca.pem", "users-ca.pem"}
    for machine in (site.h1, site.h2):
        machine.run("apt-get purge -y ostler-agent ostler")
        left = machine.run(
            "find /var/lib/ostler /etc/ostler /usr/lib/ostler /var/cache/ostler -maxdepth 1 2>/dev/null || true"
        )
        assert set(left.split()) <= {"/var/lib/ostler", "/var/lib/ostler/libvirt"}
        assert not machine.run("systemctl list-units --no-legend 'ostler*' || true").strip()
