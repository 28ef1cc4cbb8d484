"""A column of the matrix: one VM and its disks, of one pool type, plain or encrypted, running or stopped."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.longrunning import operations_pb2 as lro
from ostler.client.services import Services
from ostler.control.v1 import snapshot_pb2, vm_pb2, volume_pb2
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret, new_passphrase
from ostler_control.volumes.matrix import Operation, Refused, Verdict

from tests.lab.fleet import PLAIN, SECRET, Fleet, fresh, refused
from tests.lab.host import wait_for
from tests.lab.matrix_site import MIB, ROOT_BYTES, TEMPLATE, Content, File, Site, is_encrypted

DATA_BYTES = 8 * MIB
# Where migrations go: so that each type is once what is left and once what is moved to.
NEXT = {"local": "shared-mount-point", "shared-mount-point": "nfs", "nfs": "powerflex", "powerflex": "local"}

Ask = Callable[[], Any]


@dataclass
class Column:
    """Things are made when a cell first needs them, so that each cell can be tested alone."""

    site: Site
    pool_type: str
    encrypted: bool
    running: bool
    data_content: Content = field(default_factory=lambda: Content(DATA_BYTES))
    root_content: Content = field(default_factory=lambda: Content(ROOT_BYTES))
    snapshot_content: bytes = b""
    host: str = "h1"  # where the VM is or was last
    spare: list[str] = field(default_factory=list)  # volumes that hold what a cell made
    file: tuple[bytes, Secret | None] | None = None  # a download, and what opens it
    up: bool = field(init=False)  # whether the VM runs now
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.up = self.running

    @property
    def fleet(self) -> Fleet:
        return self.site.fleet

    @property
    def api(self) -> Services:
        return self.site.fleet.api

    @property
    def name(self) -> str:
        """Of its VM; what else it has is named after it."""
        words = [self.pool_type, "encrypted" if self.encrypted else "plain", "running" if self.running else "stopped"]
        return "-".join(words)

    @property
    def pool(self) -> str:
        return self.site.pool_of(self.pool_type, self.host)

    @property
    def service(self) -> str:
        return SECRET if self.encrypted else PLAIN

    @property
    def offering(self) -> str:
        return f"{self.service}-data"

    def new_name(self, what: str) -> str:
        return f"{self.name}-{what}-{next(self._numbers)}"

    # -- a cell

    def cell(self, operation: Operation, function: Callable[[Column], Any], verdict: Verdict) -> None:
        """Tries an operation: it works, and what it has made is right; or it is refused, and nothing has changed."""
        self.fleet.wait_up(*self.fleet.lab.hosts)  # one that is slow to answer is no refusal
        steps = function(self)
        ask: Ask = next(steps)
        if isinstance(verdict, Refused):
            before = self.state()
            assert refused(ask).reason == verdict.reason
            assert self.state() == before
        else:
            answer = ask()
            if isinstance(answer, lro.Operation):
                self.fleet.do(answer)
            with contextlib.suppress(StopIteration):
                steps.send(answer)
        self.check_rest()

    def check_rest(self) -> None:
        """Nothing is half done, nothing is left over, and only running VMs have keys in libvirt."""
        self.site.check_no_leftovers()
        volumes = self.site.rows("SELECT id, name, state, operation_id FROM volume WHERE name LIKE ?", f"{self.name}%")
        assert all((row["state"], row["operation_id"]) == ("ready", "") for row in volumes), [dict(r) for r in volumes]
        query = "SELECT 1 FROM volume_file f JOIN volume v ON v.id = f.volume_id WHERE v.name LIKE ?"
        wait_for(lambda: not self.site.rows(query, f"{self.name}%"), "the end of a further file", 10)  # of a download
        # One statement, so that it sees one moment: other columns create and delete volumes meanwhile.
        missing = self.site.rows(
            "SELECT passphrase_id FROM (SELECT passphrase_id FROM volume UNION SELECT passphrase_id FROM volume_file"
            " UNION SELECT passphrase_id FROM snapshot UNION SELECT passphrase_id FROM template)"
            " WHERE passphrase_id NOT IN (SELECT id FROM passphrase WHERE bound_id NOT IN (SELECT id FROM pool))"
        )
        assert [row[0] for row in missing] == [], "passphrases that are used, but not there"
        found = self.site.rows("SELECT id, state FROM vm WHERE name = ?", self.name)
        if found:
            hosts = [self.vm().host_name] if found[0]["state"] == "running" else []
            allowed = hosts if self.encrypted else []
            wait_for(lambda: set(self.site.secrets_for(found[0]["id"])) <= set(allowed), "the end of needless keys")

    def state(self) -> list[Any]:
        """Whatever an operation could change: rows and files."""
        like = f"{self.name}%"
        rows: list[Any] = [
            *self.site.rows("SELECT * FROM volume WHERE name LIKE ? ORDER BY id", like),
            *self.site.rows("SELECT * FROM snapshot WHERE name LIKE ? ORDER BY id", like),
            *self.site.rows("SELECT id, name FROM template WHERE name LIKE ? ORDER BY id", like),
            *self.site.rows("SELECT id, state, host_id, last_host_id FROM vm WHERE name LIKE ? ORDER BY id", like),
            *self.site.rows(
                "SELECT f.* FROM volume_file f JOIN volume v ON v.id = f.volume_id WHERE v.name LIKE ? ORDER BY f.id",
                like,
            ),
        ]
        found: list[Any] = [tuple(row) for row in rows]
        for row in self.site.rows("SELECT file_id FROM volume WHERE name LIKE ? ORDER BY id", like):
            path = self.site.path(self.site.file(row["file_id"]))
            found.append((str(path), path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino))
        return found

    # -- the VM

    def vm(self) -> vm_pb2.Vm:
        return self.fleet.vm(self.name)

    def has_vm(self) -> bool:
        return bool(self.site.rows("SELECT 1 FROM vm WHERE name = ?", self.name))

    def new_vm(self, name: str = "") -> lro.Operation:
        """Has the column's VM made."""
        self.root_content.data[:] = self.site.root.data
        request = vm_pb2.CreateVmRequest(
            request_id=fresh(),
            name=name or self.name,
            template=TEMPLATE,
            service_offering=self.service,
            pool=self.pool,
            host=self.host,
            stopped=not self.running,
        )
        return self.api.vms.CreateVm(request)

    def need_vm(self) -> None:
        if not self.has_vm():
            self.fleet.do(self.new_vm())

    def root_file(self) -> File:
        return self.site.file_of(f"{self.fleet.volume(self.fleet.root_volume(self.name)).name}")

    def verify_vm(self) -> None:
        """It runs where it should, once, or not at all; its root disk is as it should be."""
        vm = self.vm()
        self.site.check_runs(vm.id, vm.host_name if self.up else "")
        if self.up:
            self.host = vm.host_name
        file = self.root_file()
        if self.up:
            self.site.qemu_io(self.host, vm.id, file.id, [])
        self.verify_file(file, bytes(self.root_content.data))

    # -- its data disk

    @property
    def data(self) -> str:
        """The data volume's name."""
        return f"{self.name}-data"

    def need_data(self, attached: bool = True) -> None:
        """The VM, with a data volume that has something in it."""
        self.need_vm()
        if not self.site.rows("SELECT 1 FROM volume WHERE name = ?", self.data):
            self.fleet.do(self.new_volume(self.data))
            self.data_content = Content(DATA_BYTES)
            self.scribble()
        is_attached = bool(self.fleet.volume(self.data).vm_id)
        if attached and not is_attached:
            self.fleet.do(self.fleet.attach(self.data, self.name))
            self.scribble()
        elif is_attached and not attached:
            self.fleet.do(self.fleet.detach(self.data))

    def new_volume(self, name: str, offering: str = "") -> lro.Operation:
        request = volume_pb2.CreateVolumeRequest(
            request_id=fresh(),
            name=name,
            disk_offering=offering or self.offering,
            size_bytes=DATA_BYTES,
            pool=self.pool,
        )
        return self.api.volumes.CreateVolume(request)

    def scribble(self, name: str = "", content: Content | None = None) -> None:
        """Writes something new to a volume, the data volume unless another is given: where its VM runs, has the running
        QEMU write it."""
        content = content or self.data_content
        number = next(self._numbers)
        end = len(content.data)
        commands = [
            content.write(1 + number % 250, 1 * MIB + number * 4096, 150 << 10),
            content.write(1 + (number + 7) % 250, end - (number % 16 + 1) * 4096, 4096),
        ]
        volume = self.fleet.volume(name or self.data)
        file = self.site.file_of(volume.name)
        if self.up and volume.vm_id:
            self.site.qemu_io(self.vm().host_name, volume.vm_id, file.id, commands)
        else:
            self.site.write(file, commands)

    def data_file(self) -> File:
        return self.site.file_of(self.data)

    def verify_data(self) -> None:
        """The data volume is as it should be, and so is the VM; a running one can write to it."""
        volume = self.fleet.volume(self.data)
        assert volume.size_bytes == len(self.data_content.data)
        vm = self.vm()
        self.site.check_runs(vm.id, vm.host_name if self.up else "")
        if self.up and volume.vm_id:
            assert self.data_file().id in self.site.disks(vm.host_name, vm.id)
            self.scribble()
        self.verify_file(self.data_file(), bytes(self.data_content.data))

    # -- what comes of it

    def verify_file(self, file: File, content: bytes, encrypted: bool | None = None) -> None:
        """A file holds this bit for bit, and is encrypted by its header exactly if it should be."""
        path = self.site.path(file)
        encrypted = self.encrypted if encrypted is None else encrypted
        assert is_encrypted(path) == (file.key is not None) == encrypted
        assert self.site.content(path, file.key) == content

    def verify_volume(self, name: str, content: bytes) -> None:
        """A new volume holds this; it is kept as a spare one."""
        assert self.fleet.volume(name).state == volume_pb2.Volume.READY
        file = self.site.file_of(name)
        self.verify_file(file, content)
        other = self.data_file().key if self.has_data() else None
        assert other is None or not self.site.opens(file, other)
        self.spare.append(name)

    def has_data(self) -> bool:
        return bool(self.site.rows("SELECT 1 FROM volume WHERE name = ?", self.data))

    # -- its snapshot

    @property
    def snapshot(self) -> str:
        return f"{self.name}-snapshot"

    def new_snapshot(self) -> lro.Operation:
        self.snapshot_content = bytes(self.data_content.data)
        return self.api.snapshots.CreateSnapshot(
            snapshot_pb2.CreateSnapshotRequest(request_id=fresh(), volume=self.data, name=self.snapshot)
        )

    def need_snapshot(self) -> None:
        self.need_data()
        if not self.site.rows("SELECT 1 FROM snapshot WHERE name = ?", self.snapshot):
            self.fleet.do(self.new_snapshot())

    # -- files that leave and come

    def passphrase(self) -> Secret:
        """One of the caller's choice; it must not be found anywhere either."""
        chosen = new_passphrase()
        self.fleet.watch.passphrases[fresh()] = chosen.reveal()
        return chosen

    def encryption(self, passphrase: Secret | None) -> volume_pb2.ExportEncryption | None:
        if not self.encrypted:
            return None
        return (
            volume_pb2.ExportEncryption(passphrase=passphrase.reveal())
            if passphrase
            else volume_pb2.ExportEncryption(decrypt=True)
        )

    # -- the end

    def clear(self) -> None:
        """Deletes all that it has made, whatever state that is in. What cannot be deleted is told."""
        failed = []
        for delete in self._deletions():
            try:
                self.fleet.do(delete())
            except (OstlerError, AssertionError, TimeoutError) as error:
                failed.append(error)
        if failed:
            raise ExceptionGroup(f"not all of {self.name} could be deleted", failed)

    def _deletions(self) -> list[Callable[[], lro.Operation]]:
        like = f"{self.name}%"
        found: list[Callable[[], lro.Operation]] = []
        for row in self.site.rows("SELECT id FROM vm WHERE name LIKE ?", like):
            request = vm_pb2.DeleteVmRequest(request_id=fresh(), vm=row["id"], force=True)
            found.append(lambda request=request: self.api.vms.DeleteVm(request))  # type: ignore[misc]
        for row in self.site.rows("SELECT id FROM snapshot WHERE name LIKE ?", like):
            gone = snapshot_pb2.DeleteSnapshotRequest(request_id=fresh(), snapshot=row["id"])
            found.append(lambda gone=gone: self.api.snapshots.DeleteSnapshot(gone))  # type: ignore[misc]
        for row in self.site.rows("SELECT id FROM volume WHERE name LIKE ? AND NOT root", like):
            found.append(lambda volume=row["id"]: self.fleet.delete_volume(volume))  # type: ignore[misc]
        return found
