"""Databases for tests: SQLite files, and a PostgreSQL server that lives as long as the test run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from ostler_control import database
from ostler_control.models import ALL

_INITDB_OPTIONS = ("--no-sync", "-E", "UTF8", "--locale=C")
# What a test database may lose in a power cut is nobody's loss.
_OPTIONS = ("fsync=off", "full_page_writes=off", "max_connections=150", "unix_socket_directories=", "autovacuum=off")


def postgresql_programs() -> Path | None:
    """Where initdb and postgres are: Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if found:
        return found[-1]
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


class PostgresServer:
    """A PostgreSQL server on a free loopback port. url: up to and including the slash before the database.

    It dies with this process, whatever happens to it. PostgreSQL refuses to run as root, so root runs it as `postgres`.
    """

    def __init__(self, directory: Path) -> None:
        programs = postgresql_programs()
        assert programs is not None, "PostgreSQL is not installed"
        self._programs = programs
        self._directory = directory
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(directory, self._user, self._user)
        subprocess.run(
            [programs / "initdb", "-D", self._data, "-A", "trust", "-U", "ostler", *_INITDB_OPTIONS],
            user=self._user,
            cwd=directory,
            check=True,
            capture_output=True,
        )
        self._port = free_port()
        self.url = f"postgresql://ostler@127.0.0.1:{self._port}/"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def start(self) -> None:
        """Returns once it answers."""
        settings = [word for option in (*_OPTIONS, f"port={self._port}") for word in ("-c", option)]
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

    def stop(self) -> None:
        """Ends every connection."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # its fast shutdown
            self._process.wait(30)
            self._process = None


@contextlib.contextmanager
def postgresql_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL server."""
    directory = Path(tempfile.mkdtemp(prefix="ostler-pg-"))
    try:
        server = PostgresServer(directory)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
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
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")  # foreign keys need no order now
        for model in ALL:
            connection.execute(f'DELETE FROM "{model._meta.table_name}"'.encode())


@contextlib.contextmanager
def bound(url: str, *, migrate: bool = True) -> Iterator[str]:
    """The models bound to this database, with a session for this thread; gives the URL."""
    database.connect(url)
    try:
        if migrate:
            database.migrate()
        with database.session():
            yield url
    finally:
        database.disconnect()
