"""Settings of volume encryption."""

from __future__ import annotations

from ostler_control.settings.kinds import integer
from ostler_control.settings.setting import Setting

LUKS_ITER_TIME = Setting(
    "luks.iter.time",
    integer(1, 10_000, "milliseconds"),
    "10",
    "How long the key derivation of an encrypted volume takes each time it is opened. Passphrases are 256 random bits, "
    "which need no stretching; a longer time only costs CPU.",
)
LUKS_CHOSEN_ITER_TIME = Setting(
    "luks.chosen.iter.time",
    integer(1, 60_000, "milliseconds"),
    "2000",
    "How long the key derivation takes for passphrases that people choose: those of downloads, and of templates made "
    "from encrypted volumes. Guessing a passphrase takes this long per guess, and so does opening the file.",
)

SETTINGS = (LUKS_ITER_TIME, LUKS_CHOSEN_ITER_TIME)
