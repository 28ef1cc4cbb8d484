"""A VM's keeper: the process that holds a container, whatever becomes of the agent.

`python -m ostler_nspawn_driver.keeper DIRECTORY` starts the VM whose definition is in the directory, and writes the
result to the file `answer`, as JSON: {} or {"reason": ..., "message": ...}. The keeper goes on in the background:

- It holds a lock on the file `keeper`, which has its process id. So a VM runs if and only if its file is locked.
- It locks and mounts the images, in a mount namespace of its own, and joins the network interfaces to their bridges.
- systemd-nspawn is its child, in a process namespace of its own: the container ends with systemd-nspawn, and that
  with the keeper. The kernel sees to it, also after SIGKILL.
- SIGTERM asks the container to power off; SIGINT ends it. A disk without an operating system does what it does in a
  PC: a message, and a machine that waits to be switched off.
- At the end it writes to `ended` how: "power-off", or "exit-code-N" or "signal-NAME".
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ostler_nspawn_driver import cgroups, images
from ostler_nspawn_driver.console_server import ConsoleServer
from ostler_nspawn_driver.definition import FILE, Disk, Nic, from_json

KEEPER, ANSWER, ENDED, CONSOLE = "keeper", "answer", "ended", "console"
OWN_BYTES = 16 << 20  # what a keeper needs itself, about
POWER_OFF = "power-off"
_PREDECESSOR_TIMEOUT_S = 5.0
_END_TIMEOUT_S = 10.0
POWER_OFF_SIGNAL = signal.SIGRTMIN + 3  # systemd(1)
_NO_SYSTEM = b"\r\nNo operating system on the first disk.\r\n"


class StartError(Exception):
    """Why a VM does not start."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def main() -> int:
    directory = Path(sys.argv[1])
    result, answer = os.pipe()
    if os.fork() == 0:
        os.close(result)
        os.setsid()
        _run(directory, answer)
        os._exit(0)
    os.close(answer)
    with open(result, "rb") as pipe:
        text = pipe.read() or b'{"reason": "HYPERVISOR_ERROR", "message": "the keeper died"}'
    (directory / ANSWER).write_bytes(text)
    return 0


def _run(directory: Path, answer: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(directory / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number, descriptor in ((0, null), (1, null), (2, log)):
        os.dup2(descriptor, number)
    error: dict[str, str] = {}
    try:
        Keeper(directory).keep(on_started=lambda: _answer(answer, {}))
    except StartError as problem:
        error = {"reason": problem.reason, "message": str(problem)}
    except OSError as problem:
        error = {"reason": "HYPERVISOR_ERROR", "message": str(problem)}
    if error:
        with suppress(OSError):  # it was answered already
            _answer(answer, error)


def _answer(pipe: int, message: dict[str, str]) -> None:
    os.write(pipe, json.dumps(message).encode())
    os.close(pipe)


class Keeper:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._definition = from_json((directory / FILE).read_bytes())
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._switched_off = False

    def keep(self, on_started: Callable[[], None]) -> None:
        """Starts the VM and returns at its end. Raises StartError, OSError."""
        vm = self._definition
        lock = self._lock_directory()
        (self._directory / ENDED).unlink(missing_ok=True)
        for number, handler in ((signal.SIGTERM, self._ask), (signal.SIGINT, self._switch_off)):
            signal.signal(number, handler)
        console = ConsoleServer(self._directory, CONSOLE)
        ended = POWER_OFF
        try:
            disks = [_lock(disk) for disk in vm.disks]
            entries = cgroups.create(vm.vm_id, vm.cpus, vm.memory_bytes)
            images.own_mounts()
            if self._mount_root():
                for nic in vm.nics:
                    _join(nic)
                self._nspawn = self._spawn(console.terminal, disks, entries)
            else:
                console.say(_NO_SYSTEM)
            os.write(lock, b" running")
            on_started()
            ended = console.serve(self._ended)
        finally:
            self._clear()
            console.close()
            (self._directory / ENDED).write_text(ended)

    # -- start

    def _lock_directory(self) -> int:
        file = os.open(self._directory / KEEPER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _PREDECESSOR_TIMEOUT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StartError("VM_RUNNING", "the VM runs already") from None
                time.sleep(0.05)
                continue
            os.ftruncate(file, 0)
            os.write(file, str(os.getpid()).encode())
            return file

    @property
    def _root(self) -> Path:
        return self._directory / "root"

    def _mount_root(self) -> bool:
        """Mounts the disks; False if the first has no operating system."""
        first, *others = self._definition.disks or (None,)
        if first is None or not images.mount(first.path, self._root) or not images.is_operating_system(self._root):
            return False
        for slot, disk in enumerate(others, 1):
            images.mount(disk.path, self._data(slot))
        return True

    def _data(self, slot: int) -> Path:
        return self._directory / f"disk{slot}"

    def _spawn(self, terminal: int, disks: list[int], entries: list[Path]) -> subprocess.Popen[bytes]:
        command = ["unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
        command += ["systemd-nspawn", "--boot", f"--directory={self._root}", *self._options()]

        def prepare() -> None:
            # With the keeper, not after it; and within its limits from the first instruction.
            images.die_with_parent()
            for entry in entries:
                entry.write_text("0")

        return subprocess.Popen(
            command,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            pass_fds=disks,  # an image stays locked until systemd-nspawn has ended, too
            start_new_session=True,
            preexec_fn=prepare,
        )

    def _options(self) -> list[str]:
        vm = self._definition
        options = [f"--machine=o{vm.vm_id.replace('-', '')}", f"--uuid={vm.vm_id.replace('-', '')}"]
        options += [f"--hostname={hostname(vm.name)}", "--console=interactive"]
        # The container's root is nobody on the host; files keep their owners by mapping.
        options += ["--private-users=pick", "--private-users-ownership=auto", "--private-network"]
        # Nothing of the host, and nothing that the image says about its own container.
        options += ["--settings=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off"]
        options += ["--register=no", "--keep-unit"]
        options += [f"--network-interface={nic.interface}" for nic in vm.nics]
        for slot in range(1, len(vm.disks)):
            if os.path.ismount(self._data(slot)):
                options.append(f"--bind={self._data(slot)}:/mnt/disk{slot}:idmap")
        return options

    # -- end

    def _ask(self, *_: object) -> None:
        """Asks the container's init to power off."""
        if self._nspawn:
            with suppress(OSError, IndexError):
                nspawn = images.children(self._nspawn.pid)[0]
                os.kill(images.children(nspawn)[0], POWER_OFF_SIGNAL)

    def _switch_off(self, *_: object) -> None:
        self._switched_off = True

    def _ended(self) -> str | None:
        """How the VM ended; None while it runs."""
        if self._switched_off:
            return POWER_OFF
        code = self._nspawn.poll() if self._nspawn else None
        if code is None:
            return None
        if code == 0:
            return POWER_OFF
        # unshare exits with 128 + N for a signal.
        number = -code if code < 0 else code - 128
        return f"signal-{signal.Signals(number).name}" if 0 < number < signal.NSIG else f"exit-code-{code}"

    def _clear(self) -> None:
        if self._nspawn and self._nspawn.poll() is None:
            with suppress(OSError):  # it has just ended
                for pid in images.children(self._nspawn.pid):
                    os.kill(pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._nspawn.wait(_END_TIMEOUT_S)
        for nic in self._definition.nics:
            leave(nic)
        cgroups.remove(self._definition.vm_id)


def hostname(name: str) -> str:
    """A host name for a VM's name (hostname(7))."""
    kept = "".join(character if character.isascii() and character.isalnum() else "-" for character in name)
    return kept.strip("-")[:63].rstrip("-") or "container"


def _lock(disk: Disk) -> int:
    try:
        return images.lock(disk.path)
    except images.DiskInUseError:
        message = f"volume {disk.volume_id} is in use by another process (stop the VM that has it first)"
        raise StartError("DISK_IN_USE", message) from None
    except FileNotFoundError:
        message = f"{disk.path} does not exist (is the volume's pool mounted?)"
        raise StartError("VOLUME_MISSING", message) from None


def _join(nic: Nic) -> None:
    """Makes an interface of a container: one end in the bridge, the other for systemd-nspawn to move.

    Raises StartError.
    """
    leave(nic)
    host = f"{nic.interface}h"
    for command in (
        ["link", "add", host, "type", "veth", "peer", "name", nic.interface, "address", nic.mac],
        ["link", "set", "dev", host, "master", nic.bridge, "up"],
    ):
        done = subprocess.run(["ip", *command], capture_output=True, timeout=_END_TIMEOUT_S, check=False)
        if done.returncode:
            raise StartError("HYPERVISOR_ERROR", f"ip {' '.join(command)}: {done.stderr.decode().strip()}")


def leave(nic: Nic) -> None:
    """Deletes what an interface left on the host."""
    command = ["ip", "link", "del", f"{nic.interface}h"]
    subprocess.run(command, capture_output=True, timeout=_END_TIMEOUT_S, check=False)


if __name__ == "__main__":
    sys.exit(main())
