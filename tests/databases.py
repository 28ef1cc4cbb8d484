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

# What a test database may lose in a power cut is nobody's loss.
_OPTIONS = ("fsync=off", "full_page_writes=off", "max_connections=150", "unix_socket_directories=", "autovacuum=off")


def postgresql_programs() -> Path | None:
    """Where initdb and postgres are: Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if found:
        return found[-1]
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


@contextlib.contextmanager
def postgresql_server() -> Iterator[str]:
    """A PostgreSQL server on a free loopback port; gives its URL up to and including the slash before the database.

    It dies with this process, whatever happens to it. PostgreSQL refuses to run as root, so root runs it as `postgres`.
    """
    programs = postgresql_programs()
    assert programs is not None, "PostgreSQL is not installed"
    user = "postgres" if os.geteuid() == 0 else None
    directory = Path(tempfile.mkdtemp(prefix="ostler-pg-"))
    try:
        if user:
            shutil.chown(directory, user, user)
        data = directory / "data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-A", "trust", "-U", "ostler", "--no-sync", "-E", "UTF8", "--locale=C"],
            user=user,
            cwd=directory,
            check=True,
            capture_output=True,
        )
        port = _free_port()
        settings = [word for option in (*_OPTIONS, f"port={port}") for word in ("-c", option)]
        with (directory / "log").open("wb") as log:
            server = subprocess.Popen(
                ["setpriv", "--pdeathsig", "INT", programs / "postgres", "-D", data, "-h", "127.0.0.1", *settings],
                user=user,
                cwd=directory,
                stdout=log,
                stderr=log,
            )
        try:
            url = f"postgresql://ostler@127.0.0.1:{port}/"
            _wait_for(url, server, directory / "log")
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # its fast shutdown
            server.wait(30)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
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
