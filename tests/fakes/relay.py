"""A TCP relay whose network can go dead: connections stay open, and no byte crosses them any more. Or it is slow."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time


class Relay:
    """Forwards the port of an address of this machine to another port of 127.0.0.1."""

    def __init__(self, target_port: int, address: str = "127.0.0.1") -> None:
        self._target_port = target_port
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._dead = False
        # Connections made before the last cut stay dead when the network is back.
        self._generation = 0
        self._share, self._delay_s = 0.0, 0.0
        # What the callers have sent so far.
        self.sent_bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on nothing is forwarded; connections are accepted, as a firewall's state might, and stay silent."""
        self._dead = True
        self._generation += 1

    def delay(self, share: float, delay_s: float) -> None:
        """From now on this share of what is sent comes so much later, as where packets are lost and sent again."""
        self._share, self._delay_s = share, delay_s

    def heal(self) -> None:
        """New connections are forwarded again, and nothing is delayed."""
        self._dead = False
        self._share = 0.0

    def close(self) -> None:
        for open_socket in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            if self._dead:
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:  # nobody listens there now
                client.close()
                continue
            self._sockets.append(server)
            for source, sink, calling in ((client, server, True), (server, client, False)):
                arguments = (source, sink, calling, self._generation)
                threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, calling: bool, generation: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if random.random() < self._share:
                    time.sleep(self._delay_s)
                if generation == self._generation:
                    sink.sendall(data)
                    self.sent_bytes += len(data) if calling else 0
            if generation == self._generation:
                sink.shutdown(socket.SHUT_WR)
                return
        if generation == self._generation:  # the connection broke, and whoever has its other end hears of it
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
