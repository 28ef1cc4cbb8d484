"""An import from VMware to its end, against curl and virt-v2v by hand: the same VM from the same server.

Both end with two qcow2 files in the same directory, not encrypted, and a guest that would boot here. By hand nothing is
checked: no digest, no definition, no space.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from ostler_control.vmware.connection import Connection, connected
from ostler_control.vmware.lease import open_lease
from ostler_control.vmware.read_inventory import list_vms

from tests.bench.measure import Result, alternated, compared, seconds
from tests.fakes.vcenter import PASSWORD, USER, FakeVcenter, Json, vcenter
from tests.lab.fleet import LAN, PLAIN, SHARED_POOL, Fleet
from tests.lab.guest import vmware_guest_image
from tests.lab.host import SHARED, Host
from tests.lab.imports import IMPORT_S
from tests.lab.lab import Lab
from tests.unit.vmware.conftest import NETWORK

MIB = 1 << 20
DATA_MIB = 256
MAX_RATIO = 1.10
VM, SOURCE = "legacy", "bench-vc"
APPLIANCE = Path("/var/cache/ostler")  # the agents' own
DOMAIN = """<domain type="kvm"><name>{name}</name><memory unit="MiB">128</memory><vcpu>1</vcpu>
<os><type arch="x86_64">hvm</type><boot dev="hd"/></os><features><acpi/></features>
<devices>{disks}</devices></domain>"""
DISK = """<disk type="file" device="disk"><driver name="qemu" type="vmdk"/><source file="{path}"/>
<target dev="{target}" bus="scsi"/></disk>"""


def export_and_convert(fleet: Fleet) -> Result:
    """A guest that boots on VMware's devices only, with a second disk full of data."""
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        files = [vmware_guest_image(), data_disk(directory / "data.vmdk")]
        (directory / "vc").mkdir()
        with vcenter(directory / "vc", [machine(files)]) as server, registered(fleet, server, directory):
            warm_up(fleet.lab.hosts[0])
            times = alternated(
                {"bare": lambda: by_hand(fleet.lab.hosts[0], server), "ostler": lambda: through_ostler(fleet)}, rounds=2
            )
    return compared(
        f"import from VMware: export and conversion of a guest and {DATA_MIB} MiB of data, against curl and virt-v2v by"
        " hand",
        times["ostler"],
        times["bare"],
        MAX_RATIO,
    )


def data_disk(path: Path) -> Path:
    """A stream-optimized VMDK full of data that does not compress."""
    raw = path.with_suffix(".raw")
    random = Random(1)
    with raw.open("wb") as file:
        for _ in range(DATA_MIB):
            file.write(random.randbytes(MIB))
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
    subprocess.run([*convert, raw, path], check=True)
    raw.unlink()
    return path


def machine(files: list[Path]) -> Json:
    """The VM, off, as tests/fakevc reads it."""
    info = [subprocess.run(["qemu-img", "info", "--output=json", f], capture_output=True, check=True) for f in files]
    sizes = [json.loads(done.stdout)["virtual-size"] for done in info]
    disks = [{"kb": size >> 10, "file": str(file)} for size, file in zip(sizes, files, strict=True)]
    hardware = {"cpus": 1, "memory_mb": 128, "guest": "debian10_64Guest", "firmware": "bios"}
    return {"name": VM, "on": False, "nics": [NETWORK], "disks": disks, **hardware}


@contextmanager
def registered(fleet: Fleet, server: FakeVcenter, directory: Path) -> Iterator[None]:
    """The vCenter as an import source."""
    password = directory / "password"
    password.write_text(PASSWORD + "\n")
    where = ("--vcenter", f"{server.host}:{server.port}", "--thumbprint", server.sha256)
    who = ("--username", USER, "--password-file", str(password))
    fleet.lab.control.ostler("import", "source", "add", "vmware", SOURCE, *where, *who)
    yield
    fleet.lab.control.ostler("import", "source", "remove", SOURCE, "--yes")


def warm_up(host: Host) -> None:
    """libguestfs builds its appliance once for a machine; that is no part of a conversion."""
    host.run("libguestfs-test-tool", env=guestfs(), timeout_s=IMPORT_S)


def guestfs() -> dict[str, str]:
    """As the agents of the lab set it."""
    settings = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    return {**settings, "LIBGUESTFS_CACHEDIR": str(APPLIANCE)}


def through_ostler(fleet: Fleet) -> float:
    where = ("--pool", SHARED_POOL, "--network", f"{NETWORK}={LAN}", "--conversion-host", "h1")
    what = ("import", "vm", SOURCE, VM, "--offering", PLAIN, "--disk-offering", f"{PLAIN}-data", "--stopped")
    took = seconds(lambda: fleet.lab.control.ostler(*what, *where, timeout_s=IMPORT_S))
    fleet.delete_vm(VM)
    return took


def by_hand(host: Host, server: FakeVcenter) -> float:
    """The lease is asked for before the clock starts."""
    directory = host.outside(SHARED) / "by-hand"
    directory.mkdir()
    with connected(server.server(), server.password) as connection, leased(connection) as urls:
        cookie = ["--cookie", f'vmware_soap_session="{connection.session_id}"']

        def work() -> None:
            paths = []
            for number, url in enumerate(urls):
                file = f"disk{number}.vmdk"
                fetch = ["curl", "--silent", "--show-error", "--fail", "--insecure", "--noproxy", "*", "--output"]
                subprocess.run([*fetch, directory / file, *cookie, url], check=True)
                paths.append(f"{SHARED}/by-hand/{file}")
            disks = "".join(DISK.format(path=p, target=f"sd{t}") for p, t in zip(paths, "ab", strict=True))
            (directory / "guest.xml").write_text(DOMAIN.format(name=VM, disks=disks))
            source = ["-i", "libvirtxml", f"{SHARED}/by-hand/guest.xml"]
            target = ["-o", "local", "-os", f"{SHARED}/by-hand", "-of", "qcow2"]
            host.run("virt-v2v", "--root=first", *source, *target, env=guestfs(), timeout_s=IMPORT_S)

        took = seconds(work)
    shutil.rmtree(directory)
    return took


@contextmanager
def leased(connection: Connection) -> Iterator[list[str]]:
    """The addresses of the VM's disks, in their order."""
    vm = next(vm for vm in list_vms(connection) if vm.name == VM)
    lease = open_lease(connection, vm.ref, vm, lambda: None)
    yield [file.url for file in lease.files]
    lease.complete()


if __name__ == "__main__":
    with Lab.start(hosts=2) as lab:
        made = Fleet.make(lab)
        print(export_and_convert(made))
        made.watch.stop()
