"""I/O in a guest, measured there by fio: Ostler's disks against disks as Proxmox VE attaches them, and other settings.

All disks are on one running VM, each a volume of its own, and fio takes them in turn, forwards and backwards: so
whatever else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ostler.control.v1 import offering_pb2

from tests.bench import page
from tests.lab.console import Console
from tests.lab.fleet import MIB, PLAIN, SECRET, Fleet, fresh
from tests.lab.guest import fio_guest_image
from tests.lab.host import Host
from tests.lab.lab import Lab, missing

HEADING = "## Disks in a guest"
VM = "io"
DISK_MIB = 128
ROUNDS, RUN_S = 3, 1
KINDS = {SECRET: "encrypted", PLAIN: "plain"}  # by the offering
ANSWERS = 150  # that the monitor gives while a guest writes
JOBS = {
    "reading 4 KiB anywhere, one at a time": "--rw=randread --bs=4k --iodepth=1",
    "reading 4 KiB anywhere, 32 at a time": "--rw=randread --bs=4k --iodepth=32",
    "writing 4 KiB anywhere, one at a time": "--rw=randwrite --bs=4k --iodepth=1",
    "writing 4 KiB anywhere, 32 at a time": "--rw=randwrite --bs=4k --iodepth=32",
    "reading 1 MiB in sequence, 4 at a time": "--rw=read --bs=1M --iodepth=4",
    "writing 1 MiB in sequence, 4 at a time": "--rw=write --bs=1M --iodepth=4",
}
HEAD = """\
Written by `python -m tests.bench.guest_io`, a part of `make bench`, on {date}, on {machine}. fio in a guest without
KVM, with one CPU, past the guest's page cache; the disks are qcow2 volumes on one VM, and take turns. Rates are medians
of {rounds} rounds of {run_s} s each, ratios the medians of each round's ratio. What follows from them is in
[vms.md](vms.md#how-a-disk-is-attached)."""
BUSY_S, BUSY_ROUNDS = 3, 4
BUSY = "--rw=randwrite --bs=64k --iodepth=32"  # meanwhile the monitor is asked


@dataclass(frozen=True)
class Way:
    """A way to attach a disk. driver: attributes in place of Ostler's; scsi: on a virtio-scsi controller of its own;
    thread: with a thread for its I/O; kinds: the kinds of disks of which one is attached this way.
    """

    name: str
    driver: Mapping[str, str] = field(hash=False)
    scsi: bool = False
    thread: bool = False
    kinds: tuple[str, ...] = ("encrypted", "plain")


OSTLER = Way("Ostler", {})
# As its documentation says (https://github.com/proxmox/pve-docs, qm.adoc: "VirtIO SCSI single" with "IO
# Thread" is the default for Linux since 7.3, "No cache" the default, "Discard" to be enabled), and as the command lines
# of its own tests have it (https://github.com/proxmox/qemu-server, src/test/cfg2cmd): aio=io_uring, detect-zeroes=on.
_PROXMOX = {"cache": "none", "io": "io_uring", "discard": "ignore", "detect_zeroes": "on"}
PROXMOX = Way("Proxmox VE", _PROXMOX, scsi=True, thread=True)
THREAD = Way("an iothread", {}, thread=True)
WAYS = (
    OSTLER,
    Way("the same again", {}),  # how far two equal disks are apart
    PROXMOX,
    THREAD,
    Way("io=io_uring", {"io": "io_uring"}, kinds=("encrypted",)),
    Way("io=native", {"io": "native"}, kinds=("encrypted",)),
    Way("cache=writeback", {"cache": "writeback"}, kinds=("encrypted",)),
)


def ways_of(kind: str) -> list[Way]:
    return [way for way in WAYS if kind in way.kinds]


@dataclass(frozen=True)
class Disk:
    """A data disk of the VM. serial: by which the guest knows it."""

    way: Way
    kind: str
    serial: str = field(default="", compare=False)

    @property
    def volume(self) -> str:
        return f"io-{WAYS.index(self.way)}-{self.kind}"


# -- the VM


def arrange(domain: Element, ways: Mapping[str, Way]) -> None:
    """Changes a domain that Ostler made: each disk with a serial of these is attached that way."""
    devices = domain.find("devices")
    assert devices is not None
    threads = SubElement(domain, "iothreads")
    number = controllers = 0
    for item in devices.findall("disk"):
        way = ways.get(item.findtext("serial") or "")
        driver, target = item.find("driver"), item.find("target")
        if way is None or driver is None or target is None:
            continue
        driver.attrib.update(way.driver)
        holder = driver
        if way.scsi:
            controllers += 1
            target.attrib.update(bus="scsi", dev=f"sd{'nopqrstuvwxyz'[controllers]}")
            for address in item.findall("address"):
                item.remove(address)
            place = {"controller": str(controllers), "bus": "0", "target": "0", "unit": "0"}
            SubElement(item, "address", place, type="drive")
            controller = SubElement(devices, "controller", type="scsi", index=str(controllers), model="virtio-scsi")
            holder = SubElement(controller, "driver")
        if way.thread:
            number += 1
            holder.set("iothread", str(number))
    threads.text = str(number)


def prepare(fleet: Fleet) -> list[Disk]:
    """A running VM with a plain and an encrypted disk for each way, all full of data."""
    fleet.upload("fio", fio_guest_image())
    fleet.api.offerings.CreateServiceOffering(
        offering_pb2.CreateServiceOfferingRequest(request_id=fresh(), name="fio", cpus=1, memory_bytes=256 * MIB)
    )
    fleet.create_vm(VM, "fio", template="fio", host="h1", stopped=True)
    disks = []
    for offering, kind in KINDS.items():
        for way in ways_of(kind):
            disk = Disk(way, kind)
            fleet.do(fleet.create_volume(disk.volume, f"{offering}-data", DISK_MIB))
            fleet.do(fleet.attach(disk.volume, VM))
            serial = fleet.volume(disk.volume).id.replace("-", "")[:20]
            disks.append(Disk(way, kind, serial))
    fleet.do(fleet.start(VM))
    restart(fleet, {disk.serial: disk.way for disk in disks})
    with fleet.console(VM) as console:
        console.wait(r"tick \d", 180)
        fio(console, disks, f"--rw=write --bs=1M --size={DISK_MIB}M --end_fsync=1")
    return disks


def restart(fleet: Fleet, ways: Mapping[str, Way]) -> None:
    """Starts the VM with its disks attached these ways, unseen by the agent, which would start it as Ostler does."""
    host, vm_id = fleet.lab.hosts[0], fleet.vm(VM).id
    host.stop_agent("KILL")
    domain = ElementTree.fromstring(host.virsh("dumpxml", "--inactive", vm_id))
    arrange(domain, ways)
    path = "/run/bench.domain.xml"
    host.outside(path).write_bytes(ElementTree.tostring(domain))
    host.virsh("destroy", vm_id)
    host.virsh("define", path)
    host.virsh("start", vm_id)
    host.start_agent()
    fleet.wait_up(host)


def remove(fleet: Fleet, disks: list[Disk]) -> None:
    fleet.delete_vm(VM)
    for disk in disks:
        fleet.do(fleet.delete_volume(disk.volume))


# -- measurements


def fio(console: Console, disks: list[Disk], options: str) -> dict[Disk, float]:
    """Runs fio in the guest on one disk after the other; MB/s of each."""
    console.type(f"io {','.join(disk.serial for disk in disks)} {options}")
    return rates(console, disks)


def rates(console: Console, disks: list[Disk]) -> dict[Disk, float]:
    """What fio, which runs, tells in the end."""
    end = console.wait(r"IO-END", 60 + len(disks) * 20)
    text = end.string[: end.end()]
    found = dict(re.findall(r"IO=(\w+) KIBS=(\d+)", text))
    absent = [disk.volume for disk in disks if disk.serial not in found]
    if absent:
        raise RuntimeError(f"fio told nothing of {', '.join(absent)}: {text}")
    return {disk: int(found[disk.serial]) * 1024 / 1e6 for disk in disks}


def throughput(console: Console, disks: list[Disk], options: str, rounds: int) -> dict[Disk, list[float]]:
    """MB/s of each disk in each round."""
    seen: dict[Disk, list[float]] = {disk: [] for disk in disks}
    order = list(disks)
    for _ in range(rounds):
        for disk, rate in fio(console, order, f"{options} --size={DISK_MIB}M --time_based --runtime={RUN_S}").items():
            seen[disk].append(rate)
        order.reverse()
    return seen


def answers_ms(host: Host, vm_id: str) -> list[float]:
    """How long QEMU's monitor takes for each of many answers."""
    query = f"""qemu-monitor-command {vm_id} '{{"execute":"query-status"}}'"""
    text = host.virsh("--timing", "; ".join([query] * ANSWERS))
    return [float(found) for found in re.findall(r"\(Time: ([\d.]+) ms\)", text)]


def monitor(fleet: Fleet, console: Console, disks: list[Disk]) -> dict[Disk, list[float]]:
    """The monitor's answers, in ms, while the guest writes to one of the disks."""
    host, vm_id = fleet.lab.hosts[0], fleet.vm(VM).id
    seen: dict[Disk, list[float]] = {disk: [] for disk in disks}
    order = list(disks)
    for _ in range(BUSY_ROUNDS):
        for disk in order:
            console.type(f"io {disk.serial} {BUSY} --size={DISK_MIB}M --time_based --runtime={BUSY_S}")
            console.wait("IO-BEGIN")
            seen[disk] += answers_ms(host, vm_id)
            rates(console, [disk])
        order.reverse()
    return seen


# -- results


@dataclass(frozen=True)
class Found:
    """MB/s in each round, by job and disk; ms of the monitor's answers, by disk."""

    rates: Mapping[str, Mapping[Disk, list[float]]]
    answers: Mapping[Disk, list[float]]

    @property
    def rounds(self) -> int:
        return max(len(rates) for of in self.rates.values() for rates in of.values())


def measure(fleet: Fleet, rounds: int = ROUNDS) -> Found:
    """All of it; the VM is gone afterwards."""
    disks = prepare(fleet)
    with fleet.console(VM) as console:
        console.tick()
        found = {}
        for what, options in JOBS.items():
            found[what] = throughput(console, disks, options, rounds)
            print(f"       {what} is measured", flush=True)
        answers = monitor(fleet, console, [disk for disk in disks if disk.way in (OSTLER, PROXMOX, THREAD)])
    remove(fleet, disks)
    return Found(found, answers)


def section(found: Found) -> str:
    """The section of the page."""
    return "\n\n".join(
        [
            HEAD.format(date=time.strftime("%Y-%m-%d"), machine=page.machine(), rounds=found.rounds, run_s=RUN_S),
            table(("Ostler's defaults against those of Proxmox VE", *COLUMNS), _defaults(found)),
            *(
                table(
                    (f"{kind} disk, in times of Ostler's rate", *(way.name for way in ways_of(kind)[1:])),
                    _ways(found, kind),
                )
                for kind in KINDS.values()
            ),
            table(("QEMU's monitor answers while the guest writes to a disk", "median", "99 %"), _answers(found)),
        ]
    )


COLUMNS = ("encrypted", "Proxmox VE", "ratio", "plain", "Proxmox VE", "ratio", "encrypted of plain")


def _defaults(found: Found) -> Iterator[tuple[str, ...]]:
    for what, of in found.rates.items():
        row = [what]
        for kind in KINDS.values():
            ours, theirs = of[Disk(OSTLER, kind)], of[Disk(PROXMOX, kind)]
            row += [f"{statistics.median(side):.1f} MB/s" for side in (ours, theirs)]
            row.append(ratio(ours, theirs))
        yield *row, ratio(of[Disk(OSTLER, "encrypted")], of[Disk(OSTLER, "plain")])


def _ways(found: Found, kind: str) -> Iterator[tuple[str, ...]]:
    for what, of in found.rates.items():
        yield what, *(ratio(of[Disk(way, kind)], of[Disk(OSTLER, kind)]) for way in ways_of(kind)[1:])


def _answers(found: Found) -> Iterator[tuple[str, ...]]:
    for disk, times in found.answers.items():
        slow = statistics.quantiles(times, n=100)[98]
        yield f"{disk.kind}, {disk.way.name}", f"{statistics.median(times):.1f} ms", f"{slow:.1f} ms"


def ratio(ones: list[float], others: list[float]) -> str:
    """The median of the ratios of one round each, which meet the same load."""
    return f"{statistics.median(one / other for one, other in zip(ones, others, strict=True)):.2f}"


def table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures disks in a guest, and writes the section of the page.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each disk does each job (%(default)s)")
    rounds = parser.parse_args().rounds
    if reason := missing():
        raise SystemExit(reason)
    with Lab.start(hosts=1) as lab:
        fleet = Fleet.make(lab)
        text = section(measure(fleet, rounds))
        fleet.watch.stop()
    print(text)
    page.replace(HEADING, text)


if __name__ == "__main__":
    main()
