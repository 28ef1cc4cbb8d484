"""Machines with real systemd: containers of systemd-nspawn, on one bridge, each with a file system of its own."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import REPOSITORY, wait_for
from tests.lab.network import Network

CACHE = REPOSITORY / ".cache/system"
_BASE = "systemd,systemd-sysv,dbus,iproute2,ca-certificates,python3,python3-venv,bsdutils"
# What the packages depend on, so that installing them needs no network.
_LIBRARIES = "iptables libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils cryptsetup-bin ovmf"


class CommandError(Exception):
    """A command in a machine failed; the message has what it printed."""


@dataclass
class Machine:
    """A booted machine. pid: its systemd, as this machine numbers it."""

    name: str
    root: Path
    pid: int
    process: subprocess.Popen[bytes]

    def run(self, script: str, timeout_s: float = 120) -> str:
        """Runs shell commands as root would at a terminal; returns what they print. Raises CommandError."""
        argv = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        home = {
            "HOME": "/root",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
        }
        home["DEBIAN_FRONTEND"] = "noninteractive"
        done = subprocess.run(
            [*argv, "sh", "-ec", f"cd /root\n{script}"],
            env=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode:
            raise CommandError(f"{self.name}: {script.strip()}\n{done.stdout}")
        return done.stdout

    def is_active(self, unit: str) -> bool:
        """Whether systemd runs the unit."""
        return self.run(f"systemctl is-active {unit} || true").strip() == "active"

    def copy_in(self, path: Path, name: str = "") -> None:
        """Copies a file into root's home directory."""
        shutil.copy2(path, self.root / "root" / (name or path.name))

    def stop(self) -> None:
        """Ends the machine as a power cut does."""
        self.process.kill()
        self.process.wait(30)


@contextlib.contextmanager
def machines(names: Sequence[str], directory: Path, shared: Path) -> Iterator[dict[str, Machine]]:
    """Boots machines that know each other as NAME.example; `shared` is /mnt/san in each of them."""
    base = base_image()
    network = Network.take(directory)
    hosts = "".join(f"{network.address(index)} {name}.example {name}\n" for index, name in enumerate(names, 1))
    running: list[Machine] = []
    mounted: list[Path] = []
    try:
        for index, name in enumerate(names, 1):
            root = _root(base, directory / name)
            mounted.append(root)
            (root / "etc/hostname").write_text(f"{name}\n")
            (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
            # The machines have no network to fetch what is only recommended.
            (root / "etc/apt/apt.conf.d/99-offline").write_text('APT::Install-Recommends "false";\n')
            machine = _boot(name, root, shared, network)
            running.append(machine)
            network.connect(index, machine.pid)
        yield {machine.name: machine for machine in running}
    finally:
        for machine in running:
            machine.stop()
        for root in mounted:
            subprocess.run(["umount", "--lazy", root], check=False)
        network.release()


def _root(base: Path, directory: Path) -> Path:
    """The base image with a layer of its own above it."""
    layers = [directory / part for part in ("upper", "work", "root")]
    for layer in layers:
        layer.mkdir(parents=True)
    options = f"lowerdir={base},upperdir={layers[0]},workdir={layers[1]}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, layers[2]], check=True)
    return layers[2]


def _boot(name: str, root: Path, shared: Path, network: Network) -> Machine:
    # In a PID namespace of its own, and dying with the tests: a container outlives a systemd-nspawn that is killed.
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    argv += ["systemd-nspawn", "--quiet", "--directory", str(root), "--hostname", name]
    argv += ["--machine", f"{name}-{uuid.uuid4().hex[:8]}"]  # a killed machine leaves traces under its name
    # No machined and no unit: this machine may run another init. Hosts make mounts, bridges and VMs of their own.
    argv += ["--register=no", "--keep-unit", "--private-network", "--capability=all", "--boot", "--console=pipe"]
    argv += [f"--bind={shared}:/mnt/san", "--system-call-filter=@mount bpf keyctl add_key"]
    with (root.parent / "boot.log").open("wb") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[network.lock_fd], start_new_session=True
        )
    wait_for(lambda: _systemd_of(process) is not None, f"the start of {name}: {root.parent / 'boot.log'}", 30)
    pid = _systemd_of(process)
    assert pid is not None
    machine = Machine(name, root, pid, process)
    wait_for(lambda: _is_up(machine), f"the boot of {name}: {root.parent / 'boot.log'}", 60, every_s=0.3)
    return machine


def _is_up(machine: Machine) -> bool:
    with contextlib.suppress(CommandError, subprocess.TimeoutExpired):
        return machine.run("systemctl is-system-running || true", 10).strip() in ("running", "degraded")
    return False


def _systemd_of(process: subprocess.Popen[bytes]) -> int | None:
    """The container's first process: the descendant that is number 1 in a PID namespace of its own."""
    if process.poll() is not None:
        raise RuntimeError(f"systemd-nspawn ended with {process.returncode}")
    todo = [process.pid]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if len(numbers) > 1 and numbers[-1] == "1" and os.readlink(f"/proc/{pid}/exe").endswith("/systemd"):
                return pid
            todo += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return None


def base_image() -> Path:
    """A small Debian of this machine's release with systemd and what the packages need; built once."""
    release = _release()
    digest = hashlib.sha256(f"{release} {_BASE} {_LIBRARIES}".encode()).hexdigest()[:16]
    base = CACHE / f"base-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            part = CACHE / f"part-{int(time.time())}"
            shutil.rmtree(part, ignore_errors=True)
            _install_base(part, release)
            part.rename(base)
    return base


def _install_base(root: Path, release: str) -> None:
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)"], check=True, capture_output=True, text=True
    ).stdout.split()
    mirror = targets[0]  # wherever this machine gets its packages
    argv = ["debootstrap", "--variant=minbase", f"--include={_BASE}", release, str(root), mirror]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    # This machine's way to its packages, for this one installation.
    for part in ("sources.list.d", "apt.conf.d", "trusted.gpg.d", "auth.conf.d"):
        shutil.copytree(Path("/etc/apt") / part, root / "etc/apt" / part, dirs_exist_ok=True)
    install = f"apt-get update -q && apt-get install -y -q --no-install-recommends {_LIBRARIES} && apt-get clean"
    argv = ["systemd-nspawn", "--quiet", "--directory", str(root), "--register=no", "--keep-unit", "--pipe"]
    argv += ["--setenv=DEBIAN_FRONTEND=noninteractive", "sh", "-ec", install]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _release() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise RuntimeError("/etc/os-release has no VERSION_CODENAME: is this Debian?")
