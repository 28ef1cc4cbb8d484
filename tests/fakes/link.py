"""A network between two addresses of this machine that loses, delays, reorders or cuts real packets.

One TUN device holds both ends: what goes to `far` comes back, with source and destination exchanged, as if a machine
with the address `far` had sent it to `near`. So a server that listens on `near` is reached by `far`, through the TCP of
the kernel, and the process that carries the packets (this module's `main`) decides what becomes of each. An exchange
of the two addresses leaves all checksums as they are. Needs root, and no namespaces, qdiscs or netfilter.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_MAX_LINKS, _MTU, _TCP = 200, 1500, 6
_DONE = b"done\n"


@dataclass(frozen=True)
class Weather:
    """What becomes of the packets of a server. to, back: share of those lost on the way to it and back; delay_s: of
    each; jitter_s: up to so much more, so that they overtake each other."""

    to: float = 0.0
    back: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0


FAIR = Weather()


class Link:
    """near: where servers listen; far: the address by which they are reached."""

    def __init__(self, process: subprocess.Popen[bytes], number: int) -> None:
        self._process = process
        self.near, self.far = _addresses(number)

    def set(self, weather: Mapping[int, Weather]) -> None:
        """Once it returns, this becomes of packets, by the server's port; of others, nothing. Not by two threads."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        rules = {str(port): asdict(one) for port, one in weather.items()}
        self._process.stdin.write(json.dumps(rules).encode() + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == _DONE, "what carries the packets has ended"


def missing() -> str | None:
    """Why this process can make none; None when it can."""
    if os.geteuid() != 0:
        return "a network that loses packets needs root"
    return None if TUN.exists() else f"a network that loses packets needs {TUN} (modprobe tun)"


@contextlib.contextmanager
def link(seed: int) -> Iterator[Link]:
    """seed: of what is lost."""
    argv = [sys.executable, "-m", "tests.fakes.link", str(seed)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        number = process.stdout.readline()
        assert number, "there is no TUN device"
        yield Link(process, int(number))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)


def _addresses(number: int) -> tuple[str, str]:
    """In 198.18.0.0/15, which is for tests of networks (RFC 2544)."""
    return f"198.18.{number}.1", f"198.18.{number}.2"


def _open() -> tuple[int, int]:
    """The descriptor of a new device, and its number. It is gone when the descriptor is closed."""
    for number in range(_MAX_LINKS):
        tun = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
        name = f"ostlerlink{number}"
        try:
            fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        except OSError as error:
            os.close(tun)
            if error.errno != errno.EBUSY:  # else it is another run's
                raise
            continue
        near, far = _addresses(number)
        for words in (f"address add {near} peer {far}/32 dev {name}", f"link set {name} mtu {_MTU} up"):
            subprocess.run(["ip", *words.split()], check=True, stdout=sys.stderr)
        return tun, number
    raise AssertionError("all links are in use")


class Carrier:
    """Decides what becomes of each packet. dice: of the seed."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.weather: dict[int, Weather] = {}
        self._under_way: list[tuple[float, int, bytes]] = []
        self._count = 0

    def take(self, packet: bytes, now_s: float) -> None:
        """A packet that was sent."""
        if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != _TCP:
            return
        begin = (packet[0] & 15) * 4
        source, target = struct.unpack_from("!HH", packet, begin)
        there = self.weather.get(target)
        weather = there or self.weather.get(source, FAIR)
        if self._dice.random() < (weather.to if there else weather.back):
            return
        due_s = now_s + weather.delay_s + self._dice.uniform(0.0, weather.jitter_s)
        self._count += 1
        heapq.heappush(self._under_way, (due_s, self._count, packet[:12] + packet[16:20] + packet[12:16] + packet[20:]))

    def due(self, now_s: float) -> Iterator[bytes]:
        """Those that arrive now."""
        while self._under_way and self._under_way[0][0] <= now_s:
            yield heapq.heappop(self._under_way)[2]

    def wait_s(self, now_s: float) -> float | None:
        """Until the next one arrives; None: none is under way."""
        return max(0.0, self._under_way[0][0] - now_s) if self._under_way else None


def main(seed: str) -> None:
    """Carries packets until standard input ends. Each line of it is the weather from now on, and is answered."""
    tun, number = _open()
    print(number, flush=True)
    carrier, lines, rest = Carrier(random.Random(f"{seed}/link")), sys.stdin.fileno(), b""
    while True:
        ready, _, _ = select.select([tun, lines], [], [], carrier.wait_s(time.monotonic()))
        if lines in ready:
            data = os.read(lines, 65536)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                carrier.weather = {int(port): Weather(**values) for port, values in json.loads(line).items()}
                print(_DONE.decode(), end="", flush=True)
        if tun in ready:
            with contextlib.suppress(BlockingIOError):
                for _ in range(64):
                    carrier.take(os.read(tun, 65536), time.monotonic())
        for packet in carrier.due(time.monotonic()):
            with contextlib.suppress(OSError):  # the kernel's queue is full: one more that is lost
                os.write(tun, packet)


if __name__ == "__main__":
    main(*sys.argv[1:])
