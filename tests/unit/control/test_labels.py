"""Labels and selectors, names and descriptions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_common.errors import InvalidArgumentError, OstlerError
from ostler_control import database, labels, vms
from ostler_control.labels import store
from ostler_control.labels.selector import MAX_REQUIREMENTS, MAX_VALUES, Operator, Requirement
from ostler_control.models import Event, Host, Template, Vm, VmLabel, db
from ostler_control.operations import Engine
from ostler_control.vms import descriptions

from tests import databases
from tests.sites import Site, outcome, site_at_work


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        make(site, engine, "web", env="prod", tier="web")
        make(site, engine, "db", env="prod", tier="db")
        make(site, engine, "test", env="test")
        make(site, engine, "bare")
        yield site


def make(site: Site, engine: Engine, name: str, **given: str) -> None:
    wanted = site.record(lambda: site.new_vm(name, offering=site.plain, stopped=True, labels=given))
    assert outcome(engine, wanted) == ("succeeded", "")


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def select(text: str) -> list[str]:
    return sorted(row.name for row in labels.selected(Vm.select(), Vm, labels.parse(text)))


def vm(name: str) -> Vm:
    return Vm.get(Vm.name == name)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["bare", "db", "test", "web"]),
        ("env", ["db", "test", "web"]),
        ("!env", ["bare"]),
        ("env=prod", ["db", "web"]),
        ("env == prod", ["db", "web"]),
        ("env!=prod", ["bare", "test"]),
        ("tier in (web, db)", ["db", "web"]),
        ("tier notin (web)", ["bare", "db", "test"]),
        ("env=prod,tier!=web", ["db"]),
        ("env=", []),
        ("nothing in (a)", []),
    ],
)
def test_a_selector_selects_what_kubernetes_would(site: Site, text: str, names: list[str]) -> None:
    assert select(text) == names
    own = labels.of_objects(Vm, [row.id for row in Vm.select()])
    wanted = labels.parse(text)
    assert sorted(row.name for row in Vm.select() if labels.matches(wanted, own.get(row.id, {}))) == names


def test_a_selector_is_part_of_one_query_answered_from_an_index(site: Site) -> None:
    query = labels.selected(Vm.select(), Vm, labels.parse("env=prod,tier in (web,db),!retired"))
    sql, values = query.sql()
    plan = " ".join(str(row) for row in db.execute_sql(f"EXPLAIN QUERY PLAN {sql}", values))
    assert "vm_label" in plan
    assert "SCAN vm_label" not in plan


@pytest.mark.parametrize(
    "text",
    ["=a", "a b", "a,", ",a", "a in", "a in (", "a in (b", "a in b", "a=b c", "!", "a=-", "a;b", "a=b=c", "a/b/c"],
)
def test_what_is_no_selector_is_refused(text: str) -> None:
    assert reason(lambda: labels.parse(text)) == "INVALID_SELECTOR"


def test_selectors_are_bounded() -> None:
    assert len(labels.parse(",".join(["a"] * MAX_REQUIREMENTS))) == MAX_REQUIREMENTS
    assert reason(lambda: labels.parse(",".join(["a"] * (MAX_REQUIREMENTS + 1)))) == "INVALID_SELECTOR"
    many = ",".join(f"v{number}" for number in range(MAX_VALUES + 1))
    assert reason(lambda: labels.parse(f"a in ({many})")) == "INVALID_SELECTOR"


def test_words_may_be_keys_and_values() -> None:
    assert labels.parse("in in (in,notin),notin") == (
        Requirement("in", Operator.IN, ("in", "notin")),
        Requirement("notin", Operator.EXISTS),
    )
    assert labels.parse("example.com/owner=ada") == (Requirement("example.com/owner", Operator.IN, ("ada",)),)


@given(st.text(alphabet="ab=!,() in", max_size=40))
def test_any_text_is_a_selector_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgumentError):
        assert all(requirement.key for requirement in labels.parse(text))


def test_labels_are_added_changed_and_removed(site: Site) -> None:
    assert labels.update(vm("web"), {"env": "test", "rack": ""}, ["tier", "never"], "ada") == {
        "env": "test",
        "rack": "",
    }
    event = Event.get(Event.type == "vm.label")
    assert (event.resource_name, event.account_id) == ("web", site.account.id)
    assert labels.of_objects(Vm, [vm("web").id, vm("bare").id]) == {vm("web").id: {"env": "test", "rack": ""}}
    for row in (Host.get(Host.name == "h1"), site.template):
        assert labels.update(row, {"a": "b"}, [], "ada") == {"a": "b"}
    assert [row.name for row in labels.selected(Host.select(), Host, labels.parse("a=b"))] == ["h1"]
    assert labels.selected(Template.select(), Template, labels.parse("a")).count() == 1


def test_bad_labels_are_refused_and_change_nothing(site: Site) -> None:
    row = vm("web")
    bad = ["", "-a", "a-", "a" * 64, "a b", "Example.com/a", "a/", "/a", "a/b/c", "\u00e4"]
    for key in bad:
        assert reason(lambda key=key: labels.update(row, {key: "x"}, [], "ada")) == "INVALID_LABEL"  # type: ignore[misc]
    assert reason(lambda: labels.update(row, {"a": "-"}, [], "ada")) == "INVALID_LABEL"
    assert reason(lambda: labels.update(row, {"a": "b"}, ["a"], "ada")) == "INVALID_LABEL"
    assert reason(lambda: labels.update(row, {}, [], "ada")) == "REQUIRED"
    most = {f"k{number}": "" for number in range(store.MAX_LABELS)}
    assert reason(lambda: labels.update(row, most, [], "ada")) == "TOO_MANY_LABELS"
    assert labels.of_objects(Vm, [row.id])[row.id] == {"env": "prod", "tier": "web"}
    assert len(labels.update(row, most, ["env", "tier"], "ada")) == store.MAX_LABELS


def test_labels_go_with_their_vm(site: Site) -> None:
    Vm.delete().where(Vm.name == "web").execute()
    assert sorted(row.object.name for row in VmLabel.select()) == ["db", "db", "test"]


def test_a_vm_is_renamed_and_described(site: Site) -> None:
    row = vms.update(vm("web"), "ada", name="shop", description="ask ada")
    assert row.name == "shop"
    assert descriptions.of_vms([row.id]) == {row.id: "ask ada"}
    assert reason(lambda: vms.update(row, "ada", name="db")) == "VM_EXISTS"
    assert reason(lambda: vms.update(row, "ada", name="no name")) == "INVALID_NAME"
    assert reason(lambda: vms.update(row, "ada", description="x" * 1025)) == "INVALID_DESCRIPTION"
    assert (vm("shop").id, descriptions.of_vms([row.id])) == (row.id, {row.id: "ask ada"})
    vms.update(row, "ada", description="")
    assert descriptions.of_vms([row.id]) == {}


@pytest.mark.slow
def test_two_changes_of_one_label_at_once_both_succeed(postgresql: str, tmp_path: Path) -> None:
    with (
        databases.bound(databases.new_database(postgresql, "labeled")) as url,
        site_at_work(url, tmp_path) as (site, engine),
    ):
        make(site, engine, "web")
        barrier = Barrier(4)

        def change(value: str) -> None:
            with database.session():
                barrier.wait(30)
                labels.update(vm("web"), {"env": value}, [], "root")

        with ThreadPoolExecutor(4) as pool:
            for number in range(5):
                list(pool.map(change, [f"v{number}-{worker}" for worker in range(4)]))
        assert VmLabel.select().count() == 1
