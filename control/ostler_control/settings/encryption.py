"""Settings of volume encryption."""

from __future__ import annotations

from ostler_control.settings.kinds import integer
from ostler_control.settings.setting import Setting

LUKS_ITER_TIME = Setting(
    "luks.iter.time",
    integer(1, 10_000, "milliseconds"),
    "10",
    "Time spent on stretching an encrypted volume's passphrase at every opening. Passphrases are 256 random bits, "
    "which need no stretching; more only costs CPU.",
)
LUKS_CHOSEN_ITER_TIME = Setting(
    "luks.chosen.iter.time",
    integer(1, 60_000, "milliseconds"),
    "2000",
    "The same for passphrases that people choose: those of downloads, and of templates made of encrypted volumes. "
    "Whoever has such a file needs that long for each guess; so does each opening.",
)

SETTINGS = (LUKS_ITER_TIME, LUKS_CHOSEN_ITER_TIME)
