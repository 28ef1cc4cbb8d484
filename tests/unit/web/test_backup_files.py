"""Pages of single files in backups, by a real server of the console before a control plane of canned answers."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import httpx
import pytest
import structlog
from ostler.control.v1 import backup_pb2 as pb
from ostler.types.v1.backup_file_pb2 import BackupFile
from ostler_common.errors import AbortedError, CancelledError, NotFoundError, OstlerError
from ostler_control.cli.app import App
from ostler_control.web import readings
from ostler_control.web.backup_download import Download, saved_name
from ostler_control.web.pages.backup_files import _in_shell, _place_of
from ostler_control.web.readings import Reading, Readings
from starlette.types import Message

from tests.consoles import console
from tests.fakes.control import Control, serving

WAIT_S = 30.0
PAGE = "/backups/99/files"
Answer = pb.ReadBackupFilesResponse


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Control, httpx.Client]]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with (
        serving(tmp_path_factory.mktemp("control")) as (control, profile),
        console(profile) as link,
        httpx.Client(base_url=link.partition("/enter")[0], timeout=WAIT_S) as browser,
    ):
        assert browser.get(link).status_code == 303
        yield control, browser
    structlog.reset_defaults()


@pytest.fixture
def control(opened: tuple[Control, httpx.Client]) -> Control:
    opened[0].__init__(opened[0].issuer)  # type: ignore[misc]  # all of it as new
    return opened[0]


@pytest.fixture
def browser(opened: tuple[Control, httpx.Client], control: Control) -> httpx.Client:
    return opened[1]


def read(control: Control) -> list[pb.ReadBackupFilesRequest]:
    """What was read."""
    return [one for one in control.asked if isinstance(one, pb.ReadBackupFilesRequest)]


def links(page: str) -> dict[str, str]:
    """The addresses of a page's links by their text."""
    found = re.findall(r'<a [^>]*href="([^"]+)"[^>]*>([^<]*)</a>', page)
    return {text: href.replace("&amp;", "&") for href, text in found}


def test_a_page_that_is_opened_reads_nothing(control: Control, browser: httpx.Client) -> None:
    assert 'href="/backups/99/files">Files<' in browser.get("/backups/99").text
    answer = browser.get(PAGE)
    assert answer.status_code == 200
    assert "ostler backup file list nightly" in answer.text
    assert "<table>" not in answer.text
    assert read(control) == []


def test_file_systems_are_listed_and_lead_to_their_files(control: Control, browser: httpx.Client) -> None:
    page = browser.get(PAGE, params={"path": "", "filesystem": ""}).text
    assert read(control) == [pb.ReadBackupFilesRequest(backup="99")]
    assert "\x1b" not in page
    assert links(page)["/dev/sda1"] == f"{PAGE}?path=%2F&filesystem=%2Fdev%2Fsda1"
    browser.get(links(page)["/dev/sda1"])
    assert read(control)[-1] == pb.ReadBackupFilesRequest(backup="99", path=b"/", file_system="/dev/sda1")
    browser.get(links(page)["As the guest sees them"])
    assert read(control)[-1] == pb.ReadBackupFilesRequest(backup="99", path=b"/")


def test_a_directory_is_listed_whatever_its_names_are(control: Control, browser: httpx.Client) -> None:
    page = browser.get(PAGE, params={"path": "/var", "filesystem": "/dev/sda1"}).text
    assert read(control) == [pb.ReadBackupFilesRequest(backup="99", path=b"/var", file_system="/dev/sda1")]
    assert "\x1b" not in page
    assert "The directory has more files" in page
    assert "ostler backup file list nightly /var --filesystem /dev/sda1<" in page
    assert "ostler backup file download nightly /var/FILE FILE --filesystem /dev/sda1<" in page
    found = links(page)
    hostile = found["\\x1b[2J\\xff\n"]
    assert hostile == f"{PAGE}/content?path=%2Fvar%2F%1B%5B2J%FF%0A&filesystem=%2Fdev%2Fsda1"
    assert browser.get(hostile).content == control.stored
    assert read(control)[-1] == pb.ReadBackupFilesRequest(
        backup="99", path=b"/var/\x1b[2J\xff\n", file_system="/dev/sda1", content=True
    )
    for text, path in (("log/", b"/var/log/"), ("now", b"/var/now"), ("Up to /", b"/")):
        browser.get(found[text])
        assert read(control)[-1] == pb.ReadBackupFilesRequest(backup="99", path=path, file_system="/dev/sda1"), text
    assert "ostler backup file download nightly /FILE FILE<" in browser.get(PAGE, params={"path": "/"}).text
    strange = browser.get(f"{PAGE}?path=%2F%FF").text
    assert "ostler backup file list nightly $&#39;/\\xff&#39;" in strange
    assert "data-command" not in strange, "a field cannot hold the path"


def test_a_path_that_is_no_directory_is_listed_in_its_own() -> None:
    file, directory = (
        BackupFile(name=b"fstab", kind=BackupFile.FILE),
        BackupFile(name=b"fstab", kind=BackupFile.DIRECTORY),
    )
    assert _place_of(b"/etc/fstab", [file]) == b"/etc"
    assert _place_of(b"/etc/fstab/", [file]) == b"/etc/fstab"
    assert _place_of(b"/etc/fstab", [directory]) == b"/etc/fstab"
    assert _place_of(b"/etc", [file]) == b"/etc"
    assert _place_of(b"/", [file]) == b""


def test_a_file_is_an_attachment_and_a_directory_an_archive(control: Control, browser: httpx.Client) -> None:
    control.stored = b"content of a file"
    answer = browser.get(f"{PAGE}/content", params={"path": "/etc/überfstab"})
    assert answer.content == control.stored
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%BCberfstab"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "content-length" not in answer.headers
    archive = browser.get(f"{PAGE}/content", params={"path": "/home/ann/"})
    assert archive.headers["content-disposition"].endswith("''ann.tar")


def test_a_file_that_is_not_as_it_was_sent_is_a_failed_download(
    control: Control, browser: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    control.sent = 5
    with pytest.raises(httpx.RemoteProtocolError):
        browser.get(f"{PAGE}/content", params={"path": "/a"})
    assert "DAMAGED" in capsys.readouterr().err
    assert len(read(control)) == 1


def test_an_error_is_shown_and_what_was_filled_in_is_kept(control: Control, browser: httpx.Client) -> None:
    control.error = NotFoundError("there is no file <b>/nosuch</b>", "FILE_NOT_FOUND")
    answer = browser.get(PAGE, params={"path": "/nosuch", "filesystem": "/dev/sda1"})
    assert answer.status_code == 404
    assert "FILE_NOT_FOUND" in answer.text
    assert "<b>" not in answer.text
    assert 'name="path" value="/nosuch"' in answer.text
    assert 'name="filesystem" value="/dev/sda1"' in answer.text
    answer = browser.get(f"{PAGE}/content", params={"path": "/nosuch"})
    assert (answer.status_code, "content-disposition" in answer.headers) == (404, False)
    assert "FILE_NOT_FOUND" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate"},
        {"sec-purpose": "prefetch;prerender"},
    ],
)
def test_only_the_console_s_own_pages_make_it_read(
    control: Control, browser: httpx.Client, headers: dict[str, str]
) -> None:
    answer = browser.get(PAGE, params={"path": "/etc"}, headers=headers)
    assert answer.status_code == 200
    assert 'value="/etc"' in answer.text
    assert browser.get(f"{PAGE}/content", params={"path": "/etc"}, headers=headers).status_code == 403
    assert browser.head(PAGE, params={"path": "/etc"}).status_code == 200
    assert browser.head(f"{PAGE}/content", params={"path": "/etc"}).status_code == 403
    assert read(control) == []


def test_a_browser_that_leaves_ends_the_list(control: Control, browser: httpx.Client) -> None:
    control.holds = b"/slow"
    with pytest.raises(httpx.ReadTimeout):
        browser.get(PAGE, params={"path": "/slow"}, timeout=httpx.Timeout(WAIT_S, read=1.0))
    assert control.left.wait(WAIT_S)


def test_a_browser_that_leaves_ends_the_download(control: Control, browser: httpx.Client) -> None:
    control.holds = b"/slow"
    with browser.stream("GET", f"{PAGE}/content", params={"path": "/slow"}) as answer:
        pieces = answer.iter_bytes()  # an iterator that is dropped closes the connection
        assert next(pieces) == control.stored
        assert not control.left.is_set()
    assert control.left.wait(WAIT_S)


def test_readings_are_limited(control: Control, browser: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "MAX_READINGS", 0)
    for path in (PAGE, f"{PAGE}/content"):
        answer = browser.get(path, params={"path": "/etc"})
        assert answer.status_code == 429
        assert "TOO_MANY_READS" in answer.text
    monkeypatch.undo()
    for _ in range(2 * readings.MAX_READINGS):
        assert browser.get(PAGE, params={"path": "/etc"}).status_code == 200


class Canned:
    """A call that answers, or fails at once."""

    def __init__(self, answers: Iterable[Answer], error: OstlerError | None = None) -> None:
        self.answers, self.error = iter(answers), error
        self.read, self.cancelled = 0, False

    def cancel(self) -> None:
        self.cancelled = True

    def __iter__(self) -> Iterator[Answer]:
        if self.error:
            raise self.error
        for answer in self.answers:
            if self.cancelled:
                raise CancelledError("the caller has left", "RPC")
            self.read += 1
            yield answer


BUSY = AbortedError("backup nightly is busy", "RESOURCE_BUSY")


def test_a_reading_waits_for_the_end_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "BUSY_STEP_S", 0.0)
    calls = [Canned([], BUSY), Canned([], BUSY), Canned([Answer(complete=True)])]
    rest = iter(calls)
    assert list(Reading(lambda: next(rest))) == [Answer(complete=True)]
    monkeypatch.setattr(readings, "BUSY_S", -1.0)
    with pytest.raises(AbortedError):
        list(Reading(lambda: Canned([], BUSY)))


def test_a_reading_that_has_begun_is_not_begun_again() -> None:
    def cut() -> Iterator[Answer]:
        yield Answer(data=b"a")
        raise BUSY

    opened: list[Canned] = []

    def open_call() -> Canned:
        opened.append(Canned(cut()))
        return opened[-1]

    with pytest.raises(AbortedError):
        list(Reading(open_call))
    assert len(opened) == 1


def test_a_reading_that_was_cancelled_before_it_began_is_cancelled() -> None:
    reading = Reading(lambda: Canned([Answer(complete=True)]))
    reading.cancel()
    with pytest.raises(CancelledError):
        list(reading)


def test_a_download_is_never_whole_in_memory() -> None:
    """A browser that does not read on is waited for, with one piece."""
    call = Canned(Answer(data=b"x") for _ in range(100))
    ahead: list[int] = []
    sent = 0

    async def send(message: Message) -> None:
        nonlocal sent
        sent += bool(message.get("body"))
        ahead.append(call.read - sent)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    download = Download(cast("App", None), Readings(), "nightly", b"/a", lambda: call)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Download, "_complain", lambda self, why: None)
        asyncio.run(download({"type": "http"}, receive, send))
    assert sent == 100
    assert max(ahead) <= 1
    assert call.cancelled


@pytest.mark.parametrize(
    ("path", "archive", "name"),
    [
        (b"/etc/fstab", False, "fstab"),
        (b"/home/ann/", True, "ann.tar"),
        (b"/", True, "files.tar"),
        (b"/a/\xff\x1b\n", False, "\ufffd__"),
        ("/a/evil\u202egpj.exe".encode(), False, "evil_gpj.exe"),
        (b'/a/C:\\"x', False, "C___x"),
        (b"/" + b"a" * 255 + b".jpeg", False, "a" * 115 + ".jpeg"),
    ],
)
def test_a_saved_name_hides_nothing_and_is_no_place(path: bytes, archive: bool, name: str) -> None:
    assert saved_name(path, archive) == name


@pytest.mark.parametrize(
    "path", [b"/etc/fstab", b"/a b'c\"$d", b"/\xff\x1b\n'\\x41", "/\u202eü".encode(), "/ü".encode()]
)
def test_a_path_can_be_pasted_into_a_shell(path: bytes, tmp_path: Path) -> None:
    word = _in_shell(path)
    assert word.isprintable()
    shell = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert shell.stdout == path
