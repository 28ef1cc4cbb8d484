"""The environment of checks: an open driver in a scratch directory, with its own VMs and volumes."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ostler_common.errors import OstlerError
from ostler_common.hypervisors import Function

from ostler_agent.capabilities.facts import HypervisorFacts
from ostler_agent.conformance import processes
from ostler_agent.conformance.assertions import SkippedError, require, wait_for
from ostler_agent.hypervisors import registry
from ostler_agent.hypervisors.base import Console, HotPlug, Hypervisor, OnlineGrow, Reboot, Screenshot, VmEvent
from ostler_agent.hypervisors.driver import Driver, DriverContext
from ostler_agent.hypervisors.foreign import Adoption
from ostler_agent.hypervisors.interaction import ConsoleLog, Screen, SendKey
from ostler_agent.process import run
from ostler_agent.spec import DiskFormat, DiskSpec, Key, NicSpec, VmSpec, VolumeRef
from ostler_agent.tools import qemu_img

MIB = 1 << 20
BOOT_TIMEOUT_S = 180.0
AGENT_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Setup:
    """What checks may use. image: a bootable disk, None for none; ready: text that its guest prints on the serial
    console once it has booted; bridge: for network interfaces, "" for none; supervisor: id of the process whose
    descendants are the checks' processes (0: this process); unit_kill_mode: KillMode of the agent's unit, if known;
    details: of every VM, those that the driver states."""

    scratch: Path
    image: Path | None = None
    image_format: DiskFormat = DiskFormat.QCOW2
    ready: str = "login:"
    bridge: str = ""
    supervisor: int = 0
    unit_kill_mode: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AgentOrders:
    """What a driver in its own process does before the process kills itself. See `killed_agent`."""

    driver: str
    context: DriverContext
    pool: Path
    spec: VmSpec
    step: str
    kill_after_s: float


class RecordingListener:
    """Records events."""

    def __init__(self) -> None:
        self.events: list[VmEvent] = []
        self.threads: set[int] = set()
        self.reconnections = 0

    def vm_event(self, event: VmEvent) -> None:
        self.threads.add(threading.get_ident())
        self.events.append(event)

    def reconnected(self) -> None:
        self.reconnections += 1

    def kinds(self, vm_id: str) -> list[str]:
        return [event.kind.value for event in list(self.events) if event.vm.vm_id == vm_id]

    def wait(self, vm_id: str, kind: str) -> None:
        wait_for(lambda: kind in self.kinds(vm_id), f"the event {kind}")


class NeverCancelled:
    """A job that is never cancelled."""

    def report(self, phase: str, done: int = 0, total: int = 0, percent: int | None = None) -> None:
        pass

    def check(self) -> None:
        pass


@dataclass
class Bench:
    """The environment of checks. name: the driver's, as in agent.toml. Affects only VMs and volumes that it created."""

    name: str
    driver: Driver
    context: DriverContext
    setup: Setup
    facts: HypervisorFacts
    listener: RecordingListener = field(default_factory=RecordingListener)
    _created: list[str] = field(default_factory=list)
    _guest: tuple[VmSpec, Console] | None = None

    def __post_init__(self) -> None:
        self.pool.mkdir(exist_ok=True)
        # A hypervisor that runs VMs as another user must be able to reach their disks.
        for directory in (self.setup.scratch, self.pool):
            directory.chmod(0o711)
        self.hypervisor: Hypervisor = self._open()

    @property
    def pool(self) -> Path:
        return self.setup.scratch / "pool"

    @property
    def disk_format(self) -> DiskFormat:
        """Raw if the driver supports it."""
        formats = self.driver.info.template_formats
        return DiskFormat.RAW if DiskFormat.RAW in formats else min(formats)

    def paths(self, ref: VolumeRef) -> Path:
        return self.pool / ref.volume_id

    # -- VMs and volumes

    def volume(
        self, size_bytes: int = 16 * MIB, key: Key | None = None, disk_format: DiskFormat | None = None
    ) -> VolumeRef:
        """Creates an empty volume."""
        ref = VolumeRef("conformance", str(uuid.uuid4()), disk_format or self.disk_format, key)
        qemu_img.create(self.paths(ref), ref.format, size_bytes, key=key)
        return ref

    def write(self, ref: VolumeRef, data: bytes) -> None:
        """Replaces the contents of an unused plain volume."""
        plain = self.setup.scratch / f"{ref.volume_id}.raw"
        plain.write_bytes(data)
        self.paths(ref).unlink()
        qemu_img.convert(plain, DiskFormat.RAW, self.paths(ref), ref.format)
        plain.unlink()

    def write_at(self, ref: VolumeRef, offset: int, byte: int, length: int) -> None:
        """Writes within an unused plain volume, as a VM would."""
        image = f"driver={ref.format},file.driver=file,file.filename={self.paths(ref)}"
        run(["qemu-io", "-c", f"write -P {byte} {offset} {length}", "--image-opts", image])

    def read(self, ref: VolumeRef) -> bytes:
        """Returns the contents of a plain volume as a guest would read them now."""
        plain = self.setup.scratch / f"{ref.volume_id}.raw"
        command = ["qemu-img", "convert", "-U", "--image-opts", "-O", "raw"]
        run([*command, f"driver={ref.format},file.driver=file,file.filename={self.paths(ref)}", plain])
        data = plain.read_bytes()
        plain.unlink()
        return data

    def spec(self, *volumes: VolumeRef, nics: Sequence[NicSpec] = ()) -> VmSpec:
        """Returns the spec of a small VM with these disks; the first one boots. The VM is deleted after the check."""
        vm_id = str(uuid.uuid4())
        self._created.append(vm_id)
        disks = tuple(DiskSpec(ref, slot, boot=slot == 0) for slot, ref in enumerate(volumes))
        return VmSpec(
            vm_id, f"check-{vm_id[:8]}", 1, 128 * MIB, disks=disks, nics=tuple(nics), details=self.setup.details
        )

    def start(self, spec: VmSpec | None = None) -> VmSpec:
        """Starts a VM; by default one with an empty disk, whose guest never responds."""
        spec = spec or self.spec(self.volume())
        self.hypervisor.start(spec, self.paths)
        return spec

    def guest(self) -> tuple[VmSpec, Console]:
        """Returns a VM whose guest has booted, and its console; shared by all checks while it runs."""
        if self._guest and not self.hypervisor.running(self._guest[0].vm_id):
            self._guest = None
        if self._guest is None:
            assert self.setup.image
            root = VolumeRef("conformance", str(uuid.uuid4()), self.disk_format)
            qemu_img.convert(self.setup.image, self.setup.image_format, self.paths(root), root.format)
            spec = self.start(self.spec(root))
            console = self.hypervisor.console(spec.vm_id, force=False)
            self._guest = spec, console
            expect(console, self.setup.ready, BOOT_TIMEOUT_S)
        return self._guest

    def clean_up(self, everything: bool = False) -> None:
        """Deletes the VMs that checks created; the shared guest only if everything. Raises what the driver raises.

        Tries each VM once: one that cannot be deleted does not fail the following checks.
        """
        if everything:
            self._guest = None
        kept = [self._guest[0].vm_id] if self._guest else []
        pending, self._created = [vm_id for vm_id in self._created if vm_id not in kept], kept
        with ExitStack() as stack:
            for vm_id in pending:
                stack.callback(self._delete, vm_id)

    def _delete(self, vm_id: str) -> None:
        self.hypervisor.power_off(vm_id)
        self.hypervisor.delete(vm_id)

    # -- what VMs leave on the host

    def processes(self) -> frozenset[int]:
        """The processes of the driver and its VMs: descendants of the checks, and users of the scratch directory."""
        root = self.setup.supervisor or os.getpid()
        found = processes.descendants(root) | processes.referring_to(self.setup.scratch)
        return frozenset(found - {root, os.getpid()})

    def state_files(self) -> frozenset[str]:
        """The paths in the driver's directory, relative to it."""
        return frozenset(str(path.relative_to(self.context.state_dir)) for path in self.context.state_dir.rglob("*"))

    # -- restarts of the driver

    def reopen(self, closed: bool = False) -> None:
        """Closes the driver, unless it is closed, and opens it again."""
        self._guest = None  # its console is closed
        if not closed:
            self.hypervisor.close()
        self.hypervisor = self._open()

    def run_killed_agent(self, step: str, spec: VmSpec, kill_after_s: float = 0.0) -> None:
        """Runs the driver in its own process, which ends by SIGKILL; closes the driver of this process meanwhile.

        Raises CheckFailedError if the process fails before that.
        """
        orders = AgentOrders(self.name, self.context, self.pool, spec, step, kill_after_s)
        self._guest = None  # its console is closed
        self.hypervisor.close()
        try:
            environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            argv = [sys.executable, "-m", "ostler_agent.conformance.killed_agent"]
            done = run(argv, stdin=pickle.dumps(orders), env=environment, timeout_s=AGENT_TIMEOUT_S, check=False)
        finally:
            self.hypervisor = self._open()
        require(done.exit_code == -9, f"the driver fails in a process of its own: {done.stderr.strip()[-500:]}")

    def close(self) -> None:
        """Deletes everything that checks created. Raises what the driver raises."""
        try:
            self.clean_up(everything=True)
        finally:
            self.hypervisor.close()

    def _open(self) -> Hypervisor:
        hypervisor = self.driver.open(self.context)
        hypervisor.subscribe(self.listener)
        return hypervisor

    # -- optional parts; their checks run only if the driver states them

    def hot_plug(self) -> HotPlug:
        assert isinstance(self.hypervisor, HotPlug)
        return self.hypervisor

    def online_grow(self) -> OnlineGrow:
        assert isinstance(self.hypervisor, OnlineGrow)
        return self.hypervisor

    def reboot(self) -> Reboot:
        assert isinstance(self.hypervisor, Reboot)
        return self.hypervisor

    def screen(self) -> Screenshot:
        assert isinstance(self.hypervisor, Screenshot)
        return self.hypervisor

    def vnc(self) -> Screen:
        assert isinstance(self.hypervisor, Screen)
        return self.hypervisor

    def keyboard(self) -> SendKey:
        assert isinstance(self.hypervisor, SendKey)
        return self.hypervisor

    def console_log(self) -> ConsoleLog:
        assert isinstance(self.hypervisor, ConsoleLog)
        return self.hypervisor

    def adoption(self) -> Adoption:
        assert isinstance(self.hypervisor, Adoption)
        return self.hypervisor

    def need_probe(self, function: Function) -> None:
        """Raises SkippedError if the driver's probes say that this host lacks the function."""
        for probe in self.facts.probes:
            if probe.name.partition(".")[0] == function and not probe.ok:
                raise SkippedError(f"this host: {probe.reason}")


def new_id() -> str:
    return str(uuid.uuid4())


def expect(console: Console, text: str, timeout_s: float) -> str:
    """Reads until the guest prints a text. Raises CheckFailedError at the timeout."""
    seen = b""

    def done(data: bytes) -> bool:
        nonlocal seen
        seen += data
        return text.encode() in seen

    read_until(console, done, timeout_s)
    require(
        text.encode() in seen, f"the guest must print {text!r}; it printed {seen[-300:].decode(errors='replace')!r}"
    )
    return seen.decode(errors="replace")


def read_until(console: Console, done: Callable[[bytes], bool], timeout_s: float) -> bool:
    """Reads the console until done() or its end; at the timeout closes it and returns False."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        with suppress(OstlerError):
            console.close()

    timer = threading.Timer(timeout_s, stop)
    timer.start()
    try:
        while data := console.read():
            if done(data):
                return True
    finally:
        timer.cancel()
    return not late.is_set()


def open_bench(name: str, context: DriverContext, setup: Setup) -> Bench:
    """Raises ConfigError."""
    driver = registry.load_for(name, context)
    return Bench(name, driver, context, setup, driver.probe(context))
