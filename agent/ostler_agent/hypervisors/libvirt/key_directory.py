"""Where libvirt keeps the keys of running VMs: in memory only, so that a stolen disk opens nothing.

libvirt writes a key of each running VM to DIRECTORY/domain-N-NAME/master-key.aes; the volumes' passphrases stand in
QEMU's command line and log, encrypted under that key. On a disk both would survive a power cut.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import structlog
from ostler_common.errors import FailedPreconditionError

from ostler_agent.process import RunError, run
from ostler_agent.tools.mounts import MOUNTINFO, bind, mount, mounts

log = structlog.get_logger(__name__)

DIRECTORY = Path("/var/lib/libvirt/qemu")
PERSISTENT_DIRECTORY = Path("/var/lib/ostler/libvirt")
# Parts of the directory that must survive a restart of the host: firmware variables, saved VMs, metadata of snapshots.
PERSISTENT = ("checkpoint", "dump", "nvram", "save", "snapshot")
_SWAPS = Path("/proc/swaps")
_PIDS = Path("/run/libvirt/qemu")
# Sockets and keys are small; a QEMU that a guest took over must not fill the host's memory.
_SIZE = "size=256m"
_REMEDY = "enable ostler-libvirt-keys.service and restart the host, or libvirt without VMs"


def probe(directory: Path = DIRECTORY, mountinfo: Path = MOUNTINFO, swaps: Path = _SWAPS) -> str:
    """Returns the type of the file system in memory that holds the keys.

    Raises FailedPreconditionError KEYS_ON_DISK if the keys are on a disk, or may be swapped to one.
    """
    here = [found for found in mounts(mountinfo) if found.path == directory]
    if not here or here[-1].fs_type not in ("tmpfs", "ramfs"):
        raise FailedPreconditionError(
            f"libvirt keeps keys of running VMs in {directory}, which is on a disk ({_REMEDY})", "KEYS_ON_DISK"
        )
    if here[-1].fs_type == "tmpfs" and "noswap" not in here[-1].options and _swaps_to_disk(swaps):
        raise FailedPreconditionError(
            f"libvirt keeps keys of running VMs in {directory}, which may be swapped to a disk ({_REMEDY})",
            "KEYS_ON_DISK",
        )
    return here[-1].fs_type


def protect(
    directory: Path = DIRECTORY,
    persistent: Path = PERSISTENT_DIRECTORY,
    *,
    mountinfo: Path = MOUNTINFO,
    swaps: Path = _SWAPS,
    pids: Path = _PIDS,
) -> bool:
    """Mounts memory over libvirt's directory, before libvirtd starts; returns False if that was done before.

    What must persist is moved to `persistent` and bound back. Raises FailedPreconditionError VMS_RUNNING if VMs run:
    their sockets would vanish.
    """
    if any(found.path == directory and found.fs_type in ("tmpfs", "ramfs") for found in mounts(mountinfo)):
        return False
    directory.mkdir(mode=0o751, parents=True, exist_ok=True)
    _refuse_running(pids)
    for left in directory.glob("domain-*"):  # of VMs that died with the host
        shutil.rmtree(left)
    for name in PERSISTENT:
        _keep(directory / name, persistent / name)
    mount_memory("ostler-keys", directory, "0751", swaps)
    for name in PERSISTENT:
        (directory / name).mkdir(mode=0o755)
        bind(persistent / name, directory / name)
    log.info("libvirt's keys of running VMs are in memory only", directory=str(directory))
    return True


def _refuse_running(pids: Path) -> None:
    running = [file.stem for file in pids.glob("*.pid") if _is_alive(file)]
    if running:
        raise FailedPreconditionError(
            f"VMs run on this host ({', '.join(sorted(running))}): stop or migrate them first, or restart the host",
            "VMS_RUNNING",
        )


def _is_alive(file: Path) -> bool:
    text = file.read_text().strip()
    return text.isdigit() and Path(f"/proc/{text}").exists()


def _keep(source: Path, target: Path) -> None:
    """Copies a directory once, with owners and modes, in such a way that a crash leaves it whole or absent."""
    if target.exists():
        return
    target.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    if not source.exists():
        target.mkdir(mode=0o755)
        return
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    run(["cp", "--archive", "--", str(source), str(part)], timeout_s=3600)  # saved VMs may be large
    part.rename(target)


def mount_memory(source: str, directory: Path, mode: str, swaps: Path = _SWAPS) -> None:
    """Mounts memory that is never swapped to a disk, limited in size where the kernel can do both."""
    options = f"mode={mode},nosuid,nodev"
    try:
        mount("tmpfs", source, directory, f"{options},{_SIZE},noswap")
    except RunError:  # kernels before 6.4 do not know noswap
        if _swaps_to_disk(swaps):
            mount("ramfs", source, directory, options)  # never swapped, but not limited
        else:
            mount("tmpfs", source, directory, f"{options},{_SIZE}")


def _swaps_to_disk(swaps: Path) -> bool:
    """Whether memory may be swapped to something else than compressed memory (proc(5): a header, then one per line)."""
    return any(not line.startswith("/dev/zram") for line in swaps.read_text().splitlines()[1:])
