"""The host's cache of templates: each is downloaded once, verified, and kept until its space is needed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from ostler_common.errors import FailedPreconditionError, OstlerError, ResourceExhaustedError, bad_field

from ostler_agent.direct_download import DirectSource, Downloader
from ostler_agent.files import publish
from ostler_agent.image_header import check_stretching, read_header
from ostler_agent.jobs import JobContext
from ostler_agent.process import Limits, RunError
from ostler_agent.spec import DiskFormat, Key
from ostler_agent.tools import qemu_img

log = structlog.get_logger(__name__)

Download = Callable[["TemplateSource", int], Iterator[bytes]]
"""Streams a template's file from an offset (bytes). Raises OstlerError."""

PHASE = "fetching template"
TRIES = 5
_ONCE = ".once"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA512 = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True)
class TemplateSource:
    """A template as the control plane describes it.

    sha256 or sha512 (lower-case hex), file_size_bytes: of its file; direct: where to download it (None: from the
    control plane); key: opens it, with its passphrase (None: not encrypted); once: delete the copy after its use.
    """

    template_id: str
    sha256: str
    file_size_bytes: int
    format: DiskFormat
    sha512: str = ""
    direct: DirectSource | None = None
    key: Key | None = None
    once: bool = False

    @property
    def digest(self) -> str:
        """The digest to verify; also the name of the copy."""
        return self.sha512 or self.sha256

    @property
    def file_name(self) -> str:
        """The name of the copy's file."""
        return f"{self.digest}{_ONCE if self.once else ''}"


def sources(of_control: Callable[[str, int], Iterator[bytes]], downloader: Downloader | None = None) -> Download:
    """Returns the download function: from the network, or from the control plane by id and offset."""
    direct = downloader or Downloader()

    def download(source: TemplateSource, offset: int) -> Iterator[bytes]:
        if source.direct:
            return direct.read(source.direct, offset, source.file_size_bytes)
        return of_control(source.template_id, offset)

    return download


@dataclass(frozen=True)
class Template:
    """A verified copy. key: verified to open it; virtual_size_bytes: of its disk."""

    path: Path
    format: DiskFormat
    key: Key | None
    virtual_size_bytes: int


class Templates:
    """The copies in a directory, named by their digest. Thread-safe."""

    def __init__(self, directory: Path, download: Download) -> None:
        self._directory = directory
        self._download = download
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self._held: Counter[str] = Counter()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in directory.glob(f"*{_ONCE}*"):
            path.unlink()  # its job ended with the previous process

    @contextmanager
    def hold(self, job: JobContext, source: TemplateSource, percent: int = 50) -> Iterator[Template]:
        """Yields the template's copy and keeps it within the block; downloads it if it is missing.

        percent: share of the job that the download takes. Raises InvalidArgumentError; FailedPreconditionError
        (TEMPLATE_CORRUPT, BACKING_FILE_REFUSED, NOT_AN_IMAGE, KEY_MISSING, NOT_ENCRYPTED, WRONG_KEY);
        ResourceExhaustedError (HOST_DISK_FULL); what the download raises.
        """
        if not (_SHA512.fullmatch(source.sha512) if source.sha512 else _SHA256.fullmatch(source.sha256)):
            raise bad_field("template.sha256", "must be 64 lower-case hex digits (template.sha512: 128)")
        path = self._directory / source.file_name
        with self._lock:
            self._held[source.file_name] += 1
            fetching = self._fetching.setdefault(source.file_name, threading.Lock())
        try:
            with _waiting_for(fetching, job):
                if not path.exists():
                    self._fetch(job, source, percent)
            os.utime(path)
            # At every use: another call may name another key, or none, for the same digest.
            yield Template(path, source.format, source.key, _check_key(path, source))
        finally:
            with self._lock:
                self._held[source.file_name] -= 1
                if source.once and not self._held[source.file_name]:
                    path.unlink(missing_ok=True)
                    self._part(source).unlink(missing_ok=True)

    def _fetch(self, job: JobContext, source: TemplateSource, percent: int) -> None:
        part = self._part(source)
        self._make_room(source, part)
        # Twice: a partial file of an earlier job may be bad; then download all of it again.
        if not any(self._receive(job, source, part, percent) for _ in range(2)):
            raise FailedPreconditionError(
                f"the file of template {source.template_id} does not match its digest ("
                f"{'it has changed at its source' if source.direct else 'upload it again'})",
                "TEMPLATE_CORRUPT",
                {"template": source.template_id},
            )
        try:
            _check_image(part, source)
        except OstlerError:
            part.unlink()
            raise
        publish(part, self._directory / source.file_name)

    def _part(self, source: TemplateSource) -> Path:
        return self._directory / f"{source.file_name}.part"

    def _receive(self, job: JobContext, source: TemplateSource, part: Path, percent: int) -> bool:
        """Downloads the missing part; returns whether the file matches its digest. Deletes a file that does not."""
        total = source.file_size_bytes
        with part.open("a+b") as file:
            file.seek(0)
            digest = hashlib.sha512() if source.sha512 else hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                job.check()
            offset = file.tell()
            failures = 0
            while offset < total:
                before = offset
                try:
                    for chunk in self._download(source, offset):
                        job.check()
                        file.write(chunk)
                        digest.update(chunk)
                        offset += len(chunk)
                        job.report(PHASE, offset, total, percent=percent * min(offset, total) // total)
                        if offset > total:
                            break
                    if offset == before:
                        break
                except OstlerError as error:
                    failures = 1 if offset > before else failures + 1
                    if not error.retryable or failures == TRIES:
                        raise
                    log.warning("template download broke", template=source.template_id, offset=offset, error=str(error))
                    job.wait(0.2 * 2**failures)
                except OSError:
                    # Most likely the disk is full: the partial file must not keep it full.
                    part.unlink()
                    raise
        if offset == total and digest.hexdigest() == source.digest:
            return True
        part.unlink()
        return False

    def _make_room(self, source: TemplateSource, part: Path) -> None:
        """Deletes unused copies, least recently used first, until there is enough space."""
        needed = source.file_size_bytes - (part.stat().st_size if part.exists() else 0)
        with self._lock:
            unused = [path for path in self._directory.iterdir() if not self._held[path.name.removesuffix(".part")]]
            unused.sort(key=lambda path: path.stat().st_mtime)
            while shutil.disk_usage(self._directory).free < needed:
                if not unused:
                    raise ResourceExhaustedError(
                        f"{self._directory} lacks {needed} bytes for template {source.template_id}",
                        "HOST_DISK_FULL",
                        {"path": str(self._directory)},
                    )
                unused.pop(0).unlink()


def _check_image(path: Path, source: TemplateSource) -> None:
    """Refuses a file that refers to other files, or that QEMU cannot read."""
    read_header(path, source.format, encrypted=source.key is not None)
    if source.key is None:
        qemu_img.info(path, source.format)


def _check_key(path: Path, source: TemplateSource) -> int:
    """Refuses a template that its key does not open, or that lacks a key. Returns the virtual size, bytes."""
    template = {"template": source.template_id}
    header = read_header(path, source.format, encrypted=source.key is not None)
    if header.encrypted and not source.key:
        raise FailedPreconditionError(
            f"template {source.template_id} is encrypted, but no key was given", "KEY_MISSING", template
        )
    if source.key and not header.encrypted:
        raise FailedPreconditionError(
            f"template {source.template_id} is not encrypted, but a key was given", "NOT_ENCRYPTED", template
        )
    if source.key:
        check_stretching(path)
        try:
            # Limited: an untrusted header may request years of key derivation.
            qemu_img.check_key(path, source.format, source.key, Limits())
        except RunError as error:
            raise FailedPreconditionError(
                f"template {source.template_id} cannot be opened: {error.stderr.strip() or 'it takes too long'}",
                "NOT_AN_IMAGE",
                template,
            ) from error
        except FailedPreconditionError as error:
            message = f"the key does not open template {source.template_id}"
            raise FailedPreconditionError(message, error.reason, template) from error
    return header.virtual_size_bytes


@contextmanager
def _waiting_for(lock: threading.Lock, job: JobContext) -> Iterator[None]:
    """Holds a lock; the job can be cancelled while it waits."""
    while not lock.acquire(timeout=0.2):
        job.report(PHASE)
        job.check()
    try:
        yield
    finally:
        lock.release()
