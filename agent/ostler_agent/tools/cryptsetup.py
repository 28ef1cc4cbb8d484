"""cryptsetup: writes and reads LUKS headers; opening (which needs device-mapper) is QEMU's business."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ostler_common.secret import Secret

from ostler_agent.process import run

MIN_ITERATIONS = 1000  # the least that cryptsetup accepts; a random 256-bit passphrase needs no stretching


@dataclass(frozen=True)
class LuksHeader:
    """What luksDump prints of a LUKS1 header. active_slots: how many passphrases open it."""

    version: int
    cipher: str
    uuid: str
    active_slots: int


def luks_format(path: Path, passphrase: Secret) -> None:
    """Writes a LUKS1 header on a file or device: what was there is lost. Raises RunError."""
    # The key comes by stdin with --key-file=-: without it a newline would end the passphrase.
    flags = ["--batch-mode", "--type", "luks1", "--key-file=-", "--pbkdf-force-iterations", str(MIN_ITERATIONS)]
    run(["cryptsetup", "luksFormat", *flags, path], stdin=passphrase, timeout_s=120)


def is_luks(path: Path) -> bool:
    """Whether there is a LUKS header."""
    return run(["cryptsetup", "isLuks", path], check=False, timeout_s=30).exit_code == 0


def luks_dump(path: Path) -> LuksHeader:
    """Reads a LUKS1 header. Raises RunError when there is none."""
    return parse_luks_dump(run(["cryptsetup", "luksDump", path], timeout_s=30).stdout)


def parse_luks_dump(text: str) -> LuksHeader:
    fields = dict(re.findall(r"^([^:\n]+):[ \t]*(\S+)", text, re.MULTILINE))
    return LuksHeader(
        version=int(fields["Version"]),
        cipher=f"{fields['Cipher name']}-{fields['Cipher mode']}",
        uuid=fields["UUID"],
        active_slots=len(re.findall(r"^Key Slot \d+: ENABLED", text, re.MULTILINE)),
    )
