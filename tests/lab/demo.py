"""`make demo`: three hosts on this machine, driven by the commands that a user types; `--down` removes them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from tests.lab.guest import guest_image
from tests.lab.host import LOCAL, REPOSITORY, SHARED, Host, wait_for
from tests.lab.lab import Lab, missing

DIRECTORY = REPOSITORY / ".lab"
MARKER = "the-guest-wrote-this-secret"
BOLD, DIM, GREEN, RED, CYAN, RESET = (f"\x1b[{code}m" for code in ("1", "2", "32", "31", "36", "0"))
if not sys.stdout.isatty():
    BOLD = DIM = GREEN = RED = CYAN = RESET = ""


def say(text: str = "") -> None:
    print(text, flush=True)


def fail(text: str) -> NoReturn:
    raise SystemExit(f"{RED}{text}{RESET}\nThe lab runs on for a look: source .lab/env; `make demo-down` removes it.")


class Demo:
    """The scenes, in order. Every command is printed before it runs."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.start = time.monotonic()
        self.scenes = 0

    @contextmanager
    def scene(self, title: str) -> Iterator[None]:
        self.scenes += 1
        begin = time.monotonic()
        say(f"\n{BOLD}{self.scenes}. {title}{RESET}")
        yield
        say(f"{DIM}   ({time.monotonic() - begin:.0f} s){RESET}")

    # -- commands

    def ostler(self, line: str, show: bool = True) -> str:
        """Runs `ostler LINE` as the user would; its output is shown and answered."""
        return self._run("$ ", f"ostler {line}", shlex.split(f"ostler {line}"), self.lab.control.environment(), show)

    def on(self, host: Host, line: str, argv: list[str], env: dict[str, str] | None = None) -> str:
        """Runs a command on a host; `line` is what is printed of it."""
        environment = {**self.lab.control.environment(), **(env or {})}
        return self._run(f"{host.name}# ", line, [*host.enter(), *argv], environment, True)

    def _run(self, prompt: str, line: str, argv: list[str], env: dict[str, str], show: bool) -> str:
        say(f"   {DIM}{prompt}{RESET}{CYAN}{line}{RESET}")
        done = subprocess.run(
            argv, cwd=REPOSITORY, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            fail(f"{done.stdout}{done.stderr}`{line}` failed with exit code {done.returncode}")
        if show:
            for text in done.stdout.rstrip().splitlines():
                say(f"   {text}")
        return done.stdout

    # -- scenes

    def control_plane(self) -> None:
        with self.scene("A control plane: certificate authorities, keys, database and the first admin"):
            say(f"   {DIM}$ {RESET}{CYAN}ostler-control init{RESET}")
            for text in self.lab.control.init().rstrip().splitlines():
                say(f"   {text}")
            say(f"   {DIM}$ {RESET}{CYAN}ostler-control run &{RESET}")
            self.lab.control.start()
            self.ostler("user whoami")

    def hosts(self) -> None:
        with self.scene("Three hosts join: each makes its own key and gets a certificate for a one-time token"):
            self.ostler("zone create lab", show=False)
            self.ostler("cluster create tcg --zone lab --cpu-overcommit 8", show=False)
            for host in self.lab.hosts:
                token = self.ostler("host token tcg -o name", show=False).strip()
                argv = [sys.executable, "-m", "ostler_agent.main", "join", self.lab.network.gateway, "--token", token]
                line = f"ostler-agent join {self.lab.network.gateway} --token {token[:12]}..."
                self.on(host, line, argv, host.agent_environment())
            daemons = "libvirtd & ostler-agent migration-gateway & ostler-agent run &"
            say(f"   {DIM}h1# h2# h3# {RESET}{CYAN}{daemons}{RESET}")
            self.lab.start_libvirt()
            self.lab.start_agents()
            wait_for(lambda: len(self._quiet("host list -o name --state up").split()) == 3, "three hosts UP", 60, 0.3)
            self.ostler("host list")

    def storage(self) -> None:
        with self.scene("Storage: one pool that all hosts reach, one of its own for each"):
            self.ostler(f"pool create shared --type shared-mount-point --path {SHARED} --cluster tcg", show=False)
            for host in self.lab.hosts:
                self.ostler(f"pool create local-{host.name} --type local --path {LOCAL} --host {host.name}", show=False)
            self.ostler("pool list")

    def catalogue(self) -> None:
        with self.scene("A template and offerings: what users choose from"):
            image = guest_image().relative_to(REPOSITORY)
            self.ostler(f"template upload tiny {image}", show=False)
            self.ostler("offering create-service plain --cpus 1 --memory 128MiB", show=False)
            self.ostler("offering create-service secret --cpus 1 --memory 128MiB --encrypt-root", show=False)
            self.ostler("offering create-disk secret-data --encrypt", show=False)
            self.ostler("offering list")

    def deploy(self) -> None:
        with self.scene("Two VMs with encrypted root disks, and a plain one to compare with"):
            waiting = [
                self.ostler(f"vm create {name} --template tiny --offering {offering} --pool shared --no-wait").strip()
                for name, offering in (("web-1", "secret"), ("web-2", "secret"), ("plain-1", "plain"))
            ]
            for operation in waiting:
                self.ostler(f"operation wait {operation}", show=False)
            self.ostler("vm list")

    def secrecy(self) -> None:
        with self.scene("What the disks give away to somebody who steals them"):
            for vm in ("web-1", "plain-1"):
                say(f"   {DIM}guest of {vm}# {RESET}{CYAN}mark {MARKER}{RESET}")
                self.type(vm, f"mark {MARKER}\n", "MARKED")
            files = {vm: self.root_file(vm) for vm in ("web-1", "plain-1")}
            host, path = self.lab.hosts[0], files["web-1"]
            say(f"   {DIM}h1# {RESET}{CYAN}qemu-img info -U {path}{RESET}")
            info = host.run("qemu-img", "info", "-U", path)
            for line in re.sub(r"( *)\[[1-7]\]:\n(\1 +.*\n)*", "", info).splitlines():  # not its unused key slots
                say(f"   {line}")
            if "encrypted: yes" not in info or "format: luks" not in info:
                fail("the root disk of web-1 is not encrypted")
            for vm, file in files.items():
                found = MARKER.encode() in host.outside(file).read_bytes()
                say(f"   the marker is {'there to be read' if found else 'not to be found'} in the file of {vm}")
                if found != (vm == "plain-1"):
                    fail("that is not as it should be")

    def grow(self) -> None:
        with self.scene("A data disk, encrypted, attached and grown while the VM runs"):
            self.ostler("volume create data-1 --offering secret-data --size 64MiB --pool shared", show=False)
            self.ostler("volume attach data-1 web-1", show=False)
            say(f"   the guest sees {self.disks('web-1', 'vdb')}")
            self.ostler("volume grow data-1 192MiB", show=False)
            say(f"   the guest sees {self.disks('web-1', f'vdb BYTES={192 << 20}')}")

    def migrate(self) -> None:
        with self.scene("A live migration over TLS, with the console open: the guest counts on"):
            source = self.host_of("web-1")
            with self.following("web-1") as ticks:
                wait_for(lambda: len(ticks) >= 2, "the console of web-1", 60)
                self.ostler("vm migrate web-1", show=False)
                before = list(ticks)
                wait_for(lambda: len(ticks) >= len(before) + 3, "the console of web-1 on its new host", 60)
            target = self.host_of("web-1")
            say(f"   console, until it had moved from {source} to {target}:  tick {', '.join(map(str, before))}")
            say(f"   and from then on:  tick {', '.join(map(str, ticks[len(before) :]))}")
            if target == source or list(ticks) != sorted(set(ticks)):
                fail("the VM did not move, or started anew")
            self.ostler("event list --type vm.migrate")

    def balance(self) -> None:
        with self.scene("DRS: three more VMs piled on one host, a plan with its reasons, and its live migrations"):
            self.ostler("setting set drs.imbalance 1.0", show=False)
            waiting = [
                self.ostler(
                    f"vm create app-{n} --template tiny --offering plain --pool shared --host h1 --no-wait"
                ).strip()
                for n in (1, 2, 3)
            ]
            for operation in waiting:
                self.ostler(f"operation wait {operation}", show=False)
            self.ostler("drs generate tcg --why")
            plan = self._quiet("drs list --cluster tcg --state under-review -o name").split()[0]
            mover = self._field(f"drs show {plan} -o json", "vm_name")
            with self.following(mover) as ticks:
                wait_for(lambda: len(ticks) >= 2, f"the console of {mover}", 60)
                self.ostler(f"drs execute {plan}")
                before = list(ticks)
                wait_for(lambda: len(ticks) >= len(before) + 2, f"the console of {mover} on its new host", 60)
            say(f"   console of {mover} all the while:  tick {', '.join(map(str, ticks))}")
            if list(ticks) != sorted(set(ticks)):
                fail(f"{mover} started anew")
            self.ostler("drs status tcg")

    # -- looking

    def type(self, vm: str, text: str, answer: str, timeout_s: float = 60) -> str:
        """Types at a VM's console until the answer comes; answers with all that was printed."""
        argv = ["ostler", "vm", "console", vm, "--force", "--duration", str(int(timeout_s))]
        env = self.lab.control.environment()
        with tempfile.TemporaryFile() as errors:
            console = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
            assert console.stdin
            assert console.stdout
            seen = b""
            typed = time.monotonic()
            try:
                os.set_blocking(console.stdout.fileno(), False)
                while not re.search(answer.encode(), seen):
                    data = console.stdout.read(4096)
                    if data == b"" or console.poll() is not None or time.monotonic() - typed > timeout_s:
                        errors.seek(0)
                        fail(f"the console of {vm} did not answer {answer!r}: {seen!r} {errors.read()!r}")
                    seen += data or b""
                    if text and b"tick" in seen:  # its shell is there
                        console.stdin.write(text.encode())
                        console.stdin.flush()
                        text = ""
                    time.sleep(0.05)
            finally:
                console.kill()
                console.wait()
        return seen.decode(errors="replace")

    @contextmanager
    def following(self, vm: str) -> Iterator[list[int]]:
        """A list that grows by what a VM counts on its console, opened anew whenever it breaks off."""
        ticks: list[int] = []
        over = threading.Event()
        argv = ["ostler", "vm", "console", vm, "--force", "--duration", "120"]

        def read() -> None:
            while not over.is_set():
                with subprocess.Popen(
                    argv,
                    env=self.lab.control.environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                ) as console:
                    assert console.stdout
                    for line in console.stdout:
                        if found := re.search(rb"tick (\d+)", line):
                            ticks.append(int(found[1]))
                        if over.is_set():
                            console.kill()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield ticks
        finally:
            over.set()
            reader.join()

    def disks(self, vm: str, expected: str) -> str:
        found = re.search(rf"DISK={expected}[^\r\n]*", self.type(vm, "disks\n", rf"DISK={expected}[^\r\n]*\r?\n"))
        return found[0] if found else ""

    def host_of(self, vm: str) -> str:
        return self._field(f"vm show {vm} -o json", "host_name")

    def root_file(self, vm: str) -> str:
        """Path of a VM's root disk on its hosts."""
        volume = re.search(r'"volume_id": "([^"]+)"', self._quiet(f"vm show {vm} -o json"))
        return self._field(f"volume show {volume[1] if volume else ''} -o json", "path")

    def _field(self, line: str, name: str) -> str:
        found = re.search(rf'"{name}": "([^"]*)"', self._quiet(line))
        return found[1] if found else ""

    def _quiet(self, line: str) -> str:
        return self.lab.control.ostler(*shlex.split(line))


def main() -> None:
    if reason := missing():
        raise SystemExit(f"{reason}.")
    Lab.destroy_detached(DIRECTORY)
    if sys.argv[1:] == ["--down"]:
        say("The lab is gone.")
        return
    begin = time.monotonic()
    demo = Demo(Lab.boot(3, DIRECTORY, detached=True))
    write_environment(demo.lab)
    for scene in (
        demo.control_plane,
        demo.hosts,
        demo.storage,
        demo.catalogue,
        demo.deploy,
        demo.secrecy,
        demo.grow,
        demo.migrate,
        demo.balance,
    ):
        scene()
    say(f"\n{GREEN}{BOLD}All of this took {time.monotonic() - begin:.0f} s. It is yours now:{RESET}\n")
    say(HAND_OVER)


HAND_OVER = """\
   source .lab/env                      # puts `ostler` and its profile at hand
   ostler vm list
   ostler vm console web-1              # Ctrl-] disconnects
   ostler vm hosts web-1                # where it could run, and why not elsewhere
   ostler vm create web-3 --template tiny --offering secret
   ostler vm migrate web-3
   ostler drs status tcg                # and: ostler host maintenance enter h2
   ostler event list
   make demo-down                       # removes all of it
"""


def write_environment(lab: Lab) -> None:
    """.lab/env: for a shell that wants to use the demo's fleet."""
    lines = [
        f"export OSTLER_PROFILE={shlex.quote(str(lab.control.profile))}",
        f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
    ]
    (DIRECTORY / "env").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
