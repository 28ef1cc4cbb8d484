"""Settings: types, scopes, where a value comes from, and the API."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from ostler.control.v1 import setting_pb2 as pb
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from ostler_control import settings
from ostler_control.api.settings import SettingService
from ostler_control.catalog import accounts, zones
from ostler_control.models import Account, Cluster, Event, SettingValue, Zone

from tests.unit.control import calls

CONTEXT = calls.context(calls.admin())
STOP = settings.vms.STOP_TIMEOUT
SERVICE = SettingService()

pytestmark = pytest.mark.usefixtures("fresh_database")


class Places(NamedTuple):
    zone: Zone
    cluster: Cluster
    other_cluster: Cluster
    account: Account


@pytest.fixture
def places() -> Places:
    zone = Zone.create(name="z1")
    elsewhere = Zone.create(name="z2")
    cluster, other = Cluster.create(name="c1", zone=zone), Cluster.create(name="c2", zone=elsewhere)
    return Places(zone, cluster, other, Account.create(name="acme"))


def update(name: str, value: str, **place: str) -> pb.Setting:
    return SERVICE.UpdateSetting(pb.UpdateSettingRequest(name=name, value=value, **place), CONTEXT)


def get(name: str, **place: str) -> pb.Setting:
    return SERVICE.GetSetting(pb.GetSettingRequest(name=name, **place), CONTEXT)


def reset(name: str, **place: str) -> pb.Setting:
    return SERVICE.ResetSetting(pb.ResetSettingRequest(name=name, **place), CONTEXT)


def origin(setting: pb.Setting) -> tuple[str, str, str]:
    return setting.value, pb.Setting.Scope.Name(setting.origin), setting.origin_name


# Scopes.


def test_the_narrowest_value_wins_and_the_answer_says_whose_it_is(places: Places) -> None:
    at_cluster, elsewhere = settings.At(cluster_id=places.cluster.id), settings.At(cluster_id=places.other_cluster.id)
    assert STOP.get(at_cluster) == 60
    assert origin(get(STOP.name, cluster="c1")) == ("60", "DEFAULT", "")
    update(STOP.name, " 50 ")
    assert origin(get(STOP.name, cluster="c1")) == ("50", "GLOBAL", "")
    update(STOP.name, "40", zone="z1")
    assert origin(get(STOP.name, cluster="c1")) == ("40", "ZONE", "z1")
    own = update(STOP.name, "30", cluster="c1")
    assert origin(own) == ("30", "CLUSTER", "c1")
    assert own.origin_id == places.cluster.id
    assert [STOP.get(at) for at in (settings.ANYWHERE, settings.At(zone_id=places.zone.id), at_cluster, elsewhere)] == [
        50,
        40,
        30,
        50,
    ]
    assert origin(reset(STOP.name, cluster="c1")) == ("40", "ZONE", "z1")
    assert origin(reset(STOP.name, zone="z1")) == ("50", "GLOBAL", "")
    assert origin(reset(STOP.name)) == ("60", "DEFAULT", "")


def test_a_value_that_equals_the_default_is_still_a_value(places: Places) -> None:
    update(STOP.name, "50")
    assert origin(update(STOP.name, "60", cluster="c1")) == ("60", "CLUSTER", "c1")


def test_all_clusters_at_once_as_each_alone(places: Places) -> None:
    def alone() -> dict[str, int]:
        rows = (places.cluster, places.other_cluster)
        return {row.id: STOP.get(settings.At(cluster_id=row.id)) for row in rows}

    def together() -> dict[str, int]:
        found = STOP.by_cluster()
        return {row.id: found.get(row.id, found[""]) for row in (places.cluster, places.other_cluster)}

    for value, place in (("50", {}), ("40", {"zone": "z1"}), ("30", {"cluster": "c1"}), ("20", {"cluster": "c2"})):
        update(STOP.name, value, **place)
        assert together() == alone()
    assert STOP.by_cluster() == {"": 50, places.cluster.id: 30, places.other_cluster.id: 20}


def test_values_that_are_read_once_are_those_of_each_question(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    name, allowed = "allow.additional.vm.configuration.list.kvm", settings.vms.EXTRA_CONFIG_ALLOWED
    other = Account.create(name="other")
    update(name, "devices/video")
    update(name, "clock,pm", account="acme")
    update(name, "pm", account="other")
    update(STOP.name, "50")
    update(STOP.name, "40", zone="z1")
    update(STOP.name, "30", cluster="c2")

    def answers() -> list[object]:
        ats = (settings.ANYWHERE, settings.At(account_id=places.account.id))
        own = [[str(rule) for rule in allowed.get(at)] for at in ats]
        return [own, STOP.get(), STOP.by_cluster(), settings.vms.EXTRA_CONFIG_ENABLED.get(ats[1])]

    def elsewhere() -> list[object]:
        at_other = [str(rule) for rule in allowed.get(settings.At(account_id=other.id))]
        return [at_other, STOP.get(settings.At(cluster_id=places.cluster.id))]

    asked_each_time = (answers(), elsewhere())
    with settings.read_once(places.account.id):
        with monkeypatch.context() as patched:
            patched.setattr("ostler_control.settings.values._read", lambda _: pytest.fail("a value was read once more"))
            at_once = answers()
        assert (at_once, elsewhere()) == asked_each_time
    update(STOP.name, "20")
    assert STOP.get() == 20, "nothing is kept afterwards"


def test_an_accounts_value_is_its_own(places: Places) -> None:
    name = "allow.additional.vm.configuration.list.kvm"
    update(name, "devices/video")
    update(name, "clock,pm", account="acme")
    allowed = settings.vms.EXTRA_CONFIG_ALLOWED
    assert [str(rule) for rule in allowed.get(settings.At(account_id=places.account.id))] == ["clock", "pm"]
    assert [str(rule) for rule in allowed.get()] == ["devices/video"]
    assert origin(get(name, account="acme")) == ("clock,pm", "ACCOUNT", "acme")
    event = Event.select().order_by(Event.create_time.desc()).first()
    assert (event.type, event.account_id) == ("setting.update", places.account.id)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("event.retention", {"cluster": "c1"}),
        ("event.retention", {"zone": "z1"}),
        ("vm.stop.timeout", {"account": "acme"}),
        ("enable.additional.vm.configuration", {"cluster": "c1"}),
    ],
)
def test_a_scope_that_a_setting_has_not_is_refused(name: str, place: dict[str, str], places: Places) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        update(name, "5", **place)
    assert caught.value.reason == "WRONG_SCOPE"
    with pytest.raises(FailedPreconditionError):
        reset(name, **place)
    assert SettingValue.select().count() == 0


def test_a_value_belongs_to_one_place(places: Places) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        update(STOP.name, "5", cluster="c1", zone="z1")
    assert caught.value.reason == "AMBIGUOUS_SCOPE"


def test_values_go_away_with_their_place(places: Places) -> None:
    update(STOP.name, "5", zone="z1")
    update(STOP.name, "5", cluster="c1")
    update("enable.additional.vm.configuration", "true", account="acme")
    zones.delete_cluster(places.cluster, "root")
    zones.delete_zone(places.zone, "root")
    accounts.delete(places.account, "root")
    assert SettingValue.select().count() == 0


def test_changes_are_events_and_a_reset_of_nothing_is_none(places: Places) -> None:
    update(STOP.name, "5")
    update(STOP.name, "6", cluster="c1")
    reset(STOP.name, cluster="c1")
    reset(STOP.name, cluster="c1")
    rows = Event.select().order_by(Event.create_time)
    assert [(row.type, row.message) for row in rows] == [
        ("setting.update", "set to 5"),
        ("setting.update", "set to 6 for cluster c1"),
        ("setting.reset", "reset for cluster c1"),
    ]


# Types.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vm.stop.timeout", "0"),
        ("vm.stop.timeout", "1e3"),
        ("vm.stop.timeout", ""),
        ("vm.stop.timeout", "٣"),
        ("migration.auto.converge", "yes"),
        ("event.retention", "9" * 30),
        ("drs.imbalance", "1.1"),
        ("drs.imbalance", "nan"),
        ("drs.metric", "disks"),
        ("threads.on.ms.to.import.vmware.vm.files", "11"),
        ("allow.additional.vm.configuration.list.kvm", "/devices"),
        ("allow.additional.vm.configuration.list.kvm", "uuid"),
        ("allow.additional.vm.configuration.list.kvm", "x" * 20_000),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused_and_says_what_it_may_be(name: str, value: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        update(name, value)
    assert caught.value.reason == "INVALID_SETTING"
    assert len(value) > 100 or settings.SETTINGS[name].kind.summary in caught.value.message
    assert SettingValue.select().count() == 0


def test_every_default_is_a_value_of_its_own_type() -> None:
    for setting in settings.SETTINGS.values():
        assert setting.kind.parse(setting.default) is not None


def test_every_setting_is_explained() -> None:
    listed = SERVICE.ListSettings(pb.ListSettingsRequest(page_size=500), CONTEXT).settings
    assert [row.name for row in listed] == sorted(settings.SETTINGS)
    for row in listed:
        assert row.type
        assert row.allowed
        assert row.description.endswith(".")
        assert row.scopes[0] == pb.Setting.GLOBAL
        assert row.changed_by == "admin"
        assert row.dynamic or "in force" in row.description


# Names.


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("vm.stop.timeot", "did you mean vm.stop.timeout"),
        ("VM.Stop.Timeout", "did you mean vm.stop.timeout"),
        ("bandwidth", "did you mean migration.bandwidth"),
        ("no such thing", "ostler setting list"),
        ("", "ostler setting list"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, suggestion: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        get(name)
    assert caught.value.reason == "SETTING_NOT_FOUND"
    assert suggestion in caught.value.message
    assert len(caught.value.message) < 250
