"""Fetching a template straight from an HTTPS server: what may be asked, and of whom.

Every address is looked up here, and the connection goes to the very address that was looked at, so that a name cannot
mean one server when it is checked and another when it is called. Redirects are followed one by one under the same
rules.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError, bad_field

Resolve = Callable[[str, int], list[str]]
"""Host name and port to addresses. Raises OSError."""

MAX_REDIRECTS = 5
_CHUNK_BYTES = 256 << 10
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class DirectSource:
    """Where a template is on the network.

    ca_pem: whom to trust instead of the system's authorities; proxy: address of an HTTP proxy, "" for none (it looks
    names up itself, so that only what the address says can be checked); allow_private: whether addresses that are not
    of the public Internet may be asked.
    """

    url: str
    ca_pem: bytes = b""
    proxy: str = ""
    allow_private: bool = False


@dataclass(frozen=True)
class Beginning:
    """What is there. size_bytes: of the whole file; head: its first bytes."""

    size_bytes: int
    head: bytes


class Downloader:
    """Talks to servers. resolve: how names are looked up."""

    def __init__(self, resolve: Resolve | None = None) -> None:
        self._resolve = resolve or _resolve

    def inspect(self, source: DirectSource, head_bytes: int) -> Beginning:
        """Reads the first bytes of a file. Raises what `read` raises, and FailedPreconditionError DOWNLOAD_NO_SIZE."""
        with self._open(source, 0, head_bytes - 1) as (response, _, total):
            if total is None:
                raise _refused(source, "the server does not tell the file's size", "DOWNLOAD_NO_SIZE")
            head = b""
            for chunk in _chunks(response, source):
                head += chunk
                if len(head) >= head_bytes:
                    break
            return Beginning(total, head[:head_bytes])

    def read(self, source: DirectSource, offset: int, size_bytes: int) -> Iterator[bytes]:
        """A file's bytes from `offset` on, from a server that can resume or one that cannot.

        Raises InvalidArgumentError for a bad address; FailedPreconditionError: DOWNLOAD_REFUSED, DOWNLOAD_UNTRUSTED,
        PRIVATE_ADDRESS, DOWNLOAD_CHANGED when the file has another size than `size_bytes`; UnavailableError
        DOWNLOAD_BROKE when trying again may help.
        """
        with self._open(source, offset) as (response, start, total):
            if total is not None and total != size_bytes:
                raise _refused(
                    source,
                    f"the file has {total} bytes now, and had {size_bytes}; register it anew",
                    "DOWNLOAD_CHANGED",
                )
            skip = offset - start
            for chunk in _chunks(response, source):
                if len(chunk) > skip:
                    yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    @contextmanager
    def _open(
        self, source: DirectSource, first: int, last: int | None = None
    ) -> Iterator[tuple[httpx.Response, int, int | None]]:
        """The answer's body, at which byte it begins, and the size of the whole file when that is told."""
        url = checked_url(source.url)
        wanted = {"Range": f"bytes={first}-{'' if last is None else last}", "Accept-Encoding": "identity"}
        with httpx.Client(
            verify=_trust(source), proxy=source.proxy or None, timeout=_TIMEOUT, trust_env=False, follow_redirects=False
        ) as client:
            for _ in range(MAX_REDIRECTS + 1):
                request = self._request(client, source, url, wanted)
                with _translated(source):
                    response = client.send(request, stream=True)
                try:
                    if not response.has_redirect_location:
                        yield response, *_extent(response, source)
                        return
                    url = checked_url(str(url.join(response.headers["Location"])), "redirect")
                finally:
                    response.close()
        raise _refused(source, f"more than {MAX_REDIRECTS} redirects", "DOWNLOAD_REFUSED")

    def _request(
        self, client: httpx.Client, source: DirectSource, url: httpx.URL, headers: dict[str, str]
    ) -> httpx.Request:
        if source.proxy:
            if not source.allow_private:
                _check_literal(source, url)
            return client.build_request("GET", url, headers=headers)
        address = self._address(source, url)
        return client.build_request(
            "GET",
            url.copy_with(host=address),
            headers={**headers, "Host": url.netloc.decode()},
            extensions={"sni_hostname": url.host},
        )

    def _address(self, source: DirectSource, url: httpx.URL) -> str:
        try:
            found = self._resolve(url.host, url.port or 443)
        except OSError as error:
            raise _broke(source, f"{url.host} is not known: {error.strerror or error}") from None
        for address in found:
            if not source.allow_private and not is_public(address):
                raise _private(source, url.host, address)
        return found[0]


def checked_url(text: str, field: str = "url") -> httpx.URL:
    """Raises InvalidArgumentError for what is no plain HTTPS address."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise bad_field(field, "is no URL", "INVALID_URL") from None
    if url.scheme != "https" or not url.host:
        raise bad_field(field, "must be https://HOST/PATH", "INVALID_URL")
    if url.userinfo:
        raise bad_field(field, "must hold no user name and password: addresses are shown to everybody", "INVALID_URL")
    return url


def is_public(address: str) -> bool:
    """Whether an address is of the public Internet, also when it is an IPv4 address in IPv6's clothes."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    return found.is_global and not found.is_multicast


def _check_literal(source: DirectSource, url: httpx.URL) -> None:
    try:
        public = is_public(url.host)
    except ValueError:
        return
    if not public:
        raise _private(source, url.host, url.host)


def _resolve(host: str, port: int) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _trust(source: DirectSource) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=source.ca_pem.decode() if source.ca_pem else None)
    except (ssl.SSLError, ValueError):
        raise bad_field("ca_pem", "holds no PEM certificate", "INVALID_CERTIFICATE") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _extent(response: httpx.Response, source: DirectSource) -> tuple[int, int | None]:
    """Where an answer's body begins in the file, and the file's size."""
    status = response.status_code
    if status == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None:
            raise _refused(source, "the server's answer lacks Content-Range", "DOWNLOAD_REFUSED")
        return int(found[1]), int(found[2])
    if status == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    if status in _AGAIN:
        raise _broke(source, f"the server answers {status}")
    raise _refused(source, f"the server answers {status} {response.reason_phrase}".rstrip(), "DOWNLOAD_REFUSED")


def _chunks(response: httpx.Response, source: DirectSource) -> Iterator[bytes]:
    with _translated(source):
        yield from response.iter_raw(_CHUNK_BYTES)


@contextmanager
def _translated(source: DirectSource) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise _refused(
                source,
                f"its certificate is not trusted ({_short(error)}); give its authority's (--ca-file)",
                "DOWNLOAD_UNTRUSTED",
            ) from None
        raise _broke(source, _short(error)) from None


def _short(error: Exception) -> str:
    return str(error) or type(error).__name__


def _refused(source: DirectSource, why: str, reason: str) -> OstlerError:
    return FailedPreconditionError(f"{source.url}: {why}", reason, {"url": source.url})


def _broke(source: DirectSource, why: str) -> OstlerError:
    return UnavailableError(f"{source.url}: {why}", "DOWNLOAD_BROKE", {"url": source.url})


def _private(source: DirectSource, host: str, address: str) -> OstlerError:
    where = address if host == address else f"{host} ({address})"
    return _refused(
        source,
        f"{where} is not of the public Internet (`ostler setting set direct.download.allow.private true` allows that)",
        "PRIVATE_ADDRESS",
    )
