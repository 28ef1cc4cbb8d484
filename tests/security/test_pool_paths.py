"""No pool takes a directory of the system, of its secrets, or of Ostler itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from ostler_agent.pools.base import PoolSpec
from ostler_agent.pools.local import Local
from ostler_agent.pools.manager import Pools
from ostler_agent.pools.shared_mount_point import SharedMountPoint
from ostler_common.errors import InvalidArgumentError
from ostler_common.pool_paths import check_pool_path

RESERVED = [
    "/etc",
    "/etc/",
    "//etc",
    "/etc/ostler",
    "/dev",
    "/dev/shm",
    "/proc/1/root",
    "/root",
    "/root/.ssh",
    "/home/ada/.ssh",
    "/usr/share/x",
    "/run/ostler",
    "/var",
    "/var/lib",
    "/var/lib/ostler",
    "/var/lib/ostler/agent",
    "/var/lib/ostler/agent/pools",
    "/var/lib/ostler/control",
    "/var/lib/libvirt/qemu/nvram",
    "/srv/./../etc",
]


@pytest.mark.parametrize("path", RESERVED)
@pytest.mark.parametrize("pool_type", [Local, SharedMountPoint])
def test_a_reserved_directory_is_refused(path: str, pool_type: type[Local | SharedMountPoint]) -> None:
    with pytest.raises(InvalidArgumentError):
        pool_type().check(PoolSpec("id", pool_type.name, path, "", {}))


def test_a_link_to_a_reserved_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pool").symlink_to("/etc")
    with pytest.raises(InvalidArgumentError) as caught:
        Local().check(PoolSpec("id", "local", str(tmp_path / "pool" / "x"), "", {}))
    assert caught.value.reason == "POOL_PATH_RESERVED"


@pytest.mark.parametrize("place", ["state", "state/pools", "."])
def test_the_agents_own_directory_is_refused(tmp_path: Path, place: str) -> None:
    pools = Pools(tmp_path / "state", [Local()])
    with pytest.raises(InvalidArgumentError) as caught:
        pools.ensure(PoolSpec("id", "local", str(tmp_path / place), "", {}))
    assert caught.value.reason == "POOL_PATH_RESERVED"


@pytest.mark.parametrize("path", ["/srv/ostler", "/mnt/san", "/var/lib/ostler/pool", "/var/lib/libvirt/images", "/vms"])
def test_usual_directories_are_accepted(path: str) -> None:
    check_pool_path(path, "path")
