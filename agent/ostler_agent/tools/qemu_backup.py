"""Copies a disk that no VM uses, or what was written to it since an earlier copy, with QEMU's dirty bitmaps.

qemu-img cannot copy by a bitmap, so qemu-storage-daemon does it, with the commands that a running VM's QEMU gets.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import AbortedError, ResourceExhaustedError

from ostler_agent import bitmaps
from ostler_agent.keyfile import KeyFile
from ostler_agent.process import Cancellation, daemon
from ostler_agent.spec import DiskFormat, Key
from ostler_agent.tools import qemu_img, qmp

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 600.0  # it writes the bitmaps
_POLL_S = 0.1
_SOURCE, _TARGET, _JOB = "source", "target", "backup"


@dataclass(frozen=True)
class Image:
    """A qcow2 image and its key."""

    path: Path
    key: Key | None


def copy(
    source: Image, target: Image, *, bitmap: str, since: str, progress: qemu_img.OnPercent, cancel: Cancellation
) -> str:
    """Copies an unused disk into an empty image of its size, and begins to record what is written from now on.

    bitmap, since: ids of this backup and of the one to build on, "" for none. Returns why the whole disk was copied; ""
    if the target has what was written since that backup, and nothing else.

    Raises ResourceExhaustedError (POOL_FULL), FailedPreconditionError (WRONG_KEY, VOLUME_IN_USE), AbortedError
    (COPY_FAILED, QEMU_ENDED, QEMU_REFUSED), RunError, DeadlineExceededError, what cancel.check() raises.
    """
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backup.")))
        command, descriptors = _command(source, target, place, stack)
        stack.enter_context(qemu_img.translated(target.path, source.path))
        stack.enter_context(
            daemon(
                command,
                ready=place / "ready",
                start_timeout_s=_START_TIMEOUT_S,
                stop_timeout_s=_STOP_TIMEOUT_S,
                pass_fds=descriptors,
                cancel=cancel,
            )
        )
        monitor = stack.enter_context(qmp.connected(place / "monitor"))
        reason = _begin(monitor, bitmap, since)
        _finish(monitor, target.path, progress, cancel)
    return reason


def _command(source: Image, target: Image, place: Path, stack: ExitStack) -> tuple[Sequence[str], Sequence[int]]:
    """The daemon's command line, and the descriptors that it reads the keys from."""
    command = ["qemu-storage-daemon", "--pidfile", str(place / "ready")]
    command += ["--chardev", f"socket,id=monitor,path={place / 'monitor'},server=on,wait=off", "--monitor", "monitor"]
    descriptors = []
    for node, image in ((_SOURCE, source), (_TARGET, target)):
        if image.key and image.key.passphrase:
            key_file = stack.enter_context(KeyFile(image.key.passphrase))
            descriptors.append(key_file.fd)
            command += ["--object", f"secret,id={node},file={key_file.path}"]
        options = qemu_img.image_opts(image.path, DiskFormat.QCOW2, image.key, node)
        command += ["--blockdev", f"{options},node-name={node}" + (",encrypt.format=luks" if image.key else "")]
    return command, descriptors


def _begin(monitor: qmp.Monitor, bitmap: str, since: str) -> str:
    """Starts the copy and the new bitmap in one transaction. Returns why it copies everything."""
    nodes = bitmaps.records(monitor.execute("query-named-block-nodes"))
    [node] = [one for one in nodes if one["node-name"] == _SOURCE]
    found = bitmaps.bitmaps_of(node)
    for name in bitmaps.obsolete(found, since):
        monitor.execute("block-dirty-bitmap-remove", node=_SOURCE, name=name)
    reason = bitmaps.why_full(found, since)
    # "never": the old bitmap keeps what it has until a later backup succeeds.
    what = {"sync": "full"} if reason else {
        "sync": "bitmap", "bitmap": bitmaps.name_of(since), "bitmap-mode": "never"
    }  # fmt: skip
    backup = {"job-id": _JOB, "device": _SOURCE, "target": _TARGET, "auto-dismiss": False, **what}
    added = {"node": _SOURCE, "name": bitmaps.name_of(bitmap), "persistent": True}
    actions = [{"type": "block-dirty-bitmap-add", "data": added}, {"type": "blockdev-backup", "data": backup}]
    monitor.execute("transaction", actions=actions)
    return reason


def _finish(monitor: qmp.Monitor, target: Path, progress: qemu_img.OnPercent, cancel: Cancellation) -> None:
    while True:
        cancel.check()
        [job] = bitmaps.records(monitor.execute("query-jobs"))
        if job["status"] == "concluded":
            break
        done, total = job["current-progress"], job["total-progress"]
        if isinstance(done, int) and isinstance(total, int) and total:
            progress(100 * done / total)
        time.sleep(_POLL_S)
    if error := str(job.get("error", "")):
        _raise(error, target)
    monitor.execute("job-dismiss", id=_JOB)


def _raise(error: str, target: Path) -> None:
    if "No space left" in error or "quota exceeded" in error:
        message = f"the pool has no space left for {target.name}"
        raise ResourceExhaustedError(message, "POOL_FULL", {"file": target.name})
    raise AbortedError(f"copying a disk failed: {error}", "COPY_FAILED", {"file": target.name})
