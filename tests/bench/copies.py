"""Copies of a running VM's encrypted disk, against qemu-img between the same files; and what keys cost I/O."""

from __future__ import annotations

import base64
import os
import random
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ostler.control.v1 import snapshot_pb2, volume_pb2

from tests.bench.measure import Result, alternated, compared, qemu_img, seconds
from tests.lab.fleet import MIB, PLAIN, SECRET, Fleet, fresh
from tests.lab.host import SHARED, Host

KEY, NEW_KEY, SCRIPT = "/run/bench.copied.key", "/run/bench.new.key", "/run/bench.io"
DEPTH = 16  # requests at once
DISK_BYTES = 1024 * MIB
# What is done with the disk: how, in blocks of so many bytes, so often; in sequence or anywhere.
IO = {
    "reading in sequence, 64 KiB": ("aio_read", 65536, 8192, True),
    "writing in sequence, 64 KiB": ("aio_write", 65536, 8192, True),
    "reading 4 KiB anywhere": ("aio_read", 4096, 20000, False),
    "writing 4 KiB anywhere": ("aio_write", 4096, 20000, False),
}


def live(fleet: Fleet) -> Iterator[Result]:
    """A running VM's root disk, made from the template "bench"."""
    fleet.create_vm("copied", SECRET, template="bench", host="h1")
    volume = fleet.root_volume("copied")
    snapshot(fleet, volume)
    times = alternated(
        {
            "snapshot": lambda: snapshot(fleet, volume),
            "rekey": lambda: rekey(fleet, volume),
            "bare": lambda: convert_bare(fleet, volume),
        }
    )
    disk = "a running VM's encrypted disk of 1 GiB, half of it data"
    yield compared(f"online snapshot of {disk}, against qemu-img convert", times["snapshot"], times["bare"], 1.25)
    yield compared(f"deep rekey of {disk}, against qemu-img convert", times["rekey"], times["bare"], 1.25)
    fleet.delete_vm("copied")


def snapshot(fleet: Fleet, volume: str) -> float:
    request = snapshot_pb2.CreateSnapshotRequest(request_id=fresh(), volume=volume, name="bench")
    took = seconds(lambda: fleet.do(fleet.api.snapshots.CreateSnapshot(request)))
    fleet.do(
        fleet.api.snapshots.DeleteSnapshot(snapshot_pb2.DeleteSnapshotRequest(request_id=fresh(), snapshot="bench"))
    )
    return took


def rekey(fleet: Fleet, volume: str) -> float:
    request = volume_pb2.RekeyVolumeRequest(request_id=fresh(), volume=volume, deep=True)
    return seconds(lambda: fleet.do(fleet.api.volumes.RekeyVolume(request)))


def convert_bare(fleet: Fleet, volume: str) -> float:
    """The same disk into a file that is like the one that Ostler makes; nobody writes to the disk meanwhile."""
    host, target = fleet.lab.hosts[0], f"{SHARED}/bench-copy"
    source = put_key(fleet, host, volume)
    host.outside(NEW_KEY).write_bytes(base64.b64encode(os.urandom(32)))
    secrets = ["--object", f"secret,id=s,file={KEY}", "--object", f"secret,id=t,file={NEW_KEY}"]
    options = "encrypt.format=luks,encrypt.key-secret=t,encrypt.iter-time=10"
    flags = ["-m", "16", "-W", "-U", "-O", "qcow2", *secrets, "-o", options, "--image-opts"]
    took = qemu_img(host, "convert", *flags, f"driver=qcow2,encrypt.key-secret=s,file.filename={source}", target)
    took += seconds(lambda: host.run("sync", target))
    host.outside(target).unlink()
    return took


def put_key(fleet: Fleet, host: Host, volume: str) -> str:
    """Puts a volume's passphrase where qemu-img on the host finds it, and tells the volume's path there."""
    path = fleet.api.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume=volume)).path
    host.outside(KEY).write_bytes(fleet.watch.key_of(Path(path).name))
    return path


def encryption(fleet: Fleet) -> Iterator[Result]:
    """What a guest's I/O costs more: requests that qemu-io makes of two disks from the template "bench"."""
    host = fleet.lab.hosts[0]
    for offering in (SECRET, PLAIN):
        fleet.create_vm(f"io-{offering}", offering, template="bench", host="h1", stopped=True)
    volumes = {offering: fleet.root_volume(f"io-{offering}") for offering in (SECRET, PLAIN)}
    plain = fleet.api.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume=volumes[PLAIN])).path
    opened = {
        SECRET: f"driver=qcow2,encrypt.key-secret=s,file.filename={put_key(fleet, host, volumes[SECRET])}",
        PLAIN: f"driver=qcow2,file.filename={plain}",
    }
    for what, (verb, block, count, in_sequence) in IO.items():
        host.outside(SCRIPT).write_text("\n".join(requests(verb, block, count, in_sequence)))
        sides: dict[str, Callable[[], float]] = {
            offering: partial(qemu_io, host, image) for offering, image in opened.items()
        }
        took = {offering: statistics.median(times) for offering, times in alternated(sides).items()}
        rate = {offering: block * count / time_s / 1e6 for offering, time_s in took.items()}
        yield Result(
            f"I/O of an encrypted disk against a plain one: {what}",
            f"{rate[SECRET]:.0f} MB/s",
            f"{rate[PLAIN]:.0f} MB/s",
            f"{took[SECRET] / took[PLAIN]:.2f} times as long",
            "reported",
            True,
        )
    for offering in volumes:
        fleet.delete_vm(f"io-{offering}")


def requests(verb: str, block: int, count: int, in_sequence: bool) -> Iterator[str]:
    """Commands for qemu-io, the same each time."""
    anywhere = random.Random(1)
    for number in range(count):
        offset = number * block if in_sequence else anywhere.randrange(DISK_BYTES // block) * block
        yield f"{verb} -q {offset} {block}"
        if number % DEPTH == DEPTH - 1:
            yield "aio_flush"
    yield "flush"


def qemu_io(host: Host, image: str) -> float:
    command = f"qemu-io -t none --object secret,id=s,file={KEY} --image-opts {image} <{SCRIPT}"
    return seconds(lambda: host.run("sh", "-c", command))
