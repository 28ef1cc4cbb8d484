"""qemu-storage-daemon: shows images, decrypted, as plain files to programs that cannot open them.

The files are FUSE mounts that only this user can open; what is written to one is encrypted before it reaches a disk.
FUSE, not NBD: virt-v2v takes NBD from a TCP port of localhost only, which any user of the host could open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ostler_agent.keyfile import KeyFile
from ostler_agent.process import Cancellation, Limits, daemon, run
from ostler_agent.spec import DiskFormat, Key
from ostler_agent.tools.qemu_img import Layer, backing_opts, image_opts

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 600.0  # the last writes may wait for a slow server


@dataclass(frozen=True)
class Export:
    """An image and the file that shows it.

    mount_point: an existing, empty file; frees_space: whether the image gives back the space that its user discards;
    parents: images that have what the image lacks, the nearest first; new_owner: whether root may give the file to
    another user, which opens it to nobody.
    """

    image: Path
    format: DiskFormat
    key: Key | None
    mount_point: Path
    frees_space: bool = True
    parents: Sequence[Layer] = ()
    new_owner: bool = False


@contextmanager
def mounted(exports: Sequence[Export], cancel: Cancellation, limits: Limits | None = None) -> Iterator[None]:
    """Shows images as plain files while the block lasts; when it ends well, all that was written is on the images.

    limits: of the program that does it. Stay in one thread within the block. Raises FailedPreconditionError
    (TOOL_MISSING), RunError, DeadlineExceededError (COMMAND_TIMEOUT), and what cancel.check() raises.
    """
    ready = exports[0].mount_point.parent / "ready"
    with ExitStack() as stack:
        stack.callback(unmount, [export.mount_point for export in exports])
        command: list[str] = ["qemu-storage-daemon", "--pidfile", str(ready)]
        descriptors = []
        for number, export in enumerate(exports):
            secret = f"key{number}"
            keys = {secret: export.key, **{f"{secret}.{n}": parent.key for n, parent in enumerate(export.parents)}}
            for name, key in keys.items():
                if key and key.passphrase:
                    key_file = stack.enter_context(KeyFile(key.passphrase))
                    descriptors.append(key_file.fd)
                    command += ["--object", f"secret,id={name},file={key_file.path}"]
            command += ["--blockdev", _blockdev(export, secret, f"disk{number}")]
            options = f"type=fuse,id=export{number},node-name=disk{number},writable=on"
            # QEMU lets the owner change only of a file that the kernel lets others open, if its mode and owner do.
            options += f",allow-other={'on' if export.new_owner else 'off'}"
            command += ["--export", f"{options},mountpoint={str(export.mount_point).replace(',', ',,')}"]
        stack.enter_context(
            daemon(
                command,
                ready=ready,
                start_timeout_s=_START_TIMEOUT_S,
                stop_timeout_s=_STOP_TIMEOUT_S,
                pass_fds=descriptors,
                limits=limits,
                cancel=cancel,
            )
        )
        yield


def unmount(mount_points: Sequence[Path]) -> None:
    """Takes away what a daemon that was killed left mounted; nothing there is a success."""
    for mount_point in mount_points:
        run(["umount", "--lazy", "--quiet", "--", mount_point], check=False)


def _blockdev(export: Export, secret: str, node: str) -> str:
    options = [image_opts(export.image, export.format, export.key, secret), f"node-name={node}"]
    options.append(f"discard={'unmap' if export.frees_space else 'ignore'}")
    if export.key and export.format is DiskFormat.QCOW2:
        options.append("encrypt.format=luks")
    options += backing_opts(export.parents, lambda number: f"{secret}.{number}")
    return ",".join(options)
