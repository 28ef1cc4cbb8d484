"""cryptsetup: writes and reads LUKS headers. QEMU opens them itself, without device-mapper."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ostler_common.secret import Secret

from ostler_agent.process import run

MIN_ITERATIONS = 1000  # cryptsetup's minimum; a random 256-bit passphrase needs no stretching


@dataclass(frozen=True)
class LuksHeader:
    """A LUKS1 header as luksDump prints it. active_slots: number of passphrases that open it."""

    version: int
    cipher: str
    uuid: str
    active_slots: int


def luks_format(path: Path, passphrase: Secret) -> None:
    """Writes a LUKS1 header to a file or device; destroys its content. Raises RunError."""
    # --key-file=- reads all of stdin; without it, a newline would end the passphrase.
    flags = ["--batch-mode", "--type", "luks1", "--key-file=-", "--pbkdf-force-iterations", str(MIN_ITERATIONS)]
    run(["cryptsetup", "luksFormat", *flags, path], stdin=passphrase, timeout_s=120)


def is_luks(path: Path) -> bool:
    """Whether the file or device has a LUKS header."""
    return run(["cryptsetup", "isLuks", path], check=False, timeout_s=30).exit_code == 0


def luks_dump(path: Path) -> LuksHeader:
    """Reads a LUKS1 header. Raises RunError if there is none."""
    return parse_luks_dump(run(["cryptsetup", "luksDump", path], timeout_s=30).stdout)


def parse_luks_dump(text: str) -> LuksHeader:
    fields = dict(re.findall(r"^([^:\n]+):[ \t]*(\S+)", text, re.MULTILINE))
    return LuksHeader(
        version=int(fields["Version"]),
        cipher=f"{fields['Cipher name']}-{fields['Cipher mode']}",
        uuid=fields["UUID"],
        active_slots=len(re.findall(r"^Key Slot \d+: ENABLED", text, re.MULTILINE)),
    )
