"""Files in backups: what the API answers, and how people see it."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator

from ostler.control.v1 import backup_pb2 as pb
from ostler.types.v1.backup_file_pb2 import BackupFile, BackupFileSystem
from ostler_common.errors import InternalError

from ostler_control.cli import text
from ostler_control.cli.output import View

MORE = "the directory has more files than are listed; download it to see them all"
_TYPES = {BackupFile.DIRECTORY: stat.S_IFDIR, BackupFile.LINK: stat.S_IFLNK, BackupFile.FILE: stat.S_IFREG}


def answers(
    call: Iterable[pb.ReadBackupFilesResponse], backup: str, tell: Callable[[str], None] = lambda phase: None
) -> Iterator[pb.ReadBackupFilesResponse]:
    """All answers of a call; tells each phase once. Raises InternalError DAMAGED if they end too early."""
    phase, complete = "", False
    for answer in call:
        if answer.phase and answer.phase != phase:
            phase = answer.phase
            tell(phase)
        complete = answer.complete
        yield answer
    if not complete:
        raise InternalError(f"reading backup {backup} ended too early; try again", "DAMAGED")


def shown(name: bytes) -> str:
    """A name or a path as the guest wrote it; bytes that are no UTF-8 as escapes. Output escapes the rest."""
    return name.decode(errors="backslashreplace")


def _name(file: BackupFile) -> str:
    return shown(file.name)


def _mode(file: BackupFile) -> str:
    return stat.filemode(_TYPES.get(file.kind, stat.S_IFIFO) | file.permissions)


def _plain_file(file: BackupFile) -> object:
    return {
        "name": _name(file),
        "kind": BackupFile.Kind.Name(file.kind),
        "size_bytes": file.size_bytes,
        "modify_time": file.modify_time.ToJsonString(),
        "permissions": f"{file.permissions:04o}",
    }


FILES = View[BackupFile](
    "file",
    columns=[
        ("mode", _mode),
        ("size", lambda f: text.size(f.size_bytes) if f.kind == BackupFile.FILE else text.NONE),
        ("changed", lambda f: text.when(f, "modify_time")),
        ("name", lambda f: _name(f) + ("/" if f.kind == BackupFile.DIRECTORY else "")),
    ],
    name=_name,
    plain=_plain_file,
)
FILE_SYSTEMS = View[BackupFileSystem](
    "file system",
    columns=[
        ("file system", lambda s: s.name),
        ("type", lambda s: s.type),
        ("size", lambda s: text.size(s.size_bytes)),
        ("label", lambda s: s.label),
    ],
)
