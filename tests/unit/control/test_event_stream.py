"""Events as clients follow and verify them, over a real connection to a whole control plane."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ostler.client import FailedPreconditionError, InvalidArgumentError, PermissionDeniedError
from ostler.client.client import Client
from ostler.client.profile import Profile
from ostler.control.v1.account_pb2 import CreateAccountRequest
from ostler.control.v1.event_pb2 import Event as Message
from ostler.control.v1.event_pb2 import VerifyEventsRequest, WatchEventsRequest
from ostler_common.tls import TlsFiles
from ostler_control import database, events
from ostler_control.caller import Role
from ostler_control.cli.main import root
from ostler_control.models import Event, User
from ostler_control.server import Control

from tests.databases import free_port
from tests.fakes.fleet import Fleet

PATIENCE_S = 60


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet(tmp_path)
    fleet.config = fleet.config.model_copy(update={"listen": f"127.0.0.1:{free_port()}"})
    return fleet


@pytest.fixture
def control(fleet: Fleet) -> Iterator[Control]:
    with fleet.running() as control:
        yield control


def connect(fleet: Fleet, credentials: TlsFiles) -> Client:
    path = fleet.directory / "profile.toml"
    profile = Profile(path, fleet.config.listen, credentials.trust, credentials.certificate, credentials.key)
    return Client(profile)


def followed(client: Client, after: int) -> queue.SimpleQueue[Message]:
    """The events of a thread that follows them until its client is closed."""
    found: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def follow() -> None:
        try:
            for event in client.watch_events(type="account", after=after):
                found.put(event)
        except ValueError:  # gRPC's for a closed channel
            pass

    threading.Thread(target=follow, daemon=True).start()
    return found


def create(client: Client, name: str) -> None:
    client.accounts.CreateAccount(CreateAccountRequest(name=name))


def test_a_follower_outlives_a_restart_and_gets_each_event_once(fleet: Fleet) -> None:
    with connect(fleet, fleet.admin) as client:
        with fleet.running():
            found = followed(client, 0)
            create(client, "one")
            assert found.get(timeout=PATIENCE_S).resource_name == "one"
        with fleet.running(), connect(fleet, fleet.admin) as second:
            create(second, "two")
            event = found.get(timeout=PATIENCE_S)
            assert (event.resource_name, event.actor, len(event.digest)) == ("two", "admin", 64)
        assert found.empty()


def test_members_follow_what_their_account_owns(fleet: Fleet, control: Control) -> None:
    mia = fleet.user("mia", Role.MEMBER)
    with database.session():
        account = User.get(User.name == "mia").account_id
        for name, owner in (("hidden", ""), ("shown", account)):
            events.record("vm.start", events.Outcome.STARTED, "ada", "vm", name, name, account_id=owner)
    with connect(fleet, mia) as client:
        event = next(client.watch_events(type="vm", after=0))
        assert (event.resource_name, event.digest) == ("shown", "")
        with pytest.raises(PermissionDeniedError):
            client.events.VerifyEvents(VerifyEventsRequest())


def test_a_stopping_control_plane_sends_its_followers_away_at_once(fleet: Fleet) -> None:
    with connect(fleet, fleet.admin) as client, fleet.running() as control:
        stream = client.events.WatchEvents(WatchEventsRequest())
        assert not next(stream).HasField("event"), "a sign of life comes first"
        stopper = threading.Thread(target=control.stop)
        stopper.start()
        with pytest.raises(Exception, match="stopping"):
            list(stream)
        stopper.join()


def test_bad_requests_are_refused(fleet: Fleet, control: Control) -> None:
    with connect(fleet, fleet.admin) as client:
        for watched in (WatchEventsRequest(after_sequence=-1), _both()):
            with pytest.raises(InvalidArgumentError):
                next(client.events.WatchEvents(watched))
        with pytest.raises(FailedPreconditionError) as error:
            next(client.events.WatchEvents(WatchEventsRequest(after_sequence=1 << 40)))
        assert error.value.reason == "EVENT_UNKNOWN"
        for asked in (VerifyEventsRequest(known_sequence=-1), VerifyEventsRequest(known_sequence=1)):
            with pytest.raises(InvalidArgumentError):
                client.events.VerifyEvents(asked)


def _both() -> WatchEventsRequest:
    request = WatchEventsRequest(after_sequence=1)
    request.start_time.GetCurrentTime()
    return request


def test_the_command_line_verifies_the_log(fleet: Fleet, control: Control) -> None:
    def verify(*options: str) -> Result:
        environment = {"OSTLER_PROFILE": str(fleet.directory / "profile.toml"), "COLUMNS": "200"}
        profile = fleet.directory / "profile.toml"
        profile.write_text(profile.read_text().replace("127.0.0.1:0", fleet.config.listen))
        return CliRunner(env=environment).invoke(root, ["event", "verify", *options])

    whole = verify()
    assert whole.exit_code == 0, whole.stderr
    known = whole.stdout.splitlines()[-1]
    assert verify("--known", known).exit_code == 0
    assert verify("--known", "nonsense").exit_code == 2
    with database.session():
        Event.update(actor="mallory").where(Event.sequence == 2).execute()
    broken = verify("-o", "json")
    assert broken.exit_code == 6
    assert "event 2 was altered" in broken.stderr
    assert '"reason": "ALTERED"' in broken.stdout
