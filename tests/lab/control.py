"""The lab's control plane: a process of the root namespace that listens on the lab bridge's address."""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ostler_common.tls import TlsFiles

from tests.lab.host import environment, wait_for
from tests.lab.network import Network

MAIN_PORT, ENROLL_PORT = 8440, 8441


@dataclass
class Control:
    """A control plane whose files are all in `directory`. It dies with the process that starts it if `attached`.

    settings: of its configuration, as variables of the environment.
    """

    directory: Path
    network: Network
    attached: bool = True
    process: subprocess.Popen[bytes] | None = None
    main_port: int = MAIN_PORT
    enroll_port: int = ENROLL_PORT
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def log_path(self) -> Path:
        return self.directory / "control.log"

    @property
    def address(self) -> str:
        return f"{self.network.gateway}:{self.main_port}"

    @property
    def profile(self) -> Path:
        """The CLI profile of the first admin."""
        return self.directory / ".config" / "ostler" / "profile.toml"

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return environment(
            {
                "HOME": str(self.directory),
                "OSTLER_CONTROL_STATE_DIR": str(self.state_dir),
                "OSTLER_CONTROL_LISTEN": self.address,
                "OSTLER_CONTROL_ENROLL_LISTEN": f"{self.network.gateway}:{self.enroll_port}",
                "OSTLER_CONTROL_METRICS_LISTEN": "127.0.0.1:0",
                "OSTLER_CONTROL_ADVERTISE_ADDRESS": self.network.gateway,
                "OSTLER_PROFILE": str(self.profile),
                "PATH": f"{Path(sys.executable).parent}:{environment()['PATH']}",
                **self.settings,
                **(extra or {}),
            }
        )

    def init(self) -> str:
        """Makes the state directory, the CAs and the first admin's profile; answers with what was printed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return self._run([sys.executable, "-m", "ostler_control.main", "init"])

    def start(self, extra: Mapping[str, str] | None = None) -> None:
        """Starts the control plane and waits until it answers its admin."""
        argv = ["setpriv", "--pdeathsig", "KILL"] if self.attached else []
        with open(self.log_path, "ab") as log:
            process = subprocess.Popen(
                [*argv, sys.executable, "-m", "ostler_control.main", "run"],
                env=self.environment(extra),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[self.network.lock_fd],
            )
        self.process = process
        wait_for(lambda: process.poll() is not None or self._answers(), "the control plane", 60, 0.2)
        if process.poll() is not None:
            raise RuntimeError(f"the control plane ended: {self.log()}")

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """Ends it, with SIGKILL as if it had crashed."""
        if self.process:
            self.process.send_signal(sig)
            self.process.wait(30)
            self.process = None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def threads(self) -> str:
        """What each of its threads does now."""
        assert self.process is not None
        size = self.log_path.stat().st_size
        self.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: self.log_path.stat().st_size > size, "the threads")
        return self.log_path.read_bytes()[size:].decode(errors="replace")

    def ostler(self, *argv: str, check: bool = True, timeout_s: float = 120) -> str:
        """What `ostler ARGV` prints, as the first admin; raises `CalledProcessError` with its stderr as a note."""
        return self._run([str(Path(sys.executable).parent / "ostler"), *argv], check, timeout_s)

    def tls(self) -> TlsFiles:
        """The first admin's papers, for a channel of one's own."""
        values = tomllib.loads(self.profile.read_text())
        certificate, key, ca = (self.profile.parent / values[name] for name in ("certificate", "key", "ca"))
        return TlsFiles(certificate, key, ca)

    def _answers(self) -> bool:
        try:
            self.ostler("zone", "list", timeout_s=10)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return False
        return True

    def _run(self, argv: Sequence[str], check: bool = True, timeout_s: float = 120) -> str:
        done = subprocess.run(
            argv,
            env=self.environment(),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            error = subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
            error.add_note(f"{done.stdout}{done.stderr}")
            raise error
        return done.stdout
