"""Directories that no pool may use, because they hold the system, its secrets or Ostler's own state."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from ostler_common.errors import bad_field

# A pool may neither be in one of these nor contain one.
_RESERVED = (
    *(
        "/bin",
        "/boot",
        "/dev",
        "/etc",
        "/lib",
        "/lib32",
        "/lib64",
        "/libx32",
        "/proc",
        "/root",
        "/run",
        "/sbin",
        "/sys",
    ),
    *("/usr", "/var/cache", "/var/lib/libvirt/qemu", "/var/lib/ostler/agent", "/var/lib/ostler/control", "/var/log"),
    "/var/spool",
)


def check_pool_path(path: str, field: str, own: Iterable[str] = ()) -> None:
    """Raises InvalidArgumentError: INVALID_FIELD for a path that is not plain, POOL_PATH_RESERVED.

    own: further directories of this host that are reserved.
    """
    parts = path.split("/")
    if not path.startswith("/") or ".." in parts or not path.strip("/") or not path.isprintable():
        raise bad_field(field, "must be an absolute directory other than /, without ..")
    if any(part.startswith(".") for part in parts):
        raise bad_field(field, "must not be or be in a hidden directory", "POOL_PATH_RESERVED")
    pool = PurePosixPath("/" + path.strip("/"))
    for reserved in (*_RESERVED, *own):
        if pool.is_relative_to(reserved) or PurePosixPath(reserved).is_relative_to(pool):
            raise bad_field(
                field,
                f"overlaps {reserved}, which belongs to the system or to Ostler; choose another directory, such as "
                "/srv/ostler",
                "POOL_PATH_RESERVED",
            )
