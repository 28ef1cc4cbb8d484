"""Names of extra configuration, and the details of a VM that may not imitate it."""

from __future__ import annotations

import re

from ostler_common.errors import bad_field

RESERVED_PREFIX = "extraconfig"
MAX_PER_VM = 16

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


def check_config_name(path: str, name: str) -> str:
    """The name. Raises InvalidArgumentError INVALID_EXTRA_CONFIG_NAME."""
    if not _NAME.fullmatch(name):
        raise bad_field(path, "must be 1 to 63 of [a-z0-9-], not beginning with -", "INVALID_EXTRA_CONFIG_NAME")
    return name


def is_reserved(key: str) -> bool:
    """Whether a key of a VM's details belongs to extra configuration, however it is spelled."""
    return key.strip().casefold().startswith(RESERVED_PREFIX)
