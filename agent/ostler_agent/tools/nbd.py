"""Disks that another process of this host serves over NBD."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NbdExport:
    """A disk on a Unix socket. name: the export's; reconnect_s: how long a reader waits for a server that is gone."""

    socket: Path
    name: str
    reconnect_s: int = 60

    @property
    def options(self) -> str:
        """QEMU's options for the protocol layer of an image."""
        socket, name = (str(part).replace(",", ",,") for part in (self.socket, self.name))
        server = f"file.server.type=unix,file.server.path={socket}"
        return f"file.driver=nbd,{server},file.export={name},file.reconnect-delay={self.reconnect_s}"
