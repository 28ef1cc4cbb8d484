"""Imports from VMware: what parallel streams bring, and how much memory the control plane needs meanwhile."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ostler_control.imports import sources
from ostler_control.imports.facts import find_vm
from ostler_control.imports.record import record_import
from ostler_control.imports.wanted import Wanted
from ostler_control.models import Host, Operation, ServiceOffering, new_id
from ostler_control.vmware.connection import connected
from ostler_control.vmware.export import Exporter
from ostler_control.vmware.read_inventory import list_vms
from ostler_control.vmware.sink import DirectorySink

from tests import databases
from tests.bench.measure import Result
from tests.fakes.vcenter import FakeVcenter, vcenter
from tests.fakes.working_agent import wait_until
from tests.sites import new_site
from tests.unit.control.crashes import are_over, control, record
from tests.unit.imports.vm_imports import new_source
from tests.unit.vmware.conftest import NETWORK, vm_spec

MIB, GIB = 1 << 20, 1 << 30
DISKS, DISK_S = 4, 5
MIN_SPEEDUP = 3.5
STREAMED_BYTES, MAX_PEAK_MIB = GIB, 300


def results() -> Iterator[Result]:
    """Both measurements."""
    yield streams()
    yield memory()


def streams() -> Result:
    """Four disks through a rate-limited server: four streams against one."""
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        files = [directory / f"disk{number}.vmdk" for number in range(DISKS)]
        for file in files:
            file.write_bytes(bytes(8 * MIB))
        (directory / "vc").mkdir()
        with vcenter(directory / "vc", [vm_spec("vm", files)]) as server:
            server.faults(bytes_per_sec={f"disk-{number}.vmdk": 8 * MIB // DISK_S for number in range(DISKS)})
            one_s, four_s = (_export_s(server, directory / str(count), count) for count in (1, DISKS))
    speedup = one_s / four_s
    return Result(
        f"export of {DISKS} disks from a rate-limited vCenter, {DISKS} streams against one",
        f"{four_s:.1f} s",
        f"{one_s:.1f} s",
        f"{speedup:.2f} times as fast",
        f"at least {MIN_SPEEDUP} times",
        speedup >= MIN_SPEEDUP,
    )


def _export_s(server: FakeVcenter, target: Path, count: int) -> float:
    target.mkdir()
    with connected(server.server(), server.password) as connection:
        vm = next(iter(list_vms(connection)))
        begin = time.monotonic()
        Exporter(connection, vm, vm.ref, DirectorySink(target), count, lambda: None, lambda done, total: None).run()
        return time.monotonic() - begin


def memory() -> Result:
    """Peak memory of a control plane that streams a disk from vCenter to a host."""
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        file = directory / "disk.vmdk"
        with file.open("wb") as sparse:
            sparse.truncate(STREAMED_BYTES)
        (directory / "vc").mkdir()
        machine = vm_spec("vm", [file])
        machine["disks"][0]["kb"] = 20 * GIB >> 10
        with (
            databases.bound(f"sqlite:///{directory}/ostler.sqlite") as url,
            vcenter(directory / "vc", [machine]) as server,
        ):
            site = new_site(url, directory)
            Host.update(capabilities='{"instanceConversion": true}').where(Host.name != "h3").execute()
            offering = ServiceOffering.create(name="two", cpus=2, memory_bytes=GIB)
            source = sources.create(new_source(server, id=new_id()), "root", site.keys)
            wanted = Wanted(source, "vm", site.account, offering, networks={NETWORK: site.network})
            with sources.connect(source, site.keys) as connection:
                vm = find_vm(connection, "vm")
            operation = record(lambda: record_import(wanted, vm, True, "root", site.keys))
            begin = time.monotonic()
            try:
                with control(site, {}) as process:
                    wait_until(lambda: are_over([operation]), 600)
                    status = Path(f"/proc/{process.pid}/status").read_text()
            finally:
                site.fleet.stop()
            took_s = time.monotonic() - begin
            ended = Operation.get_by_id(operation.id)
            assert ended.state == "succeeded", ended.error
    peak_mib = int((re.search(r"VmHWM:\s+(\d+) kB", status) or [0, 0])[1]) >> 10
    return Result(
        f"control's peak memory while it streams {STREAMED_BYTES // GIB} GiB of a 20 GiB disk from vCenter to a host",
        f"{peak_mib} MiB",
        "",
        f"{STREAMED_BYTES / MIB / took_s:.0f} MiB a second",
        f"at most {MAX_PEAK_MIB} MiB",
        peak_mib <= MAX_PEAK_MIB,
    )


if __name__ == "__main__":
    for found in results():
        print(found)
