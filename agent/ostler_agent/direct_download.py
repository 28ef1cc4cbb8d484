"""Downloads a template directly from an HTTPS server, and enforces which servers may be contacted.

The downloader resolves each name itself and connects to exactly the address that it checked, so that a name cannot
resolve to another server later. Each redirect is subject to the same rules.
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
"""Resolves a host name and port to addresses. Raises OSError."""

MAX_REDIRECTS = 5
_CHUNK_BYTES = 256 << 10
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class DirectSource:
    """A template's location on the network.

    ca_pem: CAs to trust instead of the system's; proxy: address of an HTTP proxy, "" for none (a proxy resolves names
    itself, so that only literal addresses can be checked); allow_private: whether non-public addresses are allowed.
    """

    url: str
    ca_pem: bytes = b""
    proxy: str = ""
    allow_private: bool = False


@dataclass(frozen=True)
class Beginning:
    """The beginning of a file. size_bytes: of the whole file; head: its first bytes."""

    size_bytes: int
    head: bytes


class Downloader:
    """Downloads files. resolve: resolves host names."""

    def __init__(self, resolve: Resolve | None = None) -> None:
        self._resolve = resolve or _resolve

    def inspect(self, source: DirectSource, head_bytes: int) -> Beginning:
        """Reads the first bytes of a file. Raises what `read` raises, and FailedPreconditionError DOWNLOAD_NO_SIZE."""
        with self._open(source, 0, head_bytes - 1) as (response, _, total):
            if total is None:
                raise _refused(source, "the server does not report the file's size", "DOWNLOAD_NO_SIZE")
            head = b""
            for chunk in _chunks(response, source):
                head += chunk
                if len(head) >= head_bytes:
                    break
            return Beginning(total, head[:head_bytes])

    def read(self, source: DirectSource, offset: int, size_bytes: int) -> Iterator[bytes]:
        """Yields a file's bytes from `offset`, whether or not the server can resume.

        Raises InvalidArgumentError for a bad URL; FailedPreconditionError: DOWNLOAD_REFUSED, DOWNLOAD_UNTRUSTED,
        PRIVATE_ADDRESS, DOWNLOAD_CHANGED if the file's size is not `size_bytes`; UnavailableError DOWNLOAD_BROKE if a
        retry may help.
        """
        with self._open(source, offset) as (response, start, total):
            if total is not None and total != size_bytes:
                raise _refused(
                    source,
                    f"the file now has {total} bytes instead of {size_bytes} (register it again)",
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
        """The response, the offset of its body in the file, and the size of the whole file if reported."""
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
            raise _broke(source, f"cannot resolve {url.host}: {error.strerror or error}") from None
        for address in found:
            if not source.allow_private and not is_public(address):
                raise _private(source, url.host, address)
        return found[0]


def checked_url(text: str, field: str = "url") -> httpx.URL:
    """Parses an HTTPS URL. Raises InvalidArgumentError INVALID_URL."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise bad_field(field, "is not a URL", "INVALID_URL") from None
    if url.scheme != "https" or not url.host:
        raise bad_field(field, "must be https://HOST/PATH", "INVALID_URL")
    if url.userinfo:
        raise bad_field(field, "must not contain a user name or password: URLs are visible to all users", "INVALID_URL")
    return url


def is_public(address: str) -> bool:
    """Whether an address is a public Internet address; of one that carries an IPv4 address, whether both are."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        elif found in _NAT64:
            found = ipaddress.IPv4Address(found.packed[-4:])
        elif any(found in network for network in _NOT_PUBLIC):
            return False
    return found.is_global and not found.is_multicast


# The well-known prefix of NAT64 (RFC 6052): a gateway connects to the IPv4 address in the last four bytes.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Ranges that Python takes for global: IPv4-compatible (RFC 4291), NAT64 of one site (RFC 8215), Teredo (RFC 4380),
# 6to4 (RFC 3056, deprecated by RFC 7526), site-local (RFC 3879).
_NOT_PUBLIC = [
    ipaddress.IPv6Network(network) for network in ("::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fec0::/10")
]


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
        raise bad_field("ca_pem", "contains no PEM certificate", "INVALID_CERTIFICATE") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _extent(response: httpx.Response, source: DirectSource) -> tuple[int, int | None]:
    """The offset of a response's body in the file, and the file's size."""
    status = response.status_code
    if status == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None:
            raise _refused(source, "the server's response lacks Content-Range", "DOWNLOAD_REFUSED")
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
                f"its certificate is not trusted: {_short(error)} (pass its CA's certificate with --ca-file)",
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
        f"{where} is not a public address (to allow it: `ostler setting set direct.download.allow.private true`)",
        "PRIVATE_ADDRESS",
    )
