"""The control plane's configuration, its leader among replicas, and its patience with hosts."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path

import pytest
from ostler_common.config import ConfigError
from ostler_control.config import ControlConfig, load_config
from ostler_control.database import is_sqlite
from ostler_control.fleet.backoff import CONNECTIONS_PER_S, Pace, delay_s
from ostler_control.fleet.leader import Leader
from ostler_control.models import Replica, now
from ostler_control.operations import replicas
from ostler_control.operations.replicas import BEAT_S, SILENCE_S, Heartbeats


@pytest.mark.parametrize(
    ("advertise", "listen", "main", "enroll"),
    [
        ("ctl.example", "[::]:8440", "ctl.example:8440", "ctl.example:8441"),
        ("10.0.0.1", "0.0.0.0:9000", "10.0.0.1:9000", "10.0.0.1:8441"),
        ("ctl.example:443", "[::]:8440", "ctl.example:443", "ctl.example:8441"),
        ("fd00::1", "[::]:8440", "[fd00::1]:8440", "[fd00::1]:8441"),
        ("[fd00::1]:443", "[::]:8440", "[fd00::1]:443", "[fd00::1]:8441"),
        ("[fd00::1]", "[::]:8440", "[fd00::1]:8440", "[fd00::1]:8441"),
    ],
)
def test_addresses_that_others_are_told(advertise: str, listen: str, main: str, enroll: str) -> None:
    config = ControlConfig(advertise_address=advertise, listen=listen)
    assert (config.main_address, config.enroll_address) == (main, enroll)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lissten = '[::]:1'", "lissten: unknown key (did you mean listen?)"),
        ("listen = '8440'", "listen: '8440' is not \"host:port\""),
        ("host_certificate_lifetime = 'soon'", "host_certificate_lifetime: 'soon' is not a duration"),
        ("state_dir = 'here'", "state_dir: here is not an absolute path"),
        ("workers = 1", "workers: Input should be greater than or equal to 4"),
    ],
)
def test_bad_configuration_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "control.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "control.toml"
    path.write_text("host_certificate_lifetime = '7d'\nlog_level = 'debug'")
    monkeypatch.setenv("OSTLER_CONTROL_HOST_CERTIFICATE_LIFETIME", "90s")
    config = load_config(path)
    assert config.lifetimes.host == datetime.timedelta(seconds=90)
    assert config.log_level == "debug"


class _Watching:
    """A replica that reads the heartbeats every two seconds of a clock that the test turns."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.leader = Leader("b", Heartbeats(lambda: self.clock))

    def leads_after(self, seconds: float) -> bool:
        end = self.clock + seconds
        while self.clock + BEAT_S < end:
            self.clock += BEAT_S
            self.leader.is_me()
        self.clock = end
        return self.leader.is_me()


def test_living_replica_with_the_smallest_id_leads(fresh_database: str) -> None:
    watching = _Watching()
    Replica.create(id="b")
    assert watching.leads_after(0)
    other = Replica.create(id="a")
    Replica.create(id="c")
    assert watching.leads_after(0) == is_sqlite()
    assert watching.leads_after(SILENCE_S - 1) == is_sqlite()
    Replica.update(heartbeat_time=now() + datetime.timedelta(seconds=9)).where(Replica.id == other.id).execute()
    assert watching.leads_after(0) == is_sqlite()
    assert watching.leads_after(SILENCE_S - 1) == is_sqlite()  # silent since its heartbeat, not since it was first seen
    assert watching.leads_after(1)


def test_nobody_counts_as_silent_for_the_time_that_heartbeats_could_not_be_read(fresh_database: str) -> None:
    """After an outage of the database every heartbeat is old, and so is that of a replica that is well."""
    watching = _Watching()
    Replica.create(id="a")
    assert watching.leads_after(0) == is_sqlite()
    watching.clock += 60
    assert watching.leads_after(0) == is_sqlite()
    assert watching.leads_after(SILENCE_S - 1) == is_sqlite()
    assert watching.leads_after(1)


def test_the_addresses_of_all_replicas_are_known_until_they_have_been_gone_for_a_week(fresh_database: str) -> None:
    replicas.beat("a", "ctl1:8440")
    replicas.beat("b", "ctl2:8440")
    Replica.create(id="c", address="ctl3:8440", heartbeat_time=now() - datetime.timedelta(days=6))
    Replica.create(id="d", address="ctl4:8440", heartbeat_time=now() - datetime.timedelta(days=8))
    assert replicas.forget_gone() == 1
    assert replicas.addresses("ctl2:8440") == "ctl2:8440,ctl1:8440,ctl3:8440"
    assert replicas.addresses("new:8440") == "new:8440,ctl1:8440,ctl2:8440,ctl3:8440"


def test_delays_double_up_to_a_ceiling_and_are_spread() -> None:
    longest = [delay_s(n, min_s=0.5, max_s=15, uniform=lambda low, high: high) for n in (1, 2, 3, 6, 5000)]
    shortest = [delay_s(n, min_s=0.5, max_s=15, uniform=lambda low, high: low) for n in (1, 2, 3, 6, 5000)]
    assert longest == [0.5, 1, 2, 15, 15]
    assert shortest == [delay / 2 for delay in longest]


def test_pace_lets_so_many_through_a_second() -> None:
    async def many() -> float:
        pace, loop = Pace(per_s=200), asyncio.get_running_loop()
        begin = loop.time()
        await asyncio.gather(*(pace.turn() for _ in range(41)))
        return loop.time() - begin

    assert asyncio.run(many()) >= 0.19
    assert 1000 / CONNECTIONS_PER_S < 7, "1,000 hosts are to be up 12 s after a start, which takes 2 to 3 s itself"
