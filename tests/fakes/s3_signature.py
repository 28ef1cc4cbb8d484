"""The check of a signed URL, written apart from the code that signs."""

from __future__ import annotations

import datetime
import hashlib
import hmac
from urllib.parse import quote

from tests.fakes.s3_store import RefusedError, Request

ACCESS_KEY, SECRET_KEY, REGION = "AKIDOSTLER", "a+secret/of=the~store", "eu-test-1"


def check(request: Request) -> None:
    """Raises RefusedError if the signature does not hold now."""
    query = dict(request.query)
    signature, told = query.pop("X-Amz-Signature", ""), query.get("X-Amz-Credential", "").split("/")
    if told[0] != ACCESS_KEY:
        raise RefusedError(403, "InvalidAccessKeyId")
    signed = "&".join(f"{quote(name, safe='')}={quote(query[name], safe='')}" for name in sorted(query))
    text = f"{request.method}\n{request.path}\n{signed}\nhost:{request.headers['Host']}\n\nhost\nUNSIGNED-PAYLOAD"
    begin, scope = query["X-Amz-Date"], "/".join(told[1:])
    text = f"AWS4-HMAC-SHA256\n{begin}\n{scope}\n{hashlib.sha256(text.encode()).hexdigest()}"
    key = f"AWS4{SECRET_KEY}".encode()
    for part in (begin[:8], REGION, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    if hmac.digest(key, text.encode(), "sha256").hex() != signature:
        raise RefusedError(403, "SignatureDoesNotMatch")
    begun = datetime.datetime.strptime(begin, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    age_s = (datetime.datetime.now(datetime.UTC) - begun).total_seconds()
    if not -900 < age_s < int(query["X-Amz-Expires"]):
        raise RefusedError(403, "AccessDenied")
