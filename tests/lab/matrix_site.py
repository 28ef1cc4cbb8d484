"""A pool of each type in the lab's fleet, and the truth about what is in them: files, rows, keys, libvirt's secrets.

The stand-ins: mount(8) on the hosts binds a directory where an NFS export is wanted, and tells the agent that it is
one; PowerFlex is the gateway of tests/fakes/powerflex.py, each host an SDC of its own.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import sqlite3
import struct
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import libvirt
import libvirt_qemu
from ostler.control.v1 import backup_pb2, offering_pb2, pool_pb2, template_pb2
from ostler_agent.keyfile import KeyFile
from ostler_agent.pools.powerflex import array_name, volume_id_of
from ostler_agent.spec import DiskFormat, Key
from ostler_agent.tools import qemu_img
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret
from ostler_control.keys import FileProvider
from ostler_control.state_dir import StateDir

from tests.fakes.powerflex import FakeGateway, Sdc, gateway
from tests.lab.fleet import CLUSTER, PLAIN, SECRET, SHARED_POOL, Fleet, fresh
from tests.lab.host import LOCAL, SHARED, Host, wait_for

MIB = 1 << 20
TEMPLATE = "matrix"
STORE = "matrix-backups"
NFS_POOL, POWERFLEX_POOL = "matrix-nfs", "matrix-powerflex"
ROOT_BYTES = 16 * MIB
# A guest of 29 bytes, so that disks can be unplugged: asks every slot of q35's ACPI hot-plug registers whether its
# device is to go, ejects it, and sleeps until the next tick of the clock.
GUEST = bytes.fromhex("fb 6631c9 bad00c 6689c8 66ef b2c4 66ed b2c8 66ef 41 80f920 72ea f4 ebe4")

MOUNT = """\
#!/bin/sh
# mount -t nfs -o OPTIONS -- SERVER:/EXPORT DIRECTORY: there is no NFS client in this kernel.
[ "$1 $2" = "-t nfs" ] || exec /run/real-mount "$@"
export={exports}${{6#*:}}
mkdir -p "$export" && /run/real-mount --bind "$export" "$7" || exit
awk -v at="$7" -v from="$6" '$5 == at {{ sub(/ - .*/, " - nfs4 " from " rw") }} {{ print }}' \
  /proc/self/mountinfo >/run/mountinfo
exec /run/real-mount --bind /run/mountinfo "/proc/$PPID/mountinfo"
"""


class Content:
    """What a disk should hold."""

    def __init__(self, size_bytes: int) -> None:
        self.data = bytearray(size_bytes)

    def write(self, pattern: int, offset: int, length: int) -> str:
        """Notes a write, and is qemu-io's command for it."""
        self.data[offset : offset + length] = bytes([pattern]) * length
        return f"write -P {pattern:#x} {offset} {length}"


@dataclass(frozen=True)
class File:
    """A volume's, a VolumeFile's or a snapshot's file, as the database has it."""

    id: str
    pool: str
    pool_type: str
    key: Key | None


@dataclass
class Site:
    """The fleet with its pools. `pool_of` says which one is of a type, for a host where that matters."""

    fleet: Fleet
    array: FakeGateway
    root: Content
    scratch: Path
    _libvirt: dict[str, Any] = field(default_factory=dict)

    def pool_of(self, pool_type: str, host: str) -> str:
        """The pool's name."""
        return {"local": f"local-{host}", "nfs": NFS_POOL, "powerflex": POWERFLEX_POOL}.get(pool_type, SHARED_POOL)

    # -- rows

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """What the control plane's database has."""
        database = StateDir(self.fleet.lab.control.state_dir).database
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(query, values).fetchall()

    def file(self, file_id: str) -> File:
        """By its id, which is also a snapshot's; of a volume `file_of`."""
        [row] = self.rows(
            "SELECT f.file_id, f.passphrase_id, pool.name, pool.type FROM ("
            " SELECT file_id, pool_id, passphrase_id FROM volume"
            " UNION ALL SELECT id, pool_id, passphrase_id FROM volume_file"
            " UNION ALL SELECT id, pool_id, passphrase_id FROM snapshot"
            ") f JOIN pool ON pool.id = f.pool_id WHERE f.file_id = ?",
            file_id,
        )
        key = self.key(row["passphrase_id"]) if row["passphrase_id"] else None
        return File(row["file_id"], row["name"], row["type"], key)

    def file_of(self, volume: str) -> File:
        """The present file of a volume, by the volume's name."""
        [row] = self.rows("SELECT file_id FROM volume WHERE name = ?", volume)
        return self.file(row["file_id"])

    def key(self, passphrase_id: str) -> Key:
        """A passphrase as the database has it, opened."""
        [row] = self.rows("SELECT kek_id, sealed, bound_id FROM passphrase WHERE id = ?", passphrase_id)
        provider = FileProvider(StateDir(self.fleet.lab.control.state_dir).kek)
        return Key(passphrase_id, provider.open(row["kek_id"], row["sealed"], row["bound_id"].encode()))

    def known_files(self) -> set[str]:
        """Ids of all files that the database knows."""
        query = "SELECT file_id FROM volume UNION SELECT id FROM volume_file UNION SELECT id FROM snapshot"
        return {row[0] for row in self.rows(query)}

    # -- files

    @property
    def exports(self) -> Path:
        return self.fleet.lab.directory / "exports"

    def directories(self) -> list[Path]:
        """Of all pools that are directories."""
        local = [host.outside(LOCAL) for host in self.fleet.lab.hosts]
        return [*local, self.fleet.lab.shared, self.exports / "matrix"]

    def path(self, file: File) -> Path:
        """Where the root namespace sees a file."""
        if file.pool_type == "powerflex":
            found = self.array.named(array_name(file.id))
            assert found, f"the array has no volume {file.id}"
            return found.file
        if file.pool_type == "local":
            return self.fleet.lab.host(file.pool.removeprefix("local-")).outside(LOCAL) / file.id
        return (self.exports / "matrix" if file.pool_type == "nfs" else self.fleet.lab.shared) / file.id

    def present_files(self) -> set[str]:
        """Ids of all files that are in the pools, whole or half made."""
        found = {volume_id_of(name) or name for name in self.array.names()}
        for directory in self.directories():
            names = (path.name for path in directory.iterdir() if not path.name.startswith((".ostler-", STORE)))
            # A file in the making is hidden, with a suffix: .part, or .incoming of a VM that is migrating.
            found |= {name.removeprefix(".").partition(".")[0] for name in names}
        return found

    def check_no_leftovers(self) -> None:
        """No file is without a row: rows come before files and go after them, so that is so at any time."""
        left: set[str] = set()

        def none() -> bool:
            nonlocal left
            before = self.known_files()
            left = self.present_files() - before - self.known_files()
            return not left

        try:
            wait_for(none, "the end of files without a row", 10)
        except TimeoutError as error:
            for file_id in left:
                query = "SELECT verb, resource_name, state FROM operation WHERE resource_id = ? OR inputs LIKE ?"
                found = [tuple(row) for row in self.rows(query, file_id, f"%{file_id}%")]
                error.add_note(f"{file_id}: {found}")
            raise

    def content(self, path: Path, key: Key | None, image_format: str = "qcow2") -> bytes:
        """What a guest would read of an image, also of one that a VM has open (which must have flushed)."""
        with (
            tempfile.NamedTemporaryFile(dir=self.scratch) as raw,
            _opened(path, key, image_format) as (secret, opts, fd),
        ):
            _run(["qemu-img", "convert", "-U", "-O", "raw", *secret, "--image-opts", opts, raw.name], fd)
            return Path(raw.name).read_bytes()

    def write(self, file: File, commands: list[str]) -> None:
        """qemu-io's commands on a file that nobody has open."""
        with _opened(self.path(file), file.key, "qcow2") as (secret, opts, fd):
            words = [word for command in commands for word in ("-c", command)]
            _run(["qemu-io", *words, *secret, "--image-opts", opts], fd)

    def opens(self, file: File, key: Key) -> bool:
        """Whether a passphrase opens a file."""
        try:
            qemu_img.check_key(self.path(file), DiskFormat.QCOW2, key)
        except OstlerError as error:
            if error.reason != "WRONG_KEY":
                raise
            return False
        return True

    # -- hypervisors

    def libvirt(self, host: Host) -> Any:
        if host.name not in self._libvirt:
            self._libvirt[host.name] = libvirt.open(host.libvirt_uri)
        return self._libvirt[host.name]

    def secrets_for(self, vm_id: str) -> list[str]:
        """Hosts whose libvirt holds a key for a VM."""
        return [
            host.name
            for host in self.fleet.lab.hosts
            if any(vm_id in secret.usageID() for secret in self.libvirt(host).listAllSecrets())
        ]

    def check_runs(self, vm_id: str, host: str) -> None:
        """A VM executes on this host ("": on none) alone, in one process."""
        there = []
        for found in self.fleet.lab.hosts:
            domains = self.libvirt(found).listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING)
            there += [found.name for domain in domains if domain.UUIDString() == vm_id]
        assert there == ([host] if host else [])
        wait_for(lambda: self.fleet.processes(vm_id) == len(there), "one process for each running VM", 10)

    def disks(self, host: str, vm_id: str) -> dict[str, str]:
        """A running VM's disks: by the file's id, QEMU's name of the device."""
        domain = self.libvirt(self.fleet.lab.host(host)).lookupByUUIDString(vm_id)
        found = {}
        for disk in ET.fromstring(domain.XMLDesc()).findall("devices/disk[@device='disk']"):
            source, alias = disk.find("source"), disk.find("alias")
            assert source is not None
            assert alias is not None
            found[Path(source.get("file") or source.get("dev") or "").name] = alias.get("name") or ""
        return found

    def iops_limit(self, host: str, vm_id: str, file_id: str) -> int:
        """Requests per second that a running QEMU lets one of its disks do; 0 is no limit."""
        domain = self.libvirt(self.fleet.lab.host(host)).lookupByUUIDString(vm_id)
        for disk in ET.fromstring(domain.XMLDesc()).findall("devices/disk[@device='disk']"):
            source = disk.find("source")
            assert source is not None
            if Path(source.get("file") or source.get("dev") or "").name == file_id:
                return int(disk.findtext("iotune/total_iops_sec", "0"))
        raise AssertionError(f"VM {vm_id} has no disk {file_id}")

    def qemu_io(self, host: str, vm_id: str, file_id: str, commands: list[str]) -> None:
        """Has a running QEMU itself write to its disk, and flush."""
        domain = self.libvirt(self.fleet.lab.host(host)).lookupByUUIDString(vm_id)
        device = f"/machine/peripheral/{self.disks(host, vm_id)[file_id]}/virtio-backend"
        for command in [*commands, "flush"]:
            flags = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
            answer = libvirt_qemu.qemuMonitorCommand(domain, f'qemu-io -d {device} "{command}"', flags)
            assert not answer.strip(), answer


def is_encrypted(path: Path) -> bool:
    """Whether a qcow2 file's header says LUKS."""
    with open(path, "rb") as file:
        magic, method = struct.unpack(">4s28xI", file.read(36))
    assert magic == b"QFI\xfb"
    return bool(method == 2)


@contextmanager
def making(fleet: Fleet, scratch: Path) -> Iterator[Site]:
    """Adds the pools, the offerings and the template to a fleet; at the end takes the pools away again."""
    lab = fleet.lab
    with contextlib.ExitStack() as stack:
        sdcs = []
        for host in lab.hosts:
            stack.callback(_restore, host)
            _prepare(host, lab.directory / "exports")
            sdcs.append(Sdc(host.outside("/dev/disk/by-id"), ip=host.address, guid=f"guid-of-{host.name}"))
        array = stack.enter_context(gateway(lab.directory / "array", sdcs, listen=lab.network.gateway))
        for request in (
            pool_pb2.CreatePoolRequest(name=NFS_POOL, type="nfs", source="control:/matrix", cluster=CLUSTER),
            pool_pb2.CreatePoolRequest(
                name=POWERFLEX_POOL,
                type="powerflex",
                options=array.options(),
                password=array.password.encode(),
                cluster=CLUSTER,
            ),
        ):
            request.request_id = fresh()
            pool = fleet.api.pools.CreatePool(request)
            stack.callback(_delete_pool, fleet, pool.id)
            assert all(reach.reachable for reach in pool.hosts), pool
        stack.enter_context(_backup_store(fleet))
        stack.enter_context(fleet.setting("luks.chosen.iter.time", "10"))
        root = _template(fleet, scratch)
        stack.callback(fleet.api.templates.DeleteTemplate, template_pb2.DeleteTemplateRequest(template=TEMPLATE))
        for name in (SECRET, PLAIN):
            fleet.api.offerings.CreateDiskOffering(
                offering_pb2.CreateDiskOfferingRequest(
                    request_id=fresh(), name=f"matrix-{name}", encrypt=name == SECRET
                )
            )
        yield Site(fleet, array, root, scratch)


@contextmanager
def _backup_store(fleet: Fleet) -> Iterator[None]:
    """A store that all hosts reach; its directory is none of the shared pool's volumes."""
    inside = f"{SHARED}/{STORE}"
    outside = fleet.lab.hosts[0].outside(inside)
    outside.mkdir()
    request = backup_pb2.CreateBackupStoreRequest(request_id=fresh(), name="matrix", path=inside, cluster=CLUSTER)
    fleet.api.backups.CreateBackupStore(request)
    try:
        yield
    finally:
        with contextlib.suppress(grpc.RpcError):  # a test that failed may have left something in it
            fleet.api.backups.DeleteBackupStore(backup_pb2.DeleteBackupStoreRequest(store="matrix"))
        shutil.rmtree(outside)


def _delete_pool(fleet: Fleet, pool_id: str) -> None:
    with contextlib.suppress(grpc.RpcError):  # a test that failed may have left something in it
        fleet.api.pools.DeletePool(pool_pb2.DeletePoolRequest(pool=pool_id))


def _template(fleet: Fleet, scratch: Path) -> Content:
    content = Content(ROOT_BYTES)
    content.data[: len(GUEST)] = GUEST
    content.data[510:512] = b"\x55\xaa"
    content.write(0xA7, 3 * MIB, 200 << 10)
    content.write(0x5B, ROOT_BYTES - 4096, 4096)
    raw, image = scratch / "matrix.raw", scratch / "matrix.qcow2"
    raw.write_bytes(content.data)
    _run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(image)])
    fleet.upload(TEMPLATE, image)
    return content


def _prepare(host: Host, exports: Path) -> None:
    script = host.outside("/run/mount-stand-in")
    script.write_text(MOUNT.format(exports=shlex.quote(str(exports))))
    script.chmod(0o755)
    host.run("cp", "/usr/bin/mount", "/run/real-mount")
    host.run("/run/real-mount", "--bind", "/run/mount-stand-in", "/usr/bin/mount")


def _restore(host: Host) -> None:
    agent = host.outside("/run/agent.pid").read_text().strip()
    for place in (f"/proc/{agent}/mountinfo", "/usr/bin/mount"):
        with contextlib.suppress(subprocess.CalledProcessError):
            host.run("umount", place)


@contextmanager
def _opened(path: Path, key: Key | None, image_format: str) -> Iterator[tuple[list[str], str, tuple[int, ...]]]:
    """--object, --image-opts and descriptors for qemu-img to open an image with."""
    opts = f"driver={image_format},file.driver=file,file.filename={path}"
    if key is None:
        yield [], opts, ()
        return
    assert isinstance(key.passphrase, Secret)
    with KeyFile(key.passphrase) as file:
        prefix = "encrypt." if image_format == "qcow2" else ""
        opts += f",{prefix}key-secret=s"
        yield ["--object", f"secret,id=s,file={file.path}"], opts, (file.fd,)


def _run(argv: list[str], descriptors: tuple[int, ...] = ()) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, pass_fds=descriptors, timeout=120, check=False)
    failed = done.returncode or re.search("fail|error", done.stdout, re.IGNORECASE)
    assert not failed, f"{' '.join(argv[:2])}: {done.stdout}{done.stderr}"
    return done.stdout
