"""Templates straight from an HTTPS server, which is a real one here, on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_agent.direct_download import DirectSource, Downloader, is_public
from ostler_agent.jobs import JobContext
from ostler_agent.spec import DiskFormat
from ostler_agent.templates import Templates, TemplateSource, sources
from ostler_agent.tools import qemu_img
from ostler_common.errors import OstlerError

from tests.fakes.web import Web, serving

DATA = bytes(range(256)) * 4096  # 1 MiB
HOST = "images.example.org"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with serving(tmp_path, HOST, DATA) as served:
        yield served


def source(web: Web, path: str = "/image", **changes: object) -> DirectSource:
    fields = {"ca_pem": web.ca_pem, "allow_private": True, **changes}
    return DirectSource(web.url(path), **fields)  # type: ignore[arg-type]


def downloader(*addresses: str) -> Downloader:
    return Downloader(lambda host, port: list(addresses or ["127.0.0.1"]))


def read(source: DirectSource, offset: int = 0, size_bytes: int = len(DATA)) -> bytes:
    return b"".join(downloader().read(source, offset, size_bytes))


def reason(source: DirectSource, by: Downloader | None = None) -> str:
    with pytest.raises(OstlerError) as caught:
        b"".join((by or downloader()).read(source, 0, len(DATA)))
    return caught.value.reason


def test_the_name_is_looked_up_once_and_its_certificate_checked(web: Web) -> None:
    assert read(source(web)) == DATA
    assert web.asked == [("/image", "bytes=0-", f"{HOST}:{web.port}")]
    assert reason(source(web, ca_pem=b"")) == "DOWNLOAD_UNTRUSTED"
    other = DirectSource(f"https://other.example.org:{web.port}/image", web.ca_pem, allow_private=True)
    assert reason(other) == "DOWNLOAD_UNTRUSTED"


@pytest.mark.parametrize("resumes", [True, False])
def test_from_the_middle(web: Web, resumes: bool) -> None:
    web.resumes = resumes
    assert read(source(web), 1000) == DATA[1000:]
    found = downloader().inspect(source(web), 100)
    assert (found.size_bytes, found.head) == (len(DATA), DATA[:100])


def test_private_addresses_are_refused_also_behind_redirects(web: Web) -> None:
    assert reason(source(web, allow_private=False)) == "PRIVATE_ADDRESS"
    assert web.asked == []
    assert reason(source(web, allow_private=False), downloader("93.184.215.14", "10.0.0.1")) == "PRIVATE_ADDRESS"
    through = source(web, allow_private=False, proxy="http://127.0.0.1:1")
    assert reason(through) == "DOWNLOAD_BROKE", "the proxy looks the name up"
    literal = DirectSource("https://10.0.0.1/image", proxy="http://127.0.0.1:1")
    assert reason(literal) == "PRIVATE_ADDRESS"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07::1", True),
        ("10.1.2.3", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.215.14", True),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_redirects(web: Web) -> None:
    web.redirects = {
        "/old": f"https://{HOST}:{web.port}/image",
        "/loop": "/loop",
        "/clear": "http://plain.example.org/",
    }
    assert read(source(web, "/old")) == DATA
    assert [path for path, _, _ in web.asked] == ["/old", "/image"]
    assert reason(source(web, "/loop")) == "DOWNLOAD_REFUSED"
    assert reason(source(web, "/clear")) == "INVALID_URL"

    def resolve(host: str, port: int) -> list[str]:
        return ["10.0.0.7"] if host == "inside.example.org" else ["127.0.0.1"]

    web.redirects["/in"] = "https://inside.example.org/image"
    assert reason(source(web, "/in"), _only_loopback(resolve)) == "PRIVATE_ADDRESS"


def _only_loopback(resolve: object) -> Downloader:
    """Calls loopback public, so that a redirect from there to a private address is one from a public server."""

    class Lenient(Downloader):
        def _address(self, source: DirectSource, url: object) -> str:
            lenient = getattr(url, "host", "") == HOST
            return super()._address(DirectSource(source.url, source.ca_pem, "", lenient), url)  # type: ignore[arg-type]

    return Lenient(resolve)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "why"), [(404, "DOWNLOAD_REFUSED"), (403, "DOWNLOAD_REFUSED"), (503, "DOWNLOAD_BROKE")]
)
def test_what_servers_answer(web: Web, status: int, why: str) -> None:
    web.status = status
    assert reason(source(web)) == why


@pytest.mark.parametrize(
    "url", ["http://images.example.org/a", "https://me:word@images.example.org/", "ftp://x/", "https:///a", "x", ""]
)
def test_addresses_that_are_none(url: str) -> None:
    assert reason(DirectSource(url)) == "INVALID_URL"


def template(web: Web, **changes: object) -> TemplateSource:
    fields = {"sha512": hashlib.sha512(web.data).hexdigest(), "direct": source(web), **changes}
    return TemplateSource("t", "", len(DATA), DiskFormat.RAW, **fields)  # type: ignore[arg-type]


def test_a_template_is_resumed_and_checked(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_img, "info", lambda path, disk_format: None)
    monkeypatch.setattr(JobContext, "wait", lambda self, seconds: self.check())

    def of_control(template_id: str, offset: int) -> Iterator[bytes]:
        raise AssertionError("the control plane has no part in it")

    templates = Templates(tmp_path / "templates", sources(of_control, downloader()))
    web.breaks = [300_000, 400_000]
    with templates.hold(JobContext("a"), template(web)) as held:
        assert held.path.read_bytes() == DATA
    offsets = [int(wanted.removeprefix("bytes=").rstrip("-")) for _, wanted, _ in web.asked]
    assert offsets[0] == 0
    assert len(offsets) == 3
    assert offsets == sorted(set(offsets)), "each try goes on where the last one broke"
    with templates.hold(JobContext("b"), template(web)):
        assert len(web.asked) == 3, "fetched once"

    with pytest.raises(OstlerError) as caught, templates.hold(JobContext("c"), template(web, sha512="0" * 128)):
        pass
    assert caught.value.reason == "TEMPLATE_CORRUPT"
    web.data = DATA + b"more"
    with pytest.raises(OstlerError) as caught, templates.hold(JobContext("d"), template(web)):
        pass
    assert caught.value.reason == "DOWNLOAD_CHANGED"
    whole = [path.name for path in (tmp_path / "templates").iterdir() if path.suffix != ".part"]
    assert whole == [hashlib.sha512(DATA).hexdigest()]
