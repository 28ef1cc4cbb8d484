"""A disk that QEMU of another host serves over NBD with TLS, on a local NBD socket without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ostler_agent.process import Cancellation
from ostler_agent.tools.nbd import NbdExport
from ostler_agent.tools.remote_disk import storage_daemon
from ostler_agent.tools.tls import TlsServer


@contextmanager
def relayed(
    server: TlsServer, port: int, export: str, directory: Path, reconnect_s: int, cancel: Cancellation
) -> Iterator[NbdExport]:
    """Serves an export of the server, read-only, while the block lasts; yields the local one.

    directory: empty, only this user can enter it; reconnect_s: how long a server that is gone is waited for. Raises
    RunError when the server does not answer, or is not the one that its certificate must name.
    """
    with server.qemu_files(directory / "tls") as files:
        node = {
            "driver": "nbd",
            "node-name": "remote",
            "server": {"type": "inet", "host": server.host, "port": str(port)},
            "export": export,
            "tls-creds": "tls",
            "tls-hostname": server.host,
            "reconnect-delay": reconnect_s,
            "read-only": True,
        }
        arguments = [
            "--object", f"tls-creds-x509,id=tls,endpoint=client,verify-peer=on,dir={str(files).replace(',', ',,')}",
            "--blockdev", json.dumps(node),
        ]  # fmt: skip
        with storage_daemon(arguments, "remote", directory, (), cancel) as local:
            yield local
