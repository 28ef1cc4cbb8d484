"""OVA archives from a server, unpacked as they arrive."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from ostler_agent.conversion.archives import ArchiveFile, Archives
from ostler_agent.direct_download import DirectSource, Downloader
from ostler_agent.jobs import JobContext
from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError

from tests.unit.agent.conversion.conftest import Staged
from tests.unit.common.ova_archives import archive, entry

DISK = os.urandom(300_000)
URL = DirectSource("https://example.org/web.ova")
WANTED = [ArchiveFile("web-disk.vmdk", "disk1.vmdk", len(DISK))]


class Server(Downloader):
    """Serves bytes, and breaks off after each of `breaks` bytes."""

    def __init__(self, data: bytes, breaks: Sequence[int] = ()) -> None:
        super().__init__()
        self.data = data
        self.breaks = list(breaks)
        self.offsets: list[int] = []

    def read(self, source: DirectSource, offset: int, size_bytes: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        end = offset + self.breaks.pop(0) if self.breaks else len(self.data)
        for start in range(offset, min(end, len(self.data)), 10_000):
            yield self.data[start : min(start + 10_000, end)]
        if end < len(self.data):
            raise UnavailableError("the connection broke", "DOWNLOAD_BROKE")


def download(staged: Staged, server: Server, files: Sequence[ArchiveFile] = WANTED) -> None:
    job = JobContext("download")
    Archives(staged.staging, server).download(job, staged.ref, URL, len(server.data), files, 60)


def refused(staged: Staged, data: bytes, files: Sequence[ArchiveFile] = WANTED) -> str:
    with pytest.raises(OstlerError) as error:
        download(staged, Server(data), files)
    assert list(staged.directory.iterdir()) == [], "a failed download leaves nothing"
    return error.value.reason


def packed(disk: bytes = DISK, manifest: str = "") -> bytes:
    return archive({"web.ovf": b"<Envelope/>", "web.mf": manifest.encode(), "web-disk.vmdk": disk, "notes.txt": b"x"})


def test_only_the_wanted_files_are_unpacked_under_the_given_names(staged: Staged) -> None:
    digest = hashlib.sha256(DISK).hexdigest()
    download(staged, Server(packed(manifest=f"SHA256(web-disk.vmdk)= {digest}\n")))
    [path] = staged.directory.iterdir()
    assert (path.name, path.read_bytes(), path.stat().st_mode & 0o777) == ("disk1.vmdk", DISK, 0o600)


def test_a_connection_that_breaks_is_resumed_where_it_broke(staged: Staged) -> None:
    server = Server(packed(), breaks=[50_000, 0, 100_000])
    download(staged, server)
    assert server.offsets == [0, 50_000, 50_000, 150_000]
    assert (staged.directory / "disk1.vmdk").read_bytes() == DISK


def test_a_server_that_breaks_without_end_is_given_up(staged: Staged) -> None:
    with pytest.raises(UnavailableError):
        download(staged, Server(packed(), breaks=[0] * 10))
    assert list(staged.directory.iterdir()) == []


def test_what_the_manifest_contradicts_is_refused(staged: Staged) -> None:
    assert refused(staged, packed(manifest=f"SHA1(web-disk.vmdk)= {'00' * 20}\n")) == "FILE_CORRUPT"


def test_another_archive_than_was_inspected_is_refused(staged: Staged) -> None:
    assert refused(staged, packed(DISK[:-1])) == "ARCHIVE_INCOMPLETE"
    assert refused(staged, archive({"web.ovf": b"<Envelope/>"})) == "ARCHIVE_INCOMPLETE"


def test_links_and_paths_are_refused(staged: Staged) -> None:
    link = archive({"web.ovf": b"<Envelope/>"})[:1024] + entry("web-disk.vmdk", tarfile.SYMTYPE, "/etc/shadow")
    assert refused(staged, link) == "OVA_UNSAFE"
    assert refused(staged, archive({"../web-disk.vmdk": DISK})) == "OVA_UNSAFE"


@pytest.mark.parametrize(
    "files",
    [
        [],
        [ArchiveFile("a.vmdk", "../a.vmdk")],
        [ArchiveFile("a.vmdk", "a.sh")],
        [ArchiveFile("a.vmdk", "a.vmdk"), ArchiveFile("a.vmdk", "b.vmdk")],
        [ArchiveFile("a.vmdk", "a.vmdk"), ArchiveFile("b.vmdk", "a.vmdk")],
    ],
)
def test_names_that_no_staging_directory_takes_are_refused(staged: Staged, files: list[ArchiveFile]) -> None:
    assert refused(staged, packed(), files) == "INVALID_FIELD"


def test_a_link_in_the_staging_directory_is_not_followed(staged: Staged, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (staged.directory / ".disk1.vmdk.part").symlink_to(victim)
    download(staged, Server(packed()))
    assert victim.read_bytes() == b"precious"


def test_a_download_that_the_agent_died_in_is_undone(staged: Staged) -> None:
    (staged.directory / ".disk1.vmdk.part").write_bytes(b"half")
    with pytest.raises(UnavailableError) as error:
        Archives(staged.staging).recover(staged.ref, WANTED)
    assert error.value.reason == "INTERRUPTED"
    assert list(staged.directory.iterdir()) == []
    with pytest.raises(FailedPreconditionError):
        download(staged, Server(archive({"web.ovf": b""})))
