"""A real S3-compatible store: OpenStack Swift, over TLS with a CA of its own, with one bucket."""

from __future__ import annotations

import datetime
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ostler_common import object_store
from ostler_common.identity import Identity, Kind
from ostler_common.secret import Secret
from ostler_control.objects.bucket import Bucket
from ostler_control.objects.signing import Credentials, presign

from tests.fakes.certificates import ThrowawayCa
from tests.fakes.s3_signature import REGION, SECRET_KEY
from tests.fakes.s3_store import NAME

ACCESS_KEY = "ostler:backups"
_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


@dataclass(frozen=True)
class Swift:
    """It has a bucket NAME. ca_pem: who signed its certificate."""

    endpoint: str
    ca_pem: bytes

    def bucket(self, prefix: str = "fleet/one", **changed: str) -> Bucket:
        """With the keys that the server knows, unless changed."""
        values = {"endpoint": self.endpoint, "name": NAME, "access_key": ACCESS_KEY, "ca_pem": self.ca_pem.decode()}
        values |= {"region": REGION, "secret_key": SECRET_KEY} | changed
        secret = Secret(values.pop("secret_key").encode())
        return Bucket(prefix=prefix, secret_key=secret, **values)

    @property
    def objects(self) -> set[str]:
        """Names of all objects."""
        return self._names("Contents", {})

    @property
    def uploads(self) -> set[str]:
        """Names of what has incomplete uploads."""
        return self._names("Upload", {"uploads": ""})

    def _names(self, tag: str, query: dict[str, str]) -> set[str]:
        found = ElementTree.fromstring(self.ask("GET", NAME, query))
        return {row.findtext(f"{_NAMESPACE}Key", "") for row in found.iter(f"{_NAMESPACE}{tag}")}

    def ask(self, method: str, path: str, query: dict[str, str] | None = None) -> bytes:
        keys = Credentials(ACCESS_KEY, Secret(SECRET_KEY.encode()), REGION)
        url = presign(method, f"{self.endpoint}/{path}", keys, 60, datetime.datetime.now(datetime.UTC), query or {})
        with object_store.client(self.ca_pem) as client:
            answer = client.request(method, url, timeout=30)
        assert answer.is_success, answer.text
        return answer.content


@contextmanager
def serving(directory: Path, address: str = "127.0.0.1") -> Iterator[Swift]:
    """directory: where it keeps all; address: where it listens. Skips the test where Swift cannot keep objects."""
    _check_attributes(directory)
    files = ThrowawayCa(directory, "s3").issue(Identity(Kind.HOST, "s3"), addresses=(address,))
    home, log = directory / "swift", directory / "swift.log"
    home.mkdir()
    runner = [sys.executable, "-m", "tests.swift_runner"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*runner, home, address, files.certificate, files.key], env=environment, cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            assert port, f"Swift did not start:\n{log.read_text()}"
            swift = Swift(f"https://{address}:{port}", files.trust.read_bytes())
            swift.ask("PUT", NAME)
            yield swift
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            finally:
                process.kill()


def _check_attributes(directory: Path) -> None:
    """Swift keeps what it knows of an object in attributes of its file."""
    try:
        os.setxattr(directory, "user.swift", b"x")
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip(f"the file system of {directory} has no user attributes")
