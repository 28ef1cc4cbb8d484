"""Databases for tests: SQLite files, and a PostgreSQL server that lives as long as the test run."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from ostler_control import database
from ostler_control.models import ALL, db

from tests.small_disks import SmallDisk, small_disk

_INITDB_OPTIONS = ("--no-sync", "-E", "UTF8", "--locale=C")
# What a test database may lose in a power cut is nobody's loss.
_OPTIONS = ("fsync=off", "full_page_writes=off", "max_connections=150", "unix_socket_directories=", "autovacuum=off")
TABLES_BYTES, WAL_BYTES = 192 << 20, 24 << 20
# The name of the database that others are copies of, and the servers that have it.
_MIGRATED = "migrated"
_SERVERS_WITH_COPY: set[str] = set()
_SMALL_OPTIONS = ("min_wal_size=2MB", "max_wal_size=8MB")


@dataclass(frozen=True)
class Disks:
    """What a server's tables and its write-ahead log are on."""

    tables: SmallDisk
    wal: SmallDisk


def postgresql_programs() -> Path | None:
    """Where initdb and postgres are: Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if found:
        return found[-1]
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


def missing() -> str | None:
    """Why PostgreSQL cannot be started on this machine; None when it can."""
    return None if postgresql_programs() else "needs PostgreSQL (make setup)"


class PostgresServer:
    """A PostgreSQL server on a free loopback port, `port`. url: up to and including the slash before the database.

    It dies with this process, whatever happens to it. PostgreSQL refuses to run as root, so root runs it as `postgres`.
    disks: those of its tables and of its write-ahead log, if they are others than the one it is on.
    """

    def __init__(self, directory: Path, disks: Disks | None = None) -> None:
        programs = postgresql_programs()
        assert programs is not None, "PostgreSQL is not installed"
        self._programs = programs
        self._directory = directory
        self._user = "postgres" if os.geteuid() == 0 else None
        self.disks = disks
        self._data = (disks.tables.directory if disks else directory) / "data"
        options = [*_INITDB_OPTIONS]
        if disks:
            options += [f"--waldir={disks.wal.directory / 'wal'}", "--wal-segsize=1"]
        if self._user:
            for one in (directory, *((disks.tables.directory, disks.wal.directory) if disks else ())):
                shutil.chown(one, self._user, self._user)
        subprocess.run(
            [programs / "initdb", "-D", self._data, "-A", "trust", "-U", "ostler", *options],
            user=self._user,
            cwd=directory,
            check=True,
            capture_output=True,
        )
        self.port = free_port()
        self.url = f"postgresql://ostler@127.0.0.1:{self.port}/"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers."""
        options = [*_OPTIONS, f"port={self.port}", *(_SMALL_OPTIONS if self.disks else ())]
        settings = [word for option in options for word in ("-c", option)]
        postgres: list[str | Path] = [self._programs / "postgres", "-D", self._data, "-h", "127.0.0.1", *settings]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "INT", *postgres],
                user=self._user,
                cwd=self._directory,
                stdout=log,
                stderr=log,
            )
        _wait_for(self.url, self._process, self._directory / "log")

    def stop(self, *, crash: bool = False) -> None:
        """Ends every connection. crash: leaves its files as they are, to be recovered by the next start."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)  # its immediate and fast shutdown
            self._process.wait(30)
            self._process = None

    def fill_wal(self) -> None:
        """Fills the disk of its write-ahead log, and what room it has in files that are there already: PostgreSQL
        stops all its work at once, and may end."""
        assert self.disks is not None
        self.disks.wal.fill()
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url + "postgres") as connection:
            for _ in range(2 * WAL_BYTES >> 20):
                connection.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1 << 20))")
                self.disks.wal.fill()  # what a checkpoint has given back

    def free(self) -> None:
        """Frees its disks. Starts it again if it has ended, as systemd would."""
        assert self.disks is not None
        self.disks.tables.free()
        self.disks.wal.free()
        end = time.monotonic() + 60
        while True:
            if self._process is None or self._process.poll() is not None:
                try:
                    self.start()
                except AssertionError:  # the log itself fills its disk, and recovery needs room; an admin makes some
                    self.disks.wal.grow(2 * WAL_BYTES)
                    self.start()
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url + "postgres", connect_timeout=2).close()
                return
            assert time.monotonic() < end, f"PostgreSQL does not come back: {self.log()}"
            time.sleep(0.1)

    def log(self) -> str:
        """The end of what it printed."""
        return (self._directory / "log").read_text(errors="replace")[-4000:]


@contextlib.contextmanager
def postgresql_server(*, small: bool = False) -> Iterator[PostgresServer]:
    """A running PostgreSQL server. small: its tables and its write-ahead log are each on a small disk; needs root."""
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="ostler-pg-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        disks = None
        if small:
            tables = stack.enter_context(small_disk(directory / "tables", TABLES_BYTES))
            disks = Disks(tables, stack.enter_context(small_disk(directory / "wal", WAL_BYTES)))
        server = PostgresServer(directory, disks)
        stack.callback(server.stop)
        server.start()
        yield server


def free_port() -> int:
    """One below those that the kernel gives to whoever asks for any: nobody gets it while its server is down."""
    while True:
        port = random.randrange(20_000, 32_768)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url + "postgres", connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL did not start: {log.read_text()}") from None
            time.sleep(0.05)


def run_sql(url: str, statement: str) -> None:
    """One statement outside any transaction, as CREATE DATABASE wants it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def empty(url: str) -> None:
    """Deletes every row of Ostler's tables in a PostgreSQL database."""
    deletions = [f'DELETE FROM "{model._meta.table_name}"' for model in ALL]
    with psycopg.connect(url) as connection:
        # Foreign keys need no order now. In one message: most tables are empty, and an answer each takes longest.
        connection.execute("; ".join(["SET session_replication_role = replica", *deletions]).encode())


def new_database(server: str, name: str) -> str:
    """A migrated database on this PostgreSQL server, as a copy of one that is made once. Gives its URL."""
    if server not in _SERVERS_WITH_COPY:
        run_sql(server + "postgres", f"CREATE DATABASE {_MIGRATED}")
        _migrate(server + _MIGRATED)
        _SERVERS_WITH_COPY.add(server)
    run_sql(server + "postgres", f"CREATE DATABASE {name} TEMPLATE {_MIGRATED}")
    return server + name


@functools.cache
def _migrated_file() -> bytes:
    """An SQLite database that is migrated and otherwise empty."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "ostler.sqlite"
        _migrate(f"sqlite:///{file}")
        return file.read_bytes()


def _migrate(url: str) -> None:
    """Leaves the models bound to what they are bound to."""
    before = db.obj
    database.connect(url)
    try:
        database.migrate()
    finally:
        database.disconnect()
        db.initialize(before)


@contextlib.contextmanager
def bound(url: str, *, migrate: bool = True) -> Iterator[str]:
    """The models bound to this database, with a session for this thread; gives the URL.

    migrate: a database that is not there yet becomes a copy of one that is migrated; another one is brought up to date.
    """
    file = Path(url.removeprefix("sqlite:///"))
    if migrate and url.startswith("sqlite:///") and not file.exists():
        file.write_bytes(_migrated_file())
    database.connect(url)
    try:
        if migrate:
            database.migrate()
        with database.session():
            yield url
    finally:
        database.disconnect()
