"""virt-v2v-in-place: makes a guest boot on KVM by changing its disks where they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, OstlerError, ResourceExhaustedError

from ostler_agent.process import Cancellation, RunError, run

PROGRAM = "virt-v2v-in-place"
MAX_LINE_BYTES = 64 << 10
MAX_MESSAGE_CHARS = 1000

# What virt-v2v says when it fails, and what that means.
_FAILURES: Sequence[tuple[str, type[OstlerError], str, str]] = (
    (
        "could not detect the source guest",
        FailedPreconditionError,
        "NO_OPERATING_SYSTEM",
        "no operating system was found on the disks (is the boot disk among them, and is it not encrypted inside? "
        "A disk without one can be copied instead)",
    ),
    (
        "not enough free space for conversion on filesystem",
        FailedPreconditionError,
        "GUEST_DISK_FULL",
        "the guest's own disk is too full to convert it (free space inside the guest, then try again)",
    ),
    (
        "insufficient free space in the conversion server",
        ResourceExhaustedError,
        "HOST_DISK_FULL",
        "the host needs 1 GiB free for the conversion's cache (free some, then try again)",
    ),
    (
        "No space left on device",
        ResourceExhaustedError,
        "POOL_FULL",
        "no space was left while the guest was converted (free some in the pool and on the host, then try again)",
    ),
)


@dataclass(frozen=True)
class Message:
    """Something that virt-v2v says. kind: "message", "info", "warning" or "error"."""

    kind: str
    text: str

    @classmethod
    def from_line(cls, line: bytes) -> Message | None:
        """None for a line that is no message."""
        try:
            data = json.loads(line)
            return cls(str(data["type"]), str(data["message"])[:MAX_MESSAGE_CHARS])
        except (ValueError, TypeError, KeyError):
            return None


def convert(
    directory: Path,
    domain: str,
    cache: Path,
    *,
    arguments: Sequence[str] = (),
    virtio_win: Path | None = None,
    force_tcg: bool = False,
    on_message: Callable[[Message], None] = lambda message: None,
    cancel: Cancellation | None = None,
) -> None:
    """Converts a guest in place.

    directory: where the program works; it sees it as /tmp and leaves files in it. domain: name of the file there with
    the guest's libvirt XML, whose disks have paths below /tmp. cache: where the appliance is kept from one conversion
    to the next. virtio_win: drivers for Windows guests. force_tcg: whether that VM must do without KVM.

    Raises FailedPreconditionError (TOOL_MISSING, NO_OPERATING_SYSTEM, GUEST_DISK_FULL, CONVERSION_FAILED),
    ResourceExhaustedError (HOST_DISK_FULL, POOL_FULL), and what cancel.check() raises.
    """
    environment = {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_CACHEDIR": str(cache),
        "TMPDIR": "/tmp",  # noqa: S108 (its own, see `process.spawn`)
    }
    if virtio_win:
        environment["VIRTIO_WIN"] = str(virtio_win)
    if force_tcg:
        environment["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"
    command = [PROGRAM, "--quiet", "--machine-readable=stream:stdout"]
    if not any(argument.startswith("--root=") for argument in arguments):
        command.append("--root=first")
    reader = _Reader(on_message)
    try:
        run(
            [*command, *arguments, "-i", "libvirtxml", f"/tmp/{domain}"],  # noqa: S108 (its own)
            env=environment,
            tmp=directory,
            on_stdout=reader,
            cancel=cancel,
        )
    except RunError as error:
        raise failure(reader.errors, error.stderr) from error


def failure(errors: Sequence[str], stderr: str) -> OstlerError:
    """The error of a conversion that failed. errors: its messages of that kind."""
    said = "\n".join([*errors, stderr])
    for words, kind, reason, message in _FAILURES:
        if words in said:
            return kind(message, reason)
    why = (errors[-1] if errors else re.sub(r"^[\w-]+: error: ", "", stderr.strip()[-500:])) or "it did not say why"
    return FailedPreconditionError(f"virt-v2v could not convert the guest: {why}", "CONVERSION_FAILED")


class _Reader:
    """Finds the messages in virt-v2v's output, however it is cut in pieces."""

    def __init__(self, on_message: Callable[[Message], None]) -> None:
        self._on_message = on_message
        self._rest = b""
        self.errors: list[str] = []

    def __call__(self, piece: bytes) -> None:
        *lines, rest = (self._rest + piece).split(b"\n")
        self._rest = rest[-MAX_LINE_BYTES:]
        for line in lines:
            message = Message.from_line(line)
            if message and message.kind == "error":
                self.errors.append(message.text)
            if message:
                self._on_message(message)
