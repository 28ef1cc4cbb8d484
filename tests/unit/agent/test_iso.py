"""Images that guests read."""

from __future__ import annotations

import time
from io import BytesIO

import pycdlib
import pytest
from ostler_agent.tools import iso

FILES = {"meta-data": b"instance-id: a\n", "user-data": bytes(range(256)) * 300, "vendor-data": b""}


def test_an_image_gives_its_files_back() -> None:
    image = pycdlib.PyCdlib()
    image.open_fp(BytesIO(iso.build("cidata", FILES)))
    assert image.pvd.volume_identifier.strip() == b"cidata"
    for name, content in FILES.items():
        for path in ({"joliet_path": f"/{name}"}, {"rr_path": f"/{name}"}):
            out = BytesIO()
            image.get_file_from_iso_fp(out, **path)
            assert out.getvalue() == content


def test_the_same_files_make_the_same_image(monkeypatch: pytest.MonkeyPatch) -> None:
    first = iso.build("cidata", FILES)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert iso.build("cidata", dict(reversed(FILES.items()))) == first
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert time.time() > 1_000_000_000, "others' clock is left alone"
