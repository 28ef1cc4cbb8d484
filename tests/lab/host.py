"""One hypervisor host of the lab: namespaces, directories and daemons of its own on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ostler_agent.migration import admissions
from ostler_agent.migration.admissions import Admissions, Source

from tests import quick_keys
from tests.lab.network import Network

REPOSITORY = Path(__file__).resolve().parents[2]
AGENT_PORT = 8442
GATEWAY_PORT = 16514
# Installed in the environment; those of this tree go before them.
DRIVERS = ("tests/plugins/ostler-qemu-driver", "tests/plugins/ostler-nspawn-driver")
DRIVER_OPTIONS = {"libvirt": {"domain_type": "qemu"}, "qemu": {"accel": "tcg"}, "nspawn": {}}
# What each host has for itself.
DIRECTORIES = (
    "/run",
    "/etc/libvirt",
    "/etc/pki",
    "/etc/ostler",
    "/var/lib/libvirt",
    "/var/lib/ostler",
    "/var/log/libvirt",
    "/var/cache/libvirt",
    "/dev/disk/by-id",
    "/dev/ostler",
)
SHARED = "/var/lib/ostler/shared"  # every host sees the same files here
LOCAL = "/var/lib/ostler/pool"  # each host sees its own here

LIBVIRTD_CONF = """\
host_uuid = "{host_uuid}"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "2:stderr"
"""

QEMU_CONF = """\
cgroup_controllers = [ ]
security_driver = "none"
user = "root"
group = "root"
remember_owner = 0
namespaces = [ ]
stdio_handler = "file"
swtpm_user = "root"
swtpm_group = "root"
"""


def wait_for(
    condition: Callable[[], object],
    what: str,
    timeout_s: float = 30,
    every_s: float = 0.05,
    found: Callable[[], str] = str,
) -> None:
    """Waits until a condition holds; raises `TimeoutError` when it does not in time. The error has `what` was waited
    for and what is `found` instead."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout_s} s {found()}".rstrip())
        time.sleep(every_s)


@dataclass
class Host:
    """A host. Made by `Lab`; `name` is h1, h2, ..., `root` holds its private directories.

    driver: what its agent drives VMs with.
    """

    name: str
    index: int
    network: Network
    root: Path
    shared: Path
    attached: bool = True  # dies with the process that made it
    driver: str = "libvirt"
    host_uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def address(self) -> str:
        return self.network.address(self.index)

    @property
    def agent_address(self) -> str:
        return f"{self.address}:{AGENT_PORT}"

    @property
    def libvirt_uri(self) -> str:
        """libvirt's address of this host as seen from the root namespace."""
        return f"qemu:///system?socket={self.root}/run/libvirt/libvirt-sock"

    def outside(self, path: str) -> Path:
        """Where the root namespace sees a path of this host."""
        if path == SHARED or path.startswith(f"{SHARED}/"):
            return Path(f"{self.shared}{path.removeprefix(SHARED)}")
        return Path(f"{self.root}{path}")

    # -- the machine

    def boot(self) -> None:
        """Makes the namespaces, the directories and the network; starts no daemon."""
        self._furnish()
        (self.root / "ready").unlink(missing_ok=True)
        # setpriv: whoever made the host takes it along, even when killed; --kill-child: so down to PID 1 and all of it.
        argv = ["setpriv", "--pdeathsig", "KILL"] if self.attached else []
        argv += ["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
        binds = [f"{self.root}{path}:{path}" for path in (*DIRECTORIES, "/etc/hosts")] + [f"{self.shared}:{SHARED}"]
        argv += [sys.executable, "-m", "tests.lab.init", self.name, str(self.root / "ready"), *binds]
        with open(self.root / "init.log", "wb") as log:
            holder = subprocess.Popen(
                argv,
                cwd=REPOSITORY,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[self.network.lock_fd],
            )
        wait_for(lambda: (self.root / "ready").exists() or holder.poll() is not None, f"boot of {self.name}")
        if holder.poll() is not None:
            raise RuntimeError(f"{self.name} did not boot: {(self.root / 'init.log').read_text()}")
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        (self.root / "pid").write_text(children[0])
        self.network.connect(self.index, self.pid)

    @property
    def pid(self) -> int:
        """The host's PID 1, as the root namespace numbers it."""
        return int((self.root / "pid").read_text())

    @property
    def booted(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return False
        return True

    def kill(self) -> None:
        """Pulls the plug: every process of the host dies at once. Its disks stay."""
        if not self.booted:
            return
        os.kill(self.pid, signal.SIGKILL)
        try:
            wait_for(lambda: not self._namespace_alive(), f"death of {self.name}")
        finally:
            subprocess.run(["ip", "link", "delete", self.network.port(self.index)], check=False, capture_output=True)

    def cut(self) -> None:
        """Unplugs the host's network: it runs on unseen."""
        self.network.cut(self.index)

    def mend(self) -> None:
        """Plugs the network in again."""
        self.network.mend(self.index)

    # -- commands in it

    def enter(self) -> list[str]:
        """The words before a command that runs on the host."""
        return ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--net", "--pid"]

    def run(self, *argv: str, env: Mapping[str, str] | None = None, timeout_s: float = 120) -> str:
        """Runs a command on the host and answers with its output; raises `CalledProcessError` with its stderr."""
        done = subprocess.run(
            [*self.enter(), *argv],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment(env),
            timeout=timeout_s,
            check=False,
        )
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
            error.add_note(f"on {self.name}: {done.stdout}{done.stderr}")
            raise error
        return done.stdout

    def virsh(self, *argv: str) -> str:
        return self.run("virsh", "--quiet", "--connect", "qemu:///system", *argv)

    def start_daemon(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Starts a daemon as a child of the host's PID 1, its output in /run/NAME.log, its number in /run/NAME.pid."""
        script = 'echo $$ >"/run/$0.pid"; exec "$@" >>"/run/$0.log" 2>&1 </dev/null'
        number = self.outside(f"/run/{name}.pid")
        number.unlink(missing_ok=True)  # of an earlier life
        # Twice over, so that the daemon is an orphan and nobody in the root namespace has to reap it.
        self.run("sh", "-c", f"setsid sh -c '{script}' \"$@\" >/dev/null 2>&1 &", "sh", name, *argv, env=env)
        wait_for(lambda: number.exists() and number.read_text() and self.log(name) is not None, f"start of {name}")

    def log(self, name: str) -> str | None:
        """What a daemon printed; None when it was never started."""
        try:
            return self.outside(f"/run/{name}.log").read_text(errors="replace")
        except FileNotFoundError:
            return None

    def daemon_alive(self, name: str) -> bool:
        return self.booted and bool(self._signal(name, "0"))

    def stop_daemon(self, name: str, sig: str = "TERM", timeout_s: float = 20) -> None:
        """Sends a signal that ends a daemon and waits for its end; one that does not run is fine."""
        if self._signal(name, sig):
            wait_for(lambda: not self.daemon_alive(name), f"end of {name} on {self.name}", timeout_s)

    def freeze_daemon(self, name: str) -> None:
        """SIGSTOP: it is there and says nothing."""
        self._signal(name, "STOP")

    def thaw_daemon(self, name: str) -> None:
        self._signal(name, "CONT")

    # -- libvirt

    def start_libvirt(self) -> None:
        """Starts libvirtd and waits until it answers."""
        self.run(sys.executable, "-m", "ostler_agent.main", "mount-key-directory")
        self.start_daemon("libvirtd", ["libvirtd"])
        try:
            wait_for(self._libvirt_answers, f"libvirtd of {self.name}", 60, 0.2)
        except TimeoutError as error:
            error.add_note(f"{self.log('libvirtd')}")
            raise

    def reaches_libvirt(self, target: Host, query: str = "") -> bool:
        """Whether a client on this host opens libvirt on another one over the network; query: of libvirt's URI."""
        virsh = ("virsh", "--connect", f"qemu+tls://{target.address}/system{query}", "hostname")
        try:
            return self.run(*virsh, timeout_s=20).strip() == target.name
        except subprocess.CalledProcessError:
            return False

    def stop_libvirt(self, sig: str = "TERM") -> None:
        """Ends libvirtd; VMs run on."""
        self.stop_daemon("libvirtd", sig)

    # -- the migration gateway

    def start_gateway(self) -> None:
        """Starts the migration gateway unless it runs, and waits until it listens. The host must have credentials."""
        if self._gateway_listens():
            return
        argv = [sys.executable, "-m", "ostler_agent.main", "migration-gateway"]
        self.start_daemon("gateway", argv, self.agent_environment())
        wait_for(lambda: self._gateway_listens() or not self.daemon_alive("gateway"), f"gateway of {self.name}", 60)
        if not self.daemon_alive("gateway"):
            raise RuntimeError(f"the gateway of {self.name} ended: {self.log('gateway')}")

    def admit(self, source_id: str, for_s: float = 3600) -> str:
        """Admits a host as the source of a migration, as its agent does; answers with the VM's id for `expel`."""
        vm_id = str(uuid.uuid4())
        self._admissions.admit(vm_id, Source(source_id, for_s))
        return vm_id

    def expel(self, vm_id: str) -> None:
        """Ends an admission, as the agent does when the migration has ended."""
        self._admissions.remove(vm_id)

    @property
    def _admissions(self) -> Admissions:
        return Admissions(self.outside(str(admissions.DIRECTORY)))

    # -- the agent

    def agent_environment(self) -> dict[str, str]:
        return {
            "OSTLER_AGENT_LISTEN": self.agent_address,
            "OSTLER_AGENT_ADDRESS": self.agent_address,
            "OSTLER_AGENT_DRIVER": self.driver,
            "OSTLER_AGENT_DRIVER_OPTIONS": json.dumps(DRIVER_OPTIONS[self.driver]),
        }

    def join(self, control_address: str, token: str) -> None:
        """Joins the fleet: the agent gets its certificate and puts libvirt's TLS files in place."""
        argv = [sys.executable, "-m", "ostler_agent.main", "join", control_address, "--token", token]
        self.run(*argv, env=self.agent_environment())

    def start_agent(self, env: Mapping[str, str] | None = None) -> None:
        """Starts the agent, and beside it migration gateway and guardian of a libvirt host, as their units do."""
        if self.driver == "libvirt":
            self.start_gateway()
            self.start_guardian()
        argv = [sys.executable, "-m", "ostler_agent.main", "run"]
        self.start_daemon("agent", argv, {**self.agent_environment(), **(env or {})})
        wait_for(lambda: self.agent_listens() or not self.daemon_alive("agent"), f"agent of {self.name}", 60)
        if not self.daemon_alive("agent"):
            raise RuntimeError(f"the agent of {self.name} ended: {self.log('agent')}")

    def stop_agent(self, sig: str = "TERM") -> None:
        """Ends the agent, with KILL as if it had crashed; VMs run on."""
        self.stop_daemon("agent", sig)

    def agent_listens(self) -> bool:
        """Whether something listens on the agent's port."""
        return self._listens(AGENT_PORT)

    def _gateway_listens(self) -> bool:
        return self._listens(GATEWAY_PORT)

    def _listens(self, port: int) -> bool:
        return bool(self.run("ss", "-Hltn", f"sport = :{port}"))

    def start_guardian(self) -> None:
        """Starts the guardian unless it runs. It does nothing until it is asked to."""
        if not self.daemon_alive("guardian"):
            self.start_daemon("guardian", [sys.executable, "-m", "ostler_agent.main", "guardian"])

    # -- inside

    def _furnish(self) -> None:
        for path in (*DIRECTORIES, LOCAL, SHARED, "/run/lock", "/run/ostler/consoles"):
            Path(f"{self.root}{path}").mkdir(parents=True, exist_ok=True)
        for path in DIRECTORIES:
            Path(path).mkdir(parents=True, exist_ok=True)  # an empty place to mount on
        libvirt = self.outside("/etc/libvirt")
        if not (libvirt / "libvirtd.conf").exists():
            shutil.copytree("/etc/libvirt", libvirt, dirs_exist_ok=True, ignore=shutil.ignore_patterns("qemu"))
            (libvirt / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(host_uuid=self.host_uuid))
            (libvirt / "qemu.conf").write_text(QEMU_CONF)
        names = [f"{self.network.address(i)} h{i}" for i in range(1, 20)]
        hosts = ["127.0.0.1 localhost", f"{self.network.gateway} control", *names]
        self.outside("/etc/hosts").write_text("\n".join(hosts) + "\n")

    def _libvirt_answers(self) -> bool:
        if not self.daemon_alive("libvirtd"):
            raise RuntimeError(f"libvirtd of {self.name} ended: {self.log('libvirtd')}")
        virsh = [*self.enter(), "virsh", "--connect", "qemu:///system", "version"]
        return subprocess.run(virsh, capture_output=True, check=False).returncode == 0

    def _signal(self, name: str, sig: str) -> bool:
        script = f'p=$(cat /run/{name}.pid) && kill -{sig} "$p"'
        return subprocess.run([*self.enter(), "sh", "-c", script], capture_output=True, check=False).returncode == 0

    def _namespace_alive(self) -> bool:
        """Whether PID 1 is there; the kernel lets it go only after every other process of its namespace."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state not in "ZX"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a lab process has for an environment: little, and this tree before any other."""
    tree = os.pathsep.join(str(REPOSITORY / part) for part in ("common", "agent", "control", ".", *DRIVERS))
    path = (*quick_keys.in_use(), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
    return {
        "PATH": os.pathsep.join(path),
        "LANG": "C.UTF-8",
        "PYTHONPATH": tree,
        "PYTHONUNBUFFERED": "1",
        **(extra or {}),
    }


__all__ = ["AGENT_PORT", "LOCAL", "SHARED", "Host", "environment", "wait_for"]
