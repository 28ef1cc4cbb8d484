"""OVA archives, sound ones and hostile ones."""

from __future__ import annotations

import io
import tarfile


def archive(files: dict[str, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as made:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1.5 if format == tarfile.PAX_FORMAT else 1
            made.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def entry(name: str, kind: bytes, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as made:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        made.addfile(member)
    return buffer.getvalue()
