"""OVA archives that anybody may have written."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_common import ova
from ostler_common.errors import FailedPreconditionError

from tests.unit.common.ova_archives import archive, entry

FILES = {"web.ovf": b"<Envelope/>", "web.mf": b"", "disk 1.vmdk": os.urandom(70_000), "empty.iso": b""}


def unpack(data: bytes) -> dict[str, bytes]:
    reader = ova.Reader(io.BytesIO(data).read)
    return {member.name: b"".join(reader.data()) for member in reader.members()}


def refused(data: bytes) -> str:
    with pytest.raises(FailedPreconditionError) as error:
        unpack(data)
    return error.value.reason


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_files_of_every_kind_of_tar_are_read(format: int) -> None:
    assert unpack(archive(FILES, format)) == FILES


def test_a_folder_that_was_packed_with_dots_is_read() -> None:
    data = entry("./", tarfile.DIRTYPE)[:512] + archive({"./web.ovf": b"x"})
    assert unpack(data) == {"web.ovf": b"x"}


def test_files_are_found_at_their_offsets_without_reading_them(tmp_path: Path) -> None:
    path = tmp_path / "web.ova"
    path.write_bytes(archive(FILES))
    with path.open("rb") as file:
        reader = ova.Reader(file.read, lambda count: file.seek(count, os.SEEK_CUR))
        members = list(reader.members())
    data = path.read_bytes()
    assert {m.name: data[m.offset : m.offset + m.size_bytes] for m in members} == FILES


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (entry("disk.vmdk", tarfile.SYMTYPE, "/etc/shadow"), "OVA_UNSAFE"),
        (entry("disk.vmdk", tarfile.LNKTYPE, "/etc/shadow"), "OVA_UNSAFE"),
        (entry("disk.vmdk", tarfile.CHRTYPE), "OVA_UNSAFE"),
        (entry("disk.vmdk", tarfile.FIFOTYPE), "OVA_UNSAFE"),
        (entry("folder", tarfile.DIRTYPE), "OVA_UNSAFE"),
        (archive({"/etc/cron.d/x": b"x"}), "OVA_UNSAFE"),
        (archive({"../../x.vmdk": b"x"}), "OVA_UNSAFE"),
        (archive({"a/b.vmdk": b"x"}), "OVA_UNSAFE"),
        (archive({"..": b"x"}), "OVA_UNSAFE"),
        (archive({"a\nb.vmdk": b"x"}), "OVA_UNSAFE"),
        (archive({"a.vmdk": b"x"})[:1024] + archive({"a.vmdk": b"y"}), "OVA_UNSAFE"),
        (archive({f"{number}.vmdk": b"" for number in range(257)}), "OVA_TOO_LARGE"),
        (archive({"a.vmdk": bytes(5000)})[:3000], "NOT_AN_OVA"),
        (b"", "NOT_AN_OVA"),
        (b"PK\x03\x04" + bytes(1000), "NOT_AN_OVA"),
    ],
)
def test_what_is_not_a_plain_file_with_a_plain_name_is_refused(data: bytes, reason: str) -> None:
    assert refused(data) == reason


def test_a_sparse_file_is_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        member = tarfile.TarInfo("a.vmdk")
        member.pax_headers = {"GNU.sparse.name": "b.vmdk"}
        made.addfile(member)
    assert refused(buffer.getvalue()) == "OVA_UNSAFE"


def test_a_header_of_gigabytes_is_not_read() -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 8 << 30
    tracemalloc.start()
    assert refused(member.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)) == "OVA_TOO_LARGE"
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@given(st.binary(max_size=2000), st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), max_size=8))
def test_damage_is_refused_and_never_raises_anything_else(tail: bytes, damage: Sequence[tuple[int, int]]) -> None:
    data = bytearray(archive({"a.ovf": b"x" * 600, "b.vmdk": b"y" * 600}, tarfile.PAX_FORMAT)[:2048] + tail)
    for position, value in damage:
        data[position] = value
    with contextlib.suppress(FailedPreconditionError):
        assert all(ova.is_plain_name(name) for name in unpack(bytes(data)))


def test_manifests_name_three_kinds_of_digests() -> None:
    text = f"SHA1(a.vmdk)= {'AB' * 20}\r\nSHA256(b 1.vmdk)={'cd' * 32}\nSHA512 (c) = {'ef' * 64}\nMD5(d)= 00\n"
    assert ova.parse_manifest(text.encode()) == {
        "a.vmdk": ova.Digest("sha1", "ab" * 20),
        "b 1.vmdk": ova.Digest("sha256", "cd" * 32),
        "c": ova.Digest("sha512", "ef" * 64),
    }


def test_a_file_is_compared_with_its_manifest() -> None:
    found = ova.hashers()
    for hasher in found.values():
        hasher.update(b"abc")
    right = ova.Digest("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d")
    ova.check_digest("x", right, found)
    ova.check_digest("x", None, found)
    with pytest.raises(FailedPreconditionError) as error:
        ova.check_digest("x", ova.Digest("sha256", "00" * 32), found)
    assert error.value.reason == "FILE_CORRUPT"
