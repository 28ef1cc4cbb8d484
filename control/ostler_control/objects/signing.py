"""Signs URLs as Amazon S3 wants it (Signature Version 4, in the query).

Whoever has such a URL can do one thing with one object until it expires. It is all that hosts get, and the control
plane uses the same for its own requests. These lines replace botocore, of which nothing else would be used.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from ostler_common.secret import Secret

MAX_LIFE_S = 7 * 24 * 3600
_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Credentials:
    """region: for which requests are signed."""

    access_key: str
    secret_key: Secret
    region: str


def presign(
    method: str,
    url: str,
    credentials: Credentials,
    life_s: int,
    moment: datetime.datetime,
    query: Mapping[str, str] | None = None,
) -> str:
    """The URL with a signature that holds for `life_s` seconds from `moment` (UTC).

    url: https://HOST/PATH, the path not quoted yet; query: further parameters, which are signed, too.
    """
    parts = urlsplit(url)
    time = f"{moment:%Y%m%dT%H%M%SZ}"
    scope = f"{time[:8]}/{credentials.region}/s3/aws4_request"
    parameters = {
        **(query or {}),
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key}/{scope}",
        "X-Amz-Date": time,
        "X-Amz-Expires": str(max(1, min(life_s, MAX_LIFE_S))),
        "X-Amz-SignedHeaders": "host",
    }
    path = quote(parts.path, safe="/-_.~")
    signed = "&".join(
        f"{quote(name, safe='-_.~')}={quote(parameters[name], safe='-_.~')}" for name in sorted(parameters)
    )
    request = "\n".join((method, path, signed, f"host:{parts.netloc}\n", "host", "UNSIGNED-PAYLOAD"))
    text = "\n".join((_ALGORITHM, time, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = b"AWS4" + credentials.secret_key.reveal()
    for part in scope.split("/"):
        key = _hmac(key, part)
    return f"{parts.scheme}://{parts.netloc}{path}?{signed}&X-Amz-Signature={_hmac(key, text).hex()}"


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
