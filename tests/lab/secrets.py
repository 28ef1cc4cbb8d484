"""The search for passphrases where none may be: argument lists, environments, files."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import sqlite3
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path

from ostler_common.errors import OstlerError
from ostler_control.keys import FileProvider
from ostler_control.state_dir import StateDir

from tests.lab.lab import Lab

SAMPLE_S = 0.25


class Watch:
    """Remembers every passphrase there has been, and looks at all processes of the machine while it runs."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.passphrases: dict[str, bytes] = {}  # by the key's id
        self.processes: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def remember(self) -> None:
        """Learns the passphrases that the control plane has now, by unsealing its rows."""
        state = StateDir(self._lab.control.state_dir)
        provider = FileProvider(state.kek)
        with contextlib.closing(sqlite3.connect(f"file:{state.database}?mode=ro", uri=True, timeout=30)) as database:
            rows = database.execute(
                "SELECT id, kek_id, sealed, bound_id FROM passphrase WHERE id IN (SELECT passphrase_id FROM volume"
                " UNION SELECT passphrase_id FROM snapshot UNION SELECT passphrase_id FROM backup_disk"
                " UNION SELECT passphrase_id FROM vm_snapshot_memory"
                " UNION SELECT passphrase_id FROM volume_file"
                " WHERE role NOT IN ('export', 'upload'))"  # which somebody chose
            ).fetchall()
        for key_id, kek_id, sealed, bound_id in rows:
            self.passphrases[key_id] = provider.open(kek_id, sealed, bound_id.encode()).reveal()

    def key_of(self, file_id: str) -> bytes:
        """The passphrase of a file of a volume, a snapshot or a backup."""
        self.remember()
        database_path = StateDir(self._lab.control.state_dir).database
        with contextlib.closing(sqlite3.connect(f"file:{database_path}?mode=ro", uri=True, timeout=30)) as database:
            ((key_id,),) = database.execute(
                "SELECT passphrase_id FROM volume WHERE file_id = :id UNION SELECT passphrase_id FROM snapshot"
                " WHERE id = :id UNION SELECT passphrase_id FROM backup_disk WHERE id = :id"
                " UNION SELECT passphrase_id FROM vm_snapshot_memory WHERE id = :id",
                {"id": file_id},
            ).fetchall()
        return self.passphrases[key_id]

    def found(self) -> list[str]:
        """Where a passphrase was seen in an argument list or an environment, or is in a file of the lab now."""
        needles = [form for passphrase in tuple(self.passphrases.values()) for form in guises(passphrase)]
        if not needles:
            return []
        # A copy: the thread that samples goes on adding.
        processes = [f"a process: {len(text)} bytes" for text in tuple(self.processes) if found_in(needles, text)]
        return processes + [str(path) for path in files_holding(needles, self._lab.directory)]

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            with contextlib.suppress(sqlite3.OperationalError, OstlerError):  # no database or key (any more)
                self.remember()
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        self.processes.add((process / name).read_bytes())
                    except OSError:
                        continue


def guises(passphrase: bytes) -> list[bytes]:
    """The forms in which a passphrase might be written down: raw, base64 at each alignment, hex, what it encodes."""
    forms = [passphrase, passphrase.hex().encode(), base64.b64decode(passphrase)]
    forms.append(base64.b64decode(passphrase).hex().encode())
    for shift in range(3):
        # Only the characters that the neighbours cannot change.
        text = base64.b64encode(b"\0" * shift + passphrase)
        forms.append(text[(shift * 8 + 5) // 6 : (shift + len(passphrase)) * 8 // 6])
    return forms


def found_in(needles: Iterable[bytes], haystack: bytes) -> bool:
    return any(needle in haystack for needle in needles)


def files_holding(needles: list[bytes], directory: Path) -> list[Path]:
    """The regular files below a directory in which any of the needles is.

    Files may come and go meanwhile. grep looks for all needles at once; Python takes minutes for what a lab leaves.
    """
    # grep's patterns and, with -z, its lines end at these bytes.
    patterns = [max(re.split(b"[\n\0]", needle), key=len) for needle in needles]
    command = ["grep", "-rlazF", "--file=-", "--", str(directory)]
    done = subprocess.run(
        command, input=b"\n".join(patterns), capture_output=True, env={**os.environ, "LC_ALL": "C"}, check=False
    )
    problems = [line for line in done.stderr.decode().splitlines() if "No such file or directory" not in line]
    if problems or done.returncode not in (0, 1, 2):
        raise RuntimeError(f"grep ended with {done.returncode}: {problems}")
    return [Path(line) for line in done.stdout.decode().splitlines()]
