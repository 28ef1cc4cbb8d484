"""Backups of a control plane on SQLite: the database as of one moment, in one file.

Passphrases stay sealed in it; the key-encryption key, the CAs and the template files are not in it. On PostgreSQL
`pg_dump` does this. Older releases kept the journal in a file of its own: their backups have it too, and the first
start after a restore takes it over (`operations.old_journal`).
"""

from __future__ import annotations

import datetime
import gzip
import io
import itertools
import json
import os
import sqlite3
import tarfile
import tempfile
import zlib
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_common.versions import own_version

from ostler_control import database, run_lock
from ostler_control.config import ControlConfig

_DATABASE, _JOURNAL, _REPLICA, _MANIFEST = "ostler.sqlite", "dbos.sqlite", "replica_id", "manifest.json"
_FORMAT = 1
_ASIDE = ".before-restore"
# What SQLite's files are called: the database, its log of writes, and the index of that.
_ENDS = ("", "-wal", "-shm")
_LOCK_TIMEOUT_S = 30.0
_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """What a backup says of itself. create_time: ISO 8601, UTC; migrations: those that its database has applied."""

    create_time: str
    version: str
    migrations: tuple[str, ...]


def create(config: ControlConfig, path: Path) -> Manifest:
    """Writes a backup; the control plane may be running. An older file at `path` is replaced once the new one is whole.

    Raises FailedPreconditionError: USE_PG_DUMP, NO_DATABASE; OSError when the file cannot be written.
    """
    source = _database_file(config)
    if not source.exists():
        raise FailedPreconditionError(f"there is no database {source} (run `ostler-control init`)", "NO_DATABASE")
    part = path.with_name(f".{path.name}.part")
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=path.parent) as scratch_name:
        scratch = Path(scratch_name)
        # Nobody can write to the database meanwhile: an old journal that was not taken over yet must not be meanwhile.
        with closing(sqlite3.connect(source, timeout=_LOCK_TIMEOUT_S, isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            journal = config.state.old_journal
            if journal.exists():
                _copy(journal, scratch / _JOURNAL)
            _copy(source, scratch / _DATABASE)
            lock.execute("ROLLBACK")
        manifest = Manifest(
            datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            own_version(),
            _migrations(scratch / _DATABASE),
        )
        try:
            _write_archive(part, manifest, scratch, config.state_dir / _REPLICA)
            part.replace(path)
            _sync(path.parent)
        finally:
            part.unlink(missing_ok=True)
    return manifest


@dataclass(frozen=True)
class Restored:
    """manifest: of the backup; kept: what the database that was replaced is called now, if there was one."""

    manifest: Manifest
    kept: Path | None


def restore(config: ControlConfig, path: Path, *, replace: bool = False) -> Restored:
    """Puts a backup's database in place, while the control plane is stopped.

    replace: an existing database is kept beside the new one, with the suffix ".before-restore", or ".before-restore-2"
    and so on if a restore before this one has kept another.
    Raises InvalidArgumentError BAD_BACKUP; FailedPreconditionError: USE_PG_DUMP, RUNS_ALREADY, DATABASE_EXISTS,
    DATABASE_TOO_NEW. Then nothing has changed.
    """
    target = _database_file(config)
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        run_lock.alone(config.state),
        tempfile.TemporaryDirectory(prefix=".restore-", dir=config.state_dir) as scratch_name,
    ):
        scratch = Path(scratch_name)
        manifest = _read_archive(path, scratch)
        _check(scratch, manifest)
        if target.exists() and not replace:
            raise FailedPreconditionError(
                f"there is a database already ({target}); to replace it, repeat this with --replace: the old one is "
                "kept beside it",
                "DATABASE_EXISTS",
            )
        places = {
            _JOURNAL: config.state.old_journal,
            _DATABASE: target,
            _REPLICA: config.state_dir / _REPLICA,
        }
        suffix = _free_suffix(places.values())
        kept = target.with_name(target.name + suffix) if target.exists() else None
        for name, place in places.items():
            _put_aside(place, suffix)
            if (scratch / name).exists():
                _sync(scratch / name)
                (scratch / name).replace(place)
        _sync(config.state_dir)
    return Restored(manifest, kept)


def _database_file(config: ControlConfig) -> Path:
    if not config.database.startswith("sqlite:///"):
        raise FailedPreconditionError(
            "the database is PostgreSQL: back it up and restore it with pg_dump and pg_restore, whole",
            "USE_PG_DUMP",
        )
    return Path(config.database.removeprefix("sqlite:///"))


def _copy(source: Path, target: Path) -> None:
    """SQLite's online backup: consistent while others write."""
    with (
        closing(sqlite3.connect(source, timeout=_LOCK_TIMEOUT_S)) as reader,
        closing(sqlite3.connect(target)) as writer,
    ):
        reader.backup(writer)
        writer.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it


def _migrations(path: Path) -> tuple[str, ...]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name FROM schema_migration ORDER BY name").fetchall()
        return tuple(name for (name,) in rows)


def _write_archive(path: Path, manifest: Manifest, scratch: Path, replica: Path) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            content = {"format": _FORMAT, **vars(manifest)}
            data = json.dumps(content, indent=2).encode()
            info = tarfile.TarInfo(_MANIFEST)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            for member in (scratch / _DATABASE, scratch / _JOURNAL, replica):
                if member.exists():
                    archive.add(member, member.name)
        file.flush()
        os.fsync(file.fileno())


def _read_archive(path: Path, scratch: Path) -> Manifest:
    """Unpacks the known members, whatever else is in the archive."""
    try:
        with gzip.open(path) as packed:
            while packed.read(1 << 20):  # to its end, where the checksum is: tarfile does not read that
                pass
        with tarfile.open(path, "r:gz") as archive:
            for name in (_MANIFEST, _DATABASE, _JOURNAL, _REPLICA):
                try:
                    member = archive.getmember(name)
                except KeyError:
                    if name in (_MANIFEST, _DATABASE):
                        raise
                    continue
                if not member.isfile() or (name == _MANIFEST and member.size > _MAX_MANIFEST_BYTES):
                    raise KeyError(name)
                archive.extract(member, scratch, set_attrs=False, filter="data")
                (scratch / name).chmod(0o600)
        content = json.loads((scratch / _MANIFEST).read_bytes())
        if content["format"] != _FORMAT:
            raise KeyError("format")
        return Manifest(str(content["create_time"]), str(content["version"]), tuple(map(str, content["migrations"])))
    except (gzip.BadGzipFile, zlib.error, tarfile.TarError, EOFError, KeyError, TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"{path} is not a whole backup made by `ostler-control backup` ({type(error).__name__})", "BAD_BACKUP"
        ) from error


def _check(scratch: Path, manifest: Manifest) -> None:
    unknown = sorted(set(manifest.migrations) - set(database.known_migrations()))
    if unknown:
        raise FailedPreconditionError(
            f"Ostler {manifest.version} wrote the backup (it knows {', '.join(unknown)}): restore it with that version",
            "DATABASE_TOO_NEW",
        )
    for name in (_DATABASE, _JOURNAL):
        if not (scratch / name).exists():
            continue
        try:
            with closing(sqlite3.connect(scratch / name)) as connection:
                (answer,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            answer = str(error)
        if answer != "ok":
            raise InvalidArgumentError(f"the backup's {name} is damaged: {answer}", "BAD_BACKUP")


def _free_suffix(places: Collection[Path]) -> str:
    """One that no file has which an earlier restore has put aside: the log of writes of one database beside another one
    would destroy it."""
    suffixes = itertools.chain([_ASIDE], (f"{_ASIDE}-{number}" for number in itertools.count(2)))

    def is_free(suffix: str) -> bool:
        return not any(place.with_name(f"{place.name}{suffix}{end}").exists() for place in places for end in _ENDS)

    return next(filter(is_free, suffixes))


def _put_aside(path: Path, suffix: str) -> None:
    """Renames a file that is in the way; SQLite's files beside it go with it."""
    for end in _ENDS:
        old = path.with_name(path.name + end)
        if old.exists():
            old.replace(path.with_name(f"{path.name}{suffix}{end}"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
