"""PowerFlex (ScaleIO): each volume is a block device, which the array maps to this host while it is needed here.

The agent calls the array's gateway (tools/powerflex.py); the kernel's client, the SDC, creates the devices. A volume's
name on the array derives from its id, so that a repeated call finds the volume of an earlier attempt. While a volume is
mapped, the link `/dev/ostler/<pool>/<volume>` points to its device; QEMU uses that path.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from ostler_common.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    bad_field,
)
from ostler_common.secret import Secret

from ostler_agent.files import write_file
from ostler_agent.pools.array import STEP_BYTES, array_bytes
from ostler_agent.pools.base import Capacity, PoolSpec, StagedVolume, check_unused
from ostler_agent.process import run
from ostler_agent.spec import DiskFormat, VolumeRef
from ostler_agent.tools.block import sync, zero
from ostler_agent.tools.powerflex import ArrayVolume, Gateway, StoragePool

log = structlog.get_logger(__name__)

DEVICES = Path("/dev/disk/by-id")  # udev's links to the SDC's devices
LINKS = Path("/dev/ostler")
ZEROING_DIR = Path("/var/lib/ostler/growing")
DRV_CFG = Path("/opt/emc/scaleio/sdc/bin/drv_cfg")
DEVICE_TIMEOUT_S = 60.0
UNMAP_TIMEOUT_S = 30.0  # how long another host may take to release a volume that is being deleted
_POLL_INTERVAL_S = 0.2
_RESCAN_INTERVAL_S = 10.0
_REQUIRED = ("gateway", "username", "protection_domain", "storage_pool")
_GATEWAY = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)(:[0-9]{1,5})?")
# The array allows 31 characters: 4, and 26 for a UUID in base 32.
_FINISHED, _STAGED = "ost-", "osp-"


class PowerFlex:
    """The pool type. Options: gateway (host or host:port), username, protection_domain, storage_pool, ca (PEM of the CA
    that signs the gateway's certificate; default: the system's CAs). `set_secret` receives the password, which is kept
    in memory only."""

    interface_version = 1
    name = "powerflex"
    shared = True
    encryption = True

    def __init__(
        self,
        devices: Path = DEVICES,
        links: Path = LINKS,
        zeroing_dir: Path = ZEROING_DIR,
        drv_cfg: Path = DRV_CFG,
        device_timeout_s: float = DEVICE_TIMEOUT_S,
        unmap_timeout_s: float = UNMAP_TIMEOUT_S,
        step_bytes: int = STEP_BYTES,
    ) -> None:
        self._devices = devices
        self._links = links
        self._zeroing_dir = zeroing_dir
        self._drv_cfg = drv_cfg
        self._step_bytes = step_bytes
        self._timeouts_s = device_timeout_s, unmap_timeout_s
        self._arrays: dict[str, Array] = {}
        self._lock = threading.Lock()

    def check(self, spec: PoolSpec) -> None:
        check_unused(spec, options=frozenset({*_REQUIRED, "ca"}))
        if spec.path:
            raise bad_field("spec.path", "a pool of type powerflex has no directory")
        for name in _REQUIRED:
            if not spec.options.get(name):
                raise bad_field("spec.options", f"a pool of type powerflex needs the option {name}")
        if not _GATEWAY.fullmatch(spec.options["gateway"]):
            raise bad_field("spec.options", 'gateway must be "host" or "host:port"')
        if "PRIVATE KEY" in spec.options.get("ca", ""):
            raise bad_field("spec.options", "ca must be a certificate in PEM, but contains a private key")

    def place(self, spec: PoolSpec) -> str:
        options = spec.options
        return f"storage pool {options['storage_pool']} of {options['protection_domain']} at {options['gateway']}"

    def set_secret(self, spec: PoolSpec, secret: Secret) -> None:
        """Logs in with the gateway's password, and keeps it while the agent runs."""
        known = self._arrays.get(spec.pool_id)
        if known and (known.options, known.secret) == (dict(spec.options), secret):
            return
        options = spec.options
        gateway = Gateway(options["gateway"], options["username"], secret, options.get("ca", ""))
        pool = gateway.storage_pool(options["protection_domain"], options["storage_pool"])
        sdc_id = self._find_sdc(gateway)
        with self._lock:
            # Keep the existing object: it knows which volumes are mapped, and why.
            known = self._arrays.get(spec.pool_id)
            if known and (known.pool.id, known.sdc_id) == (pool.id, sdc_id):
                known.gateway, known.pool, known.options, known.secret = gateway, pool, dict(options), secret
                return
            self._arrays[spec.pool_id] = Array(
                gateway=gateway,
                pool=pool,
                sdc_id=sdc_id,
                options=dict(options),
                secret=secret,
                devices=self._devices,
                links=self._links / spec.pool_id,
                zeroing_dir=self._zeroing_dir,
                drv_cfg=self._drv_cfg,
                device_timeout_s=self._timeouts_s[0],
                unmap_timeout_s=self._timeouts_s[1],
                step_bytes=self._step_bytes,
            )

    def ensure(self, spec: PoolSpec) -> None:
        array = self._array(spec)
        # Others may traverse it but not list it: QEMU runs as another user.
        array.links.mkdir(parents=True, exist_ok=True)
        for directory in (self._links, array.links):
            directory.chmod(0o711)

    def release(self, spec: PoolSpec) -> None:
        """Unmaps the remaining volumes and drops the password."""
        array = self._arrays.get(spec.pool_id)
        if array:
            array.unmap_unused(used=(), requested_before=time.monotonic())
            with suppress(OSError):
                array.links.rmdir()
            del self._arrays[spec.pool_id]

    def fingerprint(self, spec: PoolSpec, *, make: bool) -> str | None:
        array = self._arrays.get(spec.pool_id)
        return f"powerflex:{array.pool.system_id}:{array.pool.id}" if array else None

    def capacity(self, spec: PoolSpec) -> Capacity:
        array = self._array(spec)
        return Capacity(*array.gateway.capacity(array.pool.id))

    def store(self, spec: PoolSpec) -> Array:
        return self._array(spec)

    def _array(self, spec: PoolSpec) -> Array:
        try:
            return self._arrays[spec.pool_id]
        except KeyError:
            raise FailedPreconditionError(
                f"the agent has not received the password for {self.place(spec)} since its start "
                "(the control plane sends it when it reaches the host; try again in a moment)",
                "POOL_NEEDS_CREDENTIALS",
                {"pool": spec.pool_id},
            ) from None

    def _find_sdc(self, gateway: Gateway) -> str:
        """Finds this host's SDC id on the array: by the SDC's GUID, else by an address of this host."""
        guid = ""
        if self._drv_cfg.exists():
            guid = run([self._drv_cfg, "--query_guid"], timeout_s=30).stdout.strip().lower()
        known = gateway.sdcs()
        for sdc_id, sdc_guid, address in known:
            if sdc_guid.lower() == guid if guid else _is_own(address):
                return sdc_id
        raise FailedPreconditionError(
            f"none of the array's {len(known)} SDCs is this host "
            "(is the SDC installed here, and its kernel module scini loaded?)",
            "POWERFLEX_NO_SDC",
            {"guid": guid},
        )


@dataclass(eq=False)
class Array:
    """A storage pool of an array: a `base.Store`."""

    gateway: Gateway
    pool: StoragePool
    sdc_id: str
    options: dict[str, str]
    secret: Secret
    devices: Path
    links: Path
    zeroing_dir: Path
    drv_cfg: Path
    device_timeout_s: float
    unmap_timeout_s: float
    step_bytes: int
    # By the link's name: how many blocks use the mapping; volumes that a block mapped, which it unmaps at its end; when
    # a path for a VM was last requested: such a volume stays mapped.
    _users: Counter[str] = field(default_factory=Counter)
    _mapped_temporarily: set[str] = field(default_factory=set)
    _requested: dict[str, float] = field(default_factory=dict)
    _locks: dict[str, threading.RLock] = field(default_factory=dict)

    def path(self, volume: VolumeRef) -> Path:
        volume_id, link = volume.volume_id, self.links / volume.volume_id
        with self._lock(volume_id):
            found = self.gateway.find(array_name(volume_id))
            if found:
                self._map(found, link)
                self._mapped_temporarily.discard(volume_id)
                self._requested[volume_id] = time.monotonic()
                self._zero_grown(volume, link)
        return link

    def exists(self, volume: VolumeRef) -> bool:
        return self.gateway.find(array_name(volume.volume_id)) is not None

    def identity(self, volume: VolumeRef) -> str:
        return self._get(volume).id

    @contextmanager
    def hold(self, volume: VolumeRef) -> Iterator[Path]:
        with self._holding(volume) as (_, link):
            yield link

    @contextmanager
    def make(self, volume: VolumeRef, size_bytes: int, *, thick: bool) -> Iterator[StagedVolume]:
        self.discard(volume)
        size = self._size_for(volume, size_bytes)
        made = self.gateway.create(self.pool.id, array_name(volume.volume_id, staged=True), size, thick=thick)
        staged = _StagedDevice(self, made.id, volume, self.links / f".{volume.volume_id}.part")
        with ExitStack() as stack:
            stack.callback(staged.discard)
            stack.enter_context(self._mapped(staged.path.name, lambda: made))
            if _exposes_old_data(volume) and not self.pool.zero_padding:
                zero(staged.path, 0, size)
            yield staged

    def expand(self, volume: VolumeRef, size_bytes: int) -> None:
        with self._holding(volume) as (found, link):
            size = self._size_for(volume, size_bytes)
            if size > found.size_bytes:
                if _exposes_old_data(volume) and not self.pool.zero_padding:
                    self._record_zeroing(volume, found.size_bytes)
                self.gateway.resize(found.id, size)
                self._wait_for_size(link, size)
                self._zero_grown(volume, link)

    def delete(self, volume: VolumeRef) -> None:
        with self._lock(volume.volume_id):
            found = self.gateway.find(array_name(volume.volume_id))
            if found:
                self._wait_for_other_hosts(volume, found)
                if self.sdc_id in found.mapped:
                    self._unmap(found.id, self.links / volume.volume_id)
                self._requested.pop(volume.volume_id, None)
                self.gateway.remove(found.id)
        self._zeroing_record(volume).unlink(missing_ok=True)
        self.discard(volume)

    def discard(self, volume: VolumeRef) -> None:
        found = self.gateway.find(array_name(volume.volume_id, staged=True))
        if found:
            (self.links / f".{volume.volume_id}.part").unlink(missing_ok=True)
            # No VM uses a volume under construction; its agent may have been killed on another host.
            for sdc_id in found.mapped:
                self.gateway.unmap(found.id, sdc_id)
            self.gateway.remove(found.id)

    def unmap_unused(self, used: Collection[str], requested_before: float, only: Collection[str] | None = None) -> None:
        """See `base.UnmapsVolumes`. Skips volumes that a block of this agent uses."""
        for found in self.gateway.volumes(self.pool.id):
            volume_id = volume_id_of(found.name)
            if self.sdc_id not in found.mapped or volume_id is None or (only is not None and volume_id not in only):
                continue
            name = volume_id if found.name.startswith(_FINISHED) else f".{volume_id}.part"
            with self._lock(name):
                requested = self._requested.get(name, float("-inf"))
                if name in used or self._users[name] or requested > requested_before:
                    continue
                log.info("unmapping an unused volume", volume=volume_id)
                self._unmap(found.id, self.links / name)
                self._requested.pop(name, None)

    def _size_for(self, volume: VolumeRef, size_bytes: int) -> int:
        return array_bytes(volume.format, volume.key is not None, size_bytes, self.step_bytes)

    # -- devices

    @contextmanager
    def _holding(self, volume: VolumeRef) -> Iterator[tuple[ArrayVolume, Path]]:
        """Like `hold`, but also yields the array's volume."""
        link = self.links / volume.volume_id
        with self._mapped(volume.volume_id, lambda: self._get(volume)) as found:
            self._zero_grown(volume, link)
            yield found, link

    @contextmanager
    def _mapped(self, name: str, find: Callable[[], ArrayVolume]) -> Iterator[ArrayVolume]:
        """Maps a volume within the block, with a link of that name.

        The last of several blocks unmaps it, unless it was mapped before, or its path was requested for a VM meanwhile.
        """
        link = self.links / name
        with self._lock(name):
            found = find()
            if self._map(found, link):
                self._mapped_temporarily.add(name)
            self._users[name] += 1
        try:
            yield found
        finally:
            with self._lock(name):
                self._users[name] -= 1
                if not self._users[name] and name in self._mapped_temporarily:
                    self._mapped_temporarily.discard(name)
                    self._unmap(found.id, link)

    def _map(self, found: ArrayVolume, link: Path) -> bool:
        """Maps a volume to this host and waits for its device; returns whether it was not mapped before."""
        fresh = self.sdc_id not in found.mapped
        if fresh:
            self.gateway.map(found.id, self.sdc_id)
        try:
            _link(link, self._wait_for_device(found.id))
        except BaseException:
            if fresh:
                self._unmap(found.id, link)
            raise
        return fresh

    def _unmap(self, array_id: str, link: Path) -> None:
        link.unlink(missing_ok=True)
        try:
            self.gateway.unmap(array_id, self.sdc_id)
        except FailedPreconditionError:
            if self.sdc_id in self.gateway.get(array_id).mapped:
                raise

    def _wait_for_device(self, array_id: str) -> Path:
        device = self.devices / f"emc-vol-{self.pool.system_id}-{array_id}"
        began = rescanned = time.monotonic()
        while not device.is_block_device():
            now = time.monotonic()
            if now - began > self.device_timeout_s:
                raise DeadlineExceededError(
                    f"the device {device} did not appear within {self.device_timeout_s:g} s after its volume was "
                    "mapped (is the SDC connected to the array, and does udev create /dev/disk/by-id?)",
                    "POWERFLEX_DEVICE_MISSING",
                    {"device": str(device)},
                )
            if now - rescanned > _RESCAN_INTERVAL_S and self.drv_cfg.exists():
                run([self.drv_cfg, "--rescan"], timeout_s=30, check=False)
                rescanned = now
            time.sleep(_POLL_INTERVAL_S)
        return device

    def _wait_for_size(self, link: Path, size_bytes: int) -> None:
        deadline = time.monotonic() + self.device_timeout_s
        while _size(link) < size_bytes:
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    f"the array grew a volume to {size_bytes} bytes, but its device {link} has {_size(link)}",
                    "POWERFLEX_DEVICE_MISSING",
                    {"device": str(link)},
                )
            time.sleep(_POLL_INTERVAL_S)

    def _wait_for_other_hosts(self, volume: VolumeRef, found: ArrayVolume) -> None:
        """Waits until other hosts have unmapped the volume: one whose VM has just stopped needs a moment."""
        deadline = time.monotonic() + self.unmap_timeout_s
        while others := found.mapped - {self.sdc_id}:
            if time.monotonic() > deadline:
                raise FailedPreconditionError(
                    f"volume {volume.volume_id} is mapped to another host, SDC {', '.join(sorted(others))} (stop its "
                    "VM there; if that host is gone for good, unmap the volume on the array)",
                    "VOLUME_IN_USE",
                    {"volume": volume.volume_id},
                )
            time.sleep(1)
            found = self.gateway.get(found.id)

    # -- zeroing: an array without zero padding may show data of deleted volumes

    def _record_zeroing(self, volume: VolumeRef, size_bytes: int) -> None:
        """Records durably, before a raw volume grows, from which offset to zero it before a guest sees it."""
        if not self._zeroing_record(volume).exists():
            self.zeroing_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(self._zeroing_record(volume), str(size_bytes).encode())

    def _zero_grown(self, volume: VolumeRef, link: Path) -> None:
        record = self._zeroing_record(volume)
        if record.exists():
            zero(link, int(record.read_text()), _size(link))
            record.unlink(missing_ok=True)

    def _zeroing_record(self, volume: VolumeRef) -> Path:
        return self.zeroing_dir / volume.volume_id

    # -- the array

    def _get(self, volume: VolumeRef) -> ArrayVolume:
        found = self.gateway.find(array_name(volume.volume_id))
        if found is None:
            raise NotFoundError(
                f"volume {volume.volume_id} is not in its pool", "VOLUME_NOT_FOUND", {"volume": volume.volume_id}
            )
        return found

    def _lock(self, name: str) -> threading.RLock:
        return self._locks.setdefault(name, threading.RLock())


@dataclass
class _StagedDevice:
    """A volume of the array under its temporary name."""

    array: Array
    array_id: str
    volume: VolumeRef
    path: Path
    published: bool = False

    def identity(self) -> str:
        return self.array_id

    def publish(self) -> None:
        sync(self.path)
        name = array_name(self.volume.volume_id)
        if self.array.exists(self.volume):
            raise FileExistsError(name)
        try:
            self.array.gateway.rename(self.array_id, name)
        except FailedPreconditionError:
            if self.array.exists(self.volume):  # another host created it first
                raise FileExistsError(name) from None
            raise
        self.published = True

    def discard(self) -> None:
        if not self.published:
            self.array.discard(self.volume)


def array_name(volume_id: str, *, staged: bool = False) -> str:
    """A volume's name on the array."""
    text = base64.b32encode(uuid.UUID(volume_id).bytes).decode().rstrip("=").lower()
    return f"{_STAGED if staged else _FINISHED}{text}"


def volume_id_of(name: str) -> str | None:
    """The id of the volume that has this name on the array, finished or not; None if the name is not Ostler's."""
    if not re.fullmatch(f"({_FINISHED}|{_STAGED})[a-z2-7]{{26}}", name):
        return None
    try:
        return str(uuid.UUID(bytes=base64.b32decode(name[len(_FINISHED) :].upper() + "======")))
    except ValueError:
        return None


def _exposes_old_data(volume: VolumeRef) -> bool:
    """Whether a guest could read old data of the array: not in qcow2, which hides unwritten space, nor through LUKS."""
    return volume.format is DiskFormat.RAW and volume.key is None


def _link(link: Path, device: Path) -> None:
    """Points a link to a device, replacing a stale link."""
    if link.is_symlink() and os.readlink(link) == str(device):
        return
    staged = link.with_name(f"{link.name}.new")
    staged.unlink(missing_ok=True)
    staged.symlink_to(device)
    staged.rename(link)


def _size(device: Path) -> int:
    file = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(file, 0, os.SEEK_END)
    finally:
        os.close(file)


def _is_own(address: str) -> bool:
    """Whether an IP address is this host's: only its own can be bound."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return bool(address)
