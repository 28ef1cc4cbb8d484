"""The link of the hunts loses, delays and stops the packets it is told to, and no others."""

from __future__ import annotations

import errno
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import link as links
from tests.fakes.link import Carrier, Link, Weather, link
from tests.needs import need

NEAR, FAR = bytes([198, 18, 0, 1]), bytes([198, 18, 0, 2])
SERVER, CLIENT = 5000, 40000
ALL = [bytes([number]) for number in range(100)]


def packet(source: int, target: int, payload: bytes, protocol: int = 6) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 0, 0, 64, protocol, 0, NEAR, FAR)
    return head + struct.pack("!HHIIBBHHH", source, target, 0, 0, 0x50, 0, 0, 0, 0) + payload


def carried(weather: Weather, *, back: bool = False, seed: int = 1) -> list[bytes]:
    """What arrives of ALL, in order."""
    carrier = Carrier(random.Random(seed))
    carrier.weather = {SERVER: weather}
    ports = (SERVER, CLIENT) if back else (CLIENT, SERVER)
    for payload in ALL:
        carrier.take(packet(*ports, payload), now_s=0.0)
    return [one[40:] for one in carrier.due(10.0)]


def test_fair_weather_exchanges_the_addresses_and_nothing_else() -> None:
    carrier = Carrier(random.Random(1))
    sent = packet(CLIENT, SERVER, b"x")
    carrier.take(sent, 0.0)
    (arrived,) = carrier.due(0.0)
    assert (arrived[12:16], arrived[16:20]) == (FAR, NEAR)
    assert arrived[:12] + arrived[20:] == sent[:12] + sent[20:]
    carrier.take(packet(CLIENT, SERVER, b"x", protocol=17), 0.0)
    carrier.take(b"\x60" + sent[1:], 0.0)
    assert list(carrier.due(0.0)) == [], "only TCP over IPv4"


def test_a_share_is_lost_the_same_for_a_seed() -> None:
    some = carried(Weather(to=0.2))
    assert 65 < len(some) < 95
    assert some == sorted(some)
    assert carried(Weather(to=0.2)) == some != carried(Weather(to=0.2), seed=2)


@pytest.mark.parametrize("back", [False, True])
def test_one_direction_is_stopped_and_the_other_is_not(back: bool) -> None:
    assert carried(Weather(to=1.0), back=back) == (ALL if back else [])
    assert carried(Weather(back=1.0), back=back) == ([] if back else ALL)


def test_jitter_reorders_and_a_delay_delays() -> None:
    mixed = carried(Weather(jitter_s=0.2))
    assert mixed != ALL
    assert sorted(mixed) == ALL
    carrier = Carrier(random.Random(1))
    carrier.weather = {SERVER: Weather(delay_s=0.5)}
    assert carrier.wait_s(0.0) is None
    carrier.take(packet(CLIENT, SERVER, b"x"), 1.0)
    assert list(carrier.due(1.4)) == []
    assert carrier.wait_s(1.4) == pytest.approx(0.1)
    assert len(list(carrier.due(1.5))) == 1


@pytest.fixture
def echo() -> Iterator[tuple[Link, int, str]]:
    """A link, and a server behind it that answers what it is told."""
    need(links.missing())
    with link(seed=1) as found, socket.create_server((found.near, 0)) as server:

        def serve(connection: socket.socket) -> None:
            while data := connection.recv(65536):
                connection.sendall(data)

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield found, server.getsockname()[1], found.far


def test_tcp_meets_lost_packets_and_sends_them_again(echo: tuple[Link, int, str]) -> None:
    found, port, address = echo
    with socket.create_connection((address, port), 10) as client:
        client.sendall(b"before")
        assert client.recv(100) == b"before"
        found.set({port: Weather(to=0.2, back=0.2)})
        answer = b""
        sender = threading.Thread(target=client.sendall, args=(bytes(60_000),))
        sender.start()
        while len(answer) < 60_000:
            answer += client.recv(65536)
        sender.join()
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        total_retransmissions = struct.unpack_from("I", info, 100)[0]
        assert total_retransmissions > 0
        found.set({port: Weather(back=1.0)})
        client.settimeout(0.5)
        client.sendall(b"during")
        with pytest.raises(TimeoutError):
            client.recv(100)
        found.set({})
        client.settimeout(60)
        assert client.recv(100) == b"during", "the connection goes on once the network is back"


def test_two_links_are_apart(echo: tuple[Link, int, str]) -> None:
    with link(seed=1) as other:
        assert other.near != echo[0].near


def test_a_device_that_may_not_be_made_is_not_taken_for_another_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [OSError(errno.EBUSY, "taken"), OSError(errno.EPERM, "not permitted")]

    def refuse(*_: object) -> None:
        raise answers.pop(0)

    monkeypatch.setattr(links, "TUN", Path("/dev/null"))
    monkeypatch.setattr("fcntl.ioctl", refuse)
    with pytest.raises(PermissionError):
        links._open()
    assert answers == []


def test_what_a_machine_lacks_for_a_link_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "TUN", Path("/dev/net/none"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert "needs /dev/net/none" in (links.missing() or "")
    monkeypatch.setattr(links, "TUN", Path("/dev/null"))
    assert links.missing() is None
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "needs root" in (links.missing() or "")
