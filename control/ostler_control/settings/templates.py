"""Settings of templates that hosts download by themselves."""

from __future__ import annotations

import re

from ostler_control.settings.kinds import BOOLEAN, integer, text
from ostler_control.settings.setting import Setting


def _proxy(written: str) -> str:
    if written and not re.fullmatch(r"https?://[^\s/@]+/?", written):
        raise ValueError("must be http://HOST:PORT, without user name and password, or empty")
    return written


ALLOW_PRIVATE = Setting(
    "direct.download.allow.private",
    BOOLEAN,
    "false",
    "Whether hosts may download templates from private addresses, such as 10.0.0.0/8.",
)
MAX_SIZE = Setting(
    "direct.download.max.size",
    integer(1, 1 << 30, "MiB"),
    str(1 << 20),
    "Maximum size of a file that hosts download as a template.",
)
PROXY = Setting(
    "direct.download.proxy",
    text("an http:// or https:// address, or nothing", _proxy),
    "",
    "HTTP proxy through which hosts download templates; empty: none.",
)

SETTINGS = (ALLOW_PRIVATE, MAX_SIZE, PROXY)
