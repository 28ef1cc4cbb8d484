"""The VM of `process_driver`: a daemon that locks its disks and echoes what is typed on its console.

Usage: vm_process.py VM_ID DIRECTORY PARENT_PID DISK...
Exits with 3 if another VM has a disk locked, with 4 if a disk cannot be opened. With PARENT_PID (not 0), it ends when
that process ends: the fault of a VM that does not outlive the agent.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import socket
import sys
from pathlib import Path

IN_USE, NO_DISK = 3, 4


def main(vm_id: str, directory: Path, parent: int, disks: list[str]) -> None:
    lock_disks(disks)
    server = socket.socket(socket.AF_UNIX)
    os.chdir(directory)  # the address of a socket has at most 107 characters
    Path("console").unlink(missing_ok=True)
    server.bind("console")
    server.listen()
    daemonize(directory / "pid")
    serve(server, parent)


def lock_disks(disks: list[str]) -> list[int]:
    files = []
    for disk in disks:
        try:
            file = os.open(disk, os.O_RDWR)
        except OSError:
            sys.exit(NO_DISK)
        os.set_inheritable(file, True)
        files.append(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(IN_USE)
    return files


def daemonize(pid_file: Path) -> None:
    """The parent exits once the child has written its process id."""
    ready, write = os.pipe()
    if os.fork():
        os.read(ready, 1)
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pid_file.with_suffix(".new").write_text(str(os.getpid()))
    pid_file.with_suffix(".new").rename(pid_file)
    os.write(write, b"x")
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)


def serve(server: socket.socket, parent: int) -> None:
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select(0.2 if parent else None):
            if key.fileobj is server:
                selector.register(server.accept()[0], selectors.EVENT_READ)
                continue
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            data = connection.recv(4096)
            if data:
                connection.sendall(data)
            else:
                selector.unregister(connection)
                connection.close()
        if parent and not Path(f"/proc/{parent}").exists():
            return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
