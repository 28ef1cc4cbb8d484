"""What the control plane does with a bucket, against a server that checks signatures by itself."""

from __future__ import annotations

import datetime
import hashlib
import socket
import time
import uuid
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from ostler_common import object_store
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret
from ostler_control.objects import bucket as buckets
from ostler_control.objects import stores
from ostler_control.objects.signing import Credentials, presign

from tests.fakes import s3
from tests.fakes.s3 import S3
from tests.fakes.s3_store import Answer, Request

KEY = "0f1e/disk.qcow2"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setattr(buckets, "_PAUSE_S", 0.0)
    with s3.serving(tmp_path) as served:
        yield served


def error_of(bucket: buckets.Bucket) -> OstlerError:
    with pytest.raises(OstlerError) as caught:
        bucket.probe()
    return caught.value


def test_a_url_is_signed_as_amazon_documents_it() -> None:
    """The example of "Authenticating Requests: Using Query Parameters" in the API reference of Amazon S3."""
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", Secret(b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), "us-east-1")
    moment = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC)
    url = presign("GET", "https://examplebucket.s3.amazonaws.com/test.txt", credentials, 86400, moment)
    assert url == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z"
        "&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def test_a_store_is_probed_and_nothing_stays(server: S3) -> None:
    server.bucket().probe()
    server.bucket(prefix="").probe()
    assert (server.objects, server.uploads) == ({}, {})
    assert server.asked == ["PUT", "GET", "uploads", "begin", "uploads", "abort", "DELETE"] * 2


@pytest.mark.parametrize("kind", ["GET", "uploads", "begin"])
def test_a_key_that_may_not_do_all_that_backups_need_is_refused(server: S3, kind: str) -> None:
    server.fail[kind] = [(403, "AccessDenied")]
    assert error_of(server.bucket()).reason == "STORE_CREDENTIALS"
    assert (server.objects, server.uploads) == ({}, {})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"secret_key": "another"}, "STORE_CREDENTIALS"),
        ({"access_key": "nobody"}, "STORE_CREDENTIALS"),
        ({"name": "no-bucket"}, "BUCKET_NOT_FOUND"),
        ({"ca_pem": ""}, "STORE_UNTRUSTED"),
        ({"endpoint": "https://127.0.0.1:1"}, "STORE_NOT_REACHED"),
        ({"endpoint": "https://no-such-name.invalid"}, "STORE_NOT_REACHED"),
    ],
)
def test_what_is_wrong_with_a_store_is_said(server: S3, changed: dict[str, str], reason: str) -> None:
    error = error_of(server.bucket(**changed))
    assert error.reason == reason
    assert not any(word in error.message for word in ("X-Amz-", s3.SECRET_KEY, "another"))
    assert server.objects == {}


def test_a_server_that_says_nothing_is_given_up(server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_TIMEOUT", httpx.Timeout(None, connect=0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = error_of(server.bucket(endpoint=f"https://127.0.0.1:{silent.getsockname()[1]}"))
    assert (error.reason, "cannot be reached in time" in error.message) == ("STORE_NOT_REACHED", True)


@pytest.mark.parametrize("drip", ["headers", "body"])
@pytest.mark.parametrize("kind", ["PUT", "GET", "uploads", "begin", "abort", "DELETE"])
def test_a_server_that_drips_is_given_up(server: S3, monkeypatch: pytest.MonkeyPatch, kind: str, drip: str) -> None:
    monkeypatch.setattr(buckets, "_PROBE_S", 0.3)
    monkeypatch.setattr(buckets, "_CLEAN_S", 0.1)
    server.drip[kind] = drip
    began = time.monotonic()
    error = error_of(server.bucket())
    assert (error.reason, "is too slow" in error.message) == ("STORE_TOO_SLOW", True)
    assert time.monotonic() - began < 5


def test_attempts_at_a_server_that_drips_share_a_limit(server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "_TOTAL_S", 0.3)
    monkeypatch.setattr(buckets, "_ATTEMPT_S", 0.2)
    server.drip["uploads"] = "headers"
    with pytest.raises(OstlerError) as caught:
        server.bucket().begin_upload(KEY)
    assert caught.value.reason == "STORE_TOO_SLOW"
    assert "a call with its repetitions took more than 0.3 s" in caught.value.message
    assert server.asked == ["uploads"] * 2


def test_a_server_that_never_ends_to_put_parts_together_is_given_up(
    server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_COMPLETE_S", 0.2)
    upload_id, etags = upload(server, [b"one"])
    server.drip["complete"] = "body"
    server.bucket().complete_upload(KEY, upload_id, etags, 3)  # its size says that it was done
    assert server.asked[-2:] == ["complete", "HEAD"]


def test_a_busy_server_is_asked_again_and_one_that_refuses_is_not(server: S3) -> None:
    server.fail["PUT"] = [(503, "SlowDown"), (500, "InternalError")]
    server.bucket().probe()
    assert server.asked.count("PUT") == 3
    server.fail["PUT"] = [(400, "Nonsense")]
    assert error_of(server.bucket()).reason == "STORE_REFUSED"
    server.fail["PUT"] = [(503, "SlowDown")] * 3
    assert error_of(server.bucket()).reason == "STORE_NOT_REACHED"


def upload(server: S3, parts: list[bytes]) -> tuple[str, list[str]]:
    bucket = server.bucket()
    upload_id = bucket.begin_upload(KEY)
    etags = []
    with object_store.client(server.ca_pem) as client:
        for number, part in enumerate(parts, 1):
            digest = b64encode(hashlib.md5(part).digest()).decode()
            answer = client.put(
                bucket.part_url(KEY, upload_id, number, 60), content=part, headers={"Content-MD5": digest}
            )
            etags.append(answer.headers["ETag"])
    return upload_id, etags


def test_parts_become_an_object_whose_size_is_checked_and_a_repetition_finds_it(server: S3) -> None:
    upload_id, etags = upload(server, [b"one", b"two"])
    for _ in range(2):
        server.bucket().complete_upload(KEY, upload_id, etags, 6)
    assert server.objects == {f"fleet/one/{KEY}": b"onetwo"}
    assert server.uploads == {}
    with pytest.raises(OstlerError) as caught:
        server.bucket().complete_upload(KEY, upload_id, etags, 7)
    assert caught.value.reason == "OBJECT_NOT_FOUND"
    assert httpx.get(server.bucket().get_url(KEY, 60), verify=object_store.trust(server.ca_pem)).content == b"onetwo"


def test_an_object_of_another_size_is_refused(server: S3) -> None:
    upload_id, etags = upload(server, [b"one"])
    with pytest.raises(OstlerError) as caught:
        server.bucket().complete_upload(KEY, upload_id, etags, 4)
    assert caught.value.reason == "STORE_REFUSED"


def test_a_new_upload_aborts_those_that_were_begun_before_and_a_removal_leaves_nothing(server: S3) -> None:
    bucket = server.bucket()
    bucket.begin_upload(KEY)
    bucket.begin_upload(KEY + ".other")
    again = bucket.begin_upload(KEY)
    assert [name for name, _ in server.uploads.values()] == [f"fleet/one/{KEY}.other", f"fleet/one/{KEY}"]
    assert again in server.uploads
    server.objects[f"fleet/one/{KEY}"] = b"x"
    for _ in range(2):
        bucket.remove(KEY)
    assert server.objects == {}
    assert [name for name, _ in server.uploads.values()] == [f"fleet/one/{KEY}.other"]
    replace(bucket, name="gone").remove(KEY)  # a bucket that is gone has nothing


@pytest.mark.parametrize("prefix", ["", "s3"])
def test_all_pages_of_uploads_are_read_however_tags_are_written(server: S3, prefix: str) -> None:
    server.page, server.prefix = 2, prefix
    for key in [KEY, "a", KEY, "z", KEY, KEY + ".other", KEY]:
        server.uploads[str(uuid.uuid4())] = (f"fleet/one/{key}", {})
    again = server.bucket().begin_upload(KEY)
    left = [upload_id for upload_id, (name, _) in server.uploads.items() if name == f"fleet/one/{KEY}"]
    assert (left, len(server.uploads)) == ([again], 4)
    server.bucket().complete_upload(KEY, *upload(server, [b"one"]), 3)
    assert server.objects == {f"fleet/one/{KEY}": b"one"}


def answers(server: S3, monkeypatch: pytest.MonkeyPatch, kind: str, *bodies: bytes) -> None:
    """Lets it answer with success and these bodies, one after the other, the last one again and again."""
    left, answer = list(bodies), server.answer

    def instead(request: Request) -> Answer:
        if request.kind != kind:
            return answer(request)
        server.asked.append(kind)
        return Answer(body=left.pop(0) if len(left) > 1 else left[0])

    monkeypatch.setattr(server, "answer", instead)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "not well-formed"),
        (b"<R><Upload>", "not well-formed"),
        (b"<!DOCTYPE R [<!ENTITY x 'y'>]><R>&x;</R>", "document type"),
        (b"<R>" + b"<Upload/>" * 20_001 + b"</R>", "too many elements"),
        (b"<R><IsTruncated>true</IsTruncated></R>", "lists uploads without an end"),
        (b"<R><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker></R>", "lists uploads without an end"),
        (b"x" * (4 << 20) + b"x", "answers with too much"),
    ],
)
def test_what_is_no_list_of_uploads_is_refused(
    server: S3, monkeypatch: pytest.MonkeyPatch, body: bytes, what: str
) -> None:
    answers(server, monkeypatch, "uploads", body)
    with pytest.raises(OstlerError) as caught:
        server.bucket().abort_uploads(KEY)
    assert (caught.value.reason, what in caught.value.message) == ("STORE_REFUSED", True)


def test_a_store_that_fails_after_it_said_success_is_asked_again_or_refused(
    server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id, etags = upload(server, [b"one"])
    failed = b"   \n<?xml version='1.0'?><Error><Code>%s</Code><Message>no &amp; no</Message></Error>"
    answers(server, monkeypatch, "complete", failed % b"InternalError", failed % b"InvalidPart")
    with pytest.raises(OstlerError) as caught:
        server.bucket().complete_upload(KEY, upload_id, etags, 3)
    assert (caught.value.reason, "InvalidPart: no & no" in caught.value.message) == ("STORE_REFUSED", True)
    assert server.asked[-3:] == ["complete", "complete", "HEAD"]


@pytest.mark.parametrize(
    ("headers", "what"),
    [({"Content-Length": "4"}, "has 4 bytes of an object of 3"), ({"Content-Length": ""}, "how large an object is")],
)
def test_a_store_that_tells_another_size_is_refused(
    server: S3, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], what: str
) -> None:
    upload_id, etags = upload(server, [b"one"])
    answer = server.answer
    monkeypatch.setattr(
        server, "answer", lambda request: Answer(headers=headers) if request.kind == "HEAD" else answer(request)
    )
    with pytest.raises(OstlerError) as caught:
        server.bucket().complete_upload(KEY, upload_id, etags, 3)
    assert (caught.value.reason, what in caught.value.message) == ("STORE_REFUSED", True)


def test_a_url_serves_for_one_object_until_it_expires(server: S3) -> None:
    server.objects |= {"fleet/one/a": b"a", "fleet/one/b": b"b"}
    url = server.bucket().get_url("a", 60)
    trust = object_store.trust(server.ca_pem)
    assert httpx.get(url, verify=trust).content == b"a"
    assert httpx.get(url.replace("/one/a?", "/one/b?"), verify=trust).status_code == 403
    assert httpx.delete(url, verify=trust).status_code == 403
    assert httpx.get(url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"), verify=trust).status_code == 403
    credentials = Credentials(s3.ACCESS_KEY, Secret(s3.SECRET_KEY.encode()), s3.REGION)
    old = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=61)
    expired = presign("GET", f"{server.endpoint}/{s3.NAME}/fleet/one/a", credentials, 60, old)
    assert httpx.get(expired, verify=trust).status_code == 403
    assert quote(s3.SECRET_KEY) not in url


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("s3.endpoint", {"endpoint": "http://s3.example.org"}),
        ("s3.endpoint", {"endpoint": "https://s3.example.org/path"}),
        ("s3.endpoint", {"endpoint": "https://user@s3.example.org"}),
        ("s3.bucket", {"name": "No"}),
        ("s3.bucket", {"name": "../x"}),
        ("s3.prefix", {"prefix": "a//b"}),
        ("s3.prefix", {"prefix": "../b"}),
        ("s3.prefix", {"prefix": "a" * 201}),
        ("s3.region", {"region": "EU/1"}),
        ("s3.access_key", {"access_key": "a/b"}),
        ("s3.access_key", {"access_key": ""}),
        ("s3.secret_key", {"secret_key": "two words"}),
        ("s3.secret_key", {"secret_key": ""}),
        ("s3.secret_key", {"secret_key": "x" * 257}),
        ("ca_pem", {"ca_pem": "no certificate"}),
    ],
)
def test_bad_fields_are_named(field: str, changed: dict[str, str]) -> None:
    good = {"endpoint": "https://s3.example.org:9000", "ca_pem": ""}
    stores.check(S3().bucket(**good))
    with pytest.raises(OstlerError) as caught:
        stores.check(S3().bucket(**(good | changed)))
    assert caught.value.violations[0].field == field


def test_the_secret_key_is_in_no_text_of_a_bucket() -> None:
    assert s3.SECRET_KEY not in repr(S3().bucket())
