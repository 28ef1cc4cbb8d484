"""HTTPS to an S3-compatible store: calls within a limit, and one clear error for each way to fail.

URLs carry a signature, so no error and no log names more of them than the server.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpcore
import httpx

from ostler_common import xml_document
from ostler_common.bounded_http import BoundedTransport
from ostler_common.call_limit import CallLimit, TooSlowError
from ostler_common.errors import FailedPreconditionError, NotFoundError, OstlerError, UnavailableError, bad_field
from ostler_common.xml_document import Element, XmlError, XmlLimits

_TIMEOUT = httpx.Timeout(None, connect=10.0)  # each call has a limit, which ends its other waits
_FAILURES = (httpx.TransportError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
# What a store says when it has begun to answer with success, or with a status of its own.
_AGAIN_CODES = frozenset({"InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown"})
_NOT_FOUND = frozenset({"NoSuchKey", "NoSuchUpload"})
_XML_LIMITS = XmlLimits(max_elements=20_000, max_depth=16)
_MAX_ERROR_BYTES = 16 << 10
_SHOWN = 200
_CREDENTIALS = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"})

for _name in ("httpx", "httpcore"):  # they log every request with its URL
    logging.getLogger(_name).setLevel(logging.WARNING)


@contextmanager
def client(ca_pem: bytes) -> Iterator[httpx.Client]:
    """ca_pem: CAs to trust instead of the system's, b"" for those. Raises InvalidArgumentError INVALID_CERTIFICATE."""
    transport = BoundedTransport(trust(ca_pem))
    with httpx.Client(transport=transport, timeout=_TIMEOUT, trust_env=False, follow_redirects=False) as made:
        yield made


@contextmanager
def answer(
    client: httpx.Client,
    method: str,
    url: str,
    limit: CallLimit,
    content: bytes | Iterator[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[httpx.Response]:
    """One attempt of a call. Yields the answer if it is a success; its body is not read yet, and is read as it is sent.

    client: made by `client`. Raises what `translated` and `check` raise, also for what fails in the block.
    """
    limit.begin_attempt()
    headers = {"Accept-Encoding": "identity", **(headers or {})}
    with translated(url):
        request = client.build_request(method, url, content=content, headers=headers, extensions={"limit": limit})
        response = client.send(request, stream=True)
        try:
            check(response, url)
            yield response
        finally:
            response.close()


def trust(ca_pem: bytes) -> ssl.SSLContext:
    """Raises InvalidArgumentError INVALID_CERTIFICATE."""
    try:
        context = ssl.create_default_context(cadata=ca_pem.decode("ascii") if ca_pem else None)
    except (ssl.SSLError, ValueError):
        raise bad_field("ca_pem", "contains no PEM certificate", "INVALID_CERTIFICATE") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Raises errors of ours in place of httpx's.

    UnavailableError STORE_NOT_REACHED, STORE_TOO_SLOW; FailedPreconditionError STORE_UNTRUSTED.
    """
    try:
        yield
    except TooSlowError as error:
        where = server_of(url)
        raise UnavailableError(f"{where} {error}", "STORE_TOO_SLOW", {"server": where}) from None
    except _FAILURES as error:
        where = server_of(url)
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise FailedPreconditionError(
                f"the certificate of {where} is not trusted (give its CA's certificate: --ca-file)",
                "STORE_UNTRUSTED",
                {"server": where},
            ) from None
        if isinstance(error, httpcore.TimeoutException):
            why = "cannot be reached in time"
        else:
            why = f"cannot be reached: {str(error)[:_SHOWN] or type(error).__name__}"
        raise UnavailableError(f"{where} {why}", "STORE_NOT_REACHED", {"server": where}) from None


def check(response: httpx.Response, url: str) -> None:
    """Raises for a response that is no success, whose body is then read.

    NotFoundError OBJECT_NOT_FOUND, BUCKET_NOT_FOUND; FailedPreconditionError STORE_CREDENTIALS, STORE_REFUSED;
    UnavailableError STORE_NOT_REACHED if a retry may help.
    """
    if response.is_success:
        return
    body = b""
    for piece in response.iter_raw():
        body += piece
        if len(body) >= _MAX_ERROR_BYTES:
            break
    raise refusal(response.status_code, body[:_MAX_ERROR_BYTES], url)


def refusal(status: int, body: bytes, url: str) -> OstlerError:
    """The error for what a store answers with this status; the body, with an error of it as XML, may be cut."""
    try:
        return refusal_told(status, parse(body), url)
    except XmlError:
        return refusal_told(status, Element("Error"), url)


def refusal_told(status: int, told: Element, url: str) -> OstlerError:
    """The error for an element `Error` of a store."""
    where, code, message = server_of(url), _shown(told.text_of("Code")), _shown(told.text_of("Message"))
    why = f"{code}: {message}" if code and message else code or f"status {status}"
    details = {"server": where, "status": str(status), "code": code}
    if code == "NoSuchBucket":
        return NotFoundError(f"{where} has no such bucket; create it first", "BUCKET_NOT_FOUND", details)
    if code in _CREDENTIALS or status in (401, 403):
        return FailedPreconditionError(
            f"{where} refuses the access key, or what it may do in the bucket ({why})", "STORE_CREDENTIALS", details
        )
    if status == 404 or code in _NOT_FOUND:
        return NotFoundError(f"{where} does not have the object ({why})", "OBJECT_NOT_FOUND", details)
    if status in _AGAIN or code in _AGAIN_CODES:
        return UnavailableError(f"{where} cannot answer now ({why})", "STORE_NOT_REACHED", details)
    return FailedPreconditionError(f"{where} refuses the request ({why})", "STORE_REFUSED", details)


def parse(body: bytes) -> Element:
    """What a store says as XML. Raises XmlError.

    Some send spaces before it, while they work. Prefixes and namespaces make no difference.
    """
    return xml_document.parse(body.lstrip(), _XML_LIMITS)


def server_of(url: str) -> str:
    """The server's name and port, which may be shown."""
    return httpx.URL(url).netloc.decode()


def _shown(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:_SHOWN]
