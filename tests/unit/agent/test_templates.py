import dataclasses
import hashlib
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_agent.jobs import JobContext
from ostler_agent.spec import DiskFormat
from ostler_agent.templates import Templates, TemplateSource
from ostler_agent.tools import qemu_img
from ostler_common.errors import CancelledError, NotFoundError, OstlerError, UnavailableError

DATA = bytes(range(256)) * 40
CHUNK = 1000


class Server:
    """Serves DATA in chunks; breaks off after so many chunks, as often as it is told."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.offsets: list[int] = []
        self.breaks: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, source: TemplateSource, offset: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        left = self.breaks.pop(0) if self.breaks else 1 << 30
        for start in range(offset, len(self.data), CHUNK):
            assert self.gate.wait(10)
            if not left:
                raise UnavailableError("the line broke", "RPC")
            left -= 1
            yield self.data[start : start + CHUNK]


@pytest.fixture(autouse=True)
def no_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_img, "info", lambda path, disk_format: None)
    monkeypatch.setattr(JobContext, "wait", lambda self, seconds: self.check())


def source(data: bytes = DATA, disk_format: DiskFormat = DiskFormat.RAW) -> TemplateSource:
    return TemplateSource("t", hashlib.sha256(data).hexdigest(), len(data), disk_format)


def fetch(templates: Templates, wanted: TemplateSource | None = None) -> bytes:
    with templates.hold(JobContext("a"), wanted or source()) as template:
        return template.path.read_bytes()


def reason(templates: Templates, wanted: TemplateSource | None = None) -> str:
    with pytest.raises(OstlerError) as caught:
        fetch(templates, wanted)
    return caught.value.reason


def test_it_is_fetched_once(tmp_path: Path) -> None:
    server = Server()
    templates = Templates(tmp_path, server)
    assert fetch(templates) == fetch(templates) == DATA
    assert server.offsets == [0]
    assert [path.name for path in tmp_path.iterdir()] == [source().sha256]


def test_many_at_once_fetch_once(tmp_path: Path) -> None:
    server = Server()
    server.gate.clear()
    templates = Templates(tmp_path, server)
    threads = [threading.Thread(target=fetch, args=(templates,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    server.gate.set()
    for thread in threads:
        thread.join(10)
    assert server.offsets == [0]


def test_a_broken_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    server = Server()
    server.breaks = [3, 2]
    assert fetch(Templates(tmp_path, server)) == DATA
    assert server.offsets == [0, 3000, 5000]


def test_what_an_earlier_life_fetched_is_kept(tmp_path: Path) -> None:
    server = Server()
    (tmp_path / f"{source().sha256}.part").write_bytes(DATA[:7000])
    assert fetch(Templates(tmp_path, server)) == DATA
    assert server.offsets == [7000]


def test_a_bad_rest_of_an_earlier_life_is_fetched_anew(tmp_path: Path) -> None:
    server = Server()
    (tmp_path / f"{source().sha256}.part").write_bytes(b"x" * 7000)
    assert fetch(Templates(tmp_path, server)) == DATA
    assert server.offsets == [7000, 0]


def test_a_line_that_stays_down_is_reported_and_the_rest_kept(tmp_path: Path) -> None:
    server = Server()
    server.breaks = [3, *[0] * 20]
    assert reason(Templates(tmp_path, server)) == "RPC"
    assert (tmp_path / f"{source().sha256}.part").stat().st_size == 3000


def test_an_error_that_will_not_pass_is_not_tried_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def download(source: TemplateSource, offset: int) -> Iterator[bytes]:
        calls.append(offset)
        raise NotFoundError("no such template", "TEMPLATE_NOT_FOUND")

    assert reason(Templates(tmp_path, download)) == "TEMPLATE_NOT_FOUND"
    assert calls == [0]


@pytest.mark.parametrize("data", [b"y" + DATA[1:], DATA + b"more", DATA[:-1]])
def test_what_is_not_what_its_digest_says_is_refused_and_gone(tmp_path: Path, data: bytes) -> None:
    assert reason(Templates(tmp_path, Server(data))) == "TEMPLATE_CORRUPT"
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_format_is_refused_and_gone(tmp_path: Path) -> None:
    assert reason(Templates(tmp_path, Server()), source(disk_format=DiskFormat.QCOW2)) == "NOT_AN_IMAGE"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "a" * 63, "A" * 64])
def test_a_bad_digest(tmp_path: Path, digest: str) -> None:
    assert reason(Templates(tmp_path, Server()), TemplateSource("t", digest, 1, DiskFormat.RAW)) == "INVALID_FIELD"


def test_cancelling_stops_the_download_and_a_waiting_job(tmp_path: Path) -> None:
    server = Server()
    server.gate.clear()
    templates = Templates(tmp_path, server)
    jobs = [JobContext(name) for name in "ab"]
    failures: list[Exception] = []

    def run(job: JobContext) -> None:
        try:
            with templates.hold(job, source()):
                pass
        except CancelledError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for job in jobs:
        job.cancel()
    server.gate.set()
    for thread in threads:
        thread.join(10)
    assert len(failures) == 2


def test_room_is_made_by_what_was_longest_unused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(25_000 - sum(f.stat().st_size for f in path.iterdir())))
    data = [bytes([n]) * 10_000 for n in range(4)]
    templates = Templates(tmp_path, lambda source, offset: iter([data[int(source.template_id)][offset:]]))
    wanted = [TemplateSource(str(n), hashlib.sha256(d).hexdigest(), len(d), DiskFormat.RAW) for n, d in enumerate(data)]
    with templates.hold(JobContext("a"), wanted[0]):
        fetch(templates, wanted[1])
        fetch(templates, wanted[2])
        assert {path.name for path in tmp_path.iterdir()} == {wanted[0].sha256, wanted[2].sha256}
        with templates.hold(JobContext("b"), wanted[2]):
            assert reason(templates, wanted[3]) == "HOST_DISK_FULL"


def test_an_upload_is_not_kept(tmp_path: Path) -> None:
    server, once = Server(), dataclasses.replace(source(), once=True)
    templates = Templates(tmp_path, server)
    with templates.hold(JobContext("a"), once), templates.hold(JobContext("b"), once) as held:
        assert held.path.read_bytes() == DATA
    assert list(tmp_path.iterdir()) == []
    assert fetch(templates) == DATA
    assert fetch(templates, once) == DATA
    assert [path.name for path in tmp_path.iterdir()] == [source().digest], "a template's copy is another one"
    server.breaks = [3, 0, 0, 0, 0, 0]
    assert reason(templates, once) == "RPC"
    assert [path.name for path in tmp_path.iterdir()] == [source().digest]
    (tmp_path / f"{once.file_name}.part").write_text("left by a crash")
    Templates(tmp_path, server)
    assert [path.name for path in tmp_path.iterdir()] == [source().digest]
