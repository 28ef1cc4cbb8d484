"""The file of an import plan: what it means, and every error with its line."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import pytest
from ostler_control.imports.waves.document import MAX_VMS, PARALLEL_DEFAULTS, CutOver, VmEntry, _in_cycles, parse
from ostler_control.imports.waves.yaml_nodes import MAX_BYTES

GOOD = """\
name: wave-1
source: vc1
on_no_go: stop
parallel: {vms: 6, per_esxi_host: 1}
defaults:
  offering: medium
  networks: {VM Network: lan}
  cluster: web
vms:
  - vm: db-1
    name: db
    shutdown: yes
    disks:
      - {key: 2001, offering: secret, pool: nfs2}
  - vm: "4711"
    host: h1
    networks: {Backup: backup}
    after: db-1
"""


def networks(vm: VmEntry) -> dict[str, str]:
    return {name: text.value for name, text in vm.networks.items()}


def told(text: str | bytes) -> list[tuple[int, str, str]]:
    content = text.encode() if isinstance(text, str) else text
    return [(problem.line, problem.path, problem.reason) for problem in parse(content)[1]]


def test_defaults_are_filled_in_and_order_becomes_positions() -> None:
    plan, problems = parse(GOOD.encode())
    assert problems == []
    assert plan is not None
    assert (plan.name, plan.source.value, plan.stop_on_no_go) == ("wave-1", "vc1", True)
    assert plan.parallel == {**PARALLEL_DEFAULTS, "vms": 6, "per_esxi_host": 1}
    db, web = plan.vms
    assert {key: text.value for key, text in db.texts.items()} == {"offering": "medium", "cluster": "web", "name": "db"}
    assert (db.flags, networks(db), db.after) == ({"shutdown": True}, {"VM Network": "lan"}, ())
    [disk] = db.disks
    assert disk.offering is not None
    assert (disk.key, disk.offering.value, disk.offering.line) == (2001, "secret", 14)
    assert (web.source_vm.value, web.after) == ("4711", (0,))
    assert {key: text.value for key, text in web.texts.items()} == {"offering": "medium", "host": "h1"}, "one place"
    assert networks(web) == {"VM Network": "lan", "Backup": "backup"}


def test_a_warm_import_has_a_moment_for_its_cut_over() -> None:
    head = "name: w\nsource: vc1\ndefaults: {offering: m, shutdown: true, staging_pool: nfs1, cut_over: auto}\nvms:\n"
    good = "- {vm: a, warm: true}\n- {vm: b, warm: true, cut_over: 2027-01-31T02:00:00+01:00}\n"
    plan, problems = parse((head + good + "- {vm: c, warm: true, cut_over: manual}\n- {vm: d}\n").encode())
    assert (plan is not None, problems) == (True, [])
    assert plan is not None
    auto, at, manual, cold = plan.vms
    assert (auto.cut_over, auto.flags, "staging_pool" in auto.texts) == (CutOver(auto=True), {"warm": True}, False)
    assert at.cut_over == CutOver(time=datetime.datetime(2027, 1, 31, 1))
    assert manual.cut_over == CutOver()
    assert (cold.flags, cold.texts["staging_pool"].value) == ({"shutdown": True}, "nfs1")


def test_what_a_warm_import_cannot_have_is_refused() -> None:
    head = "name: w\nsource: vc1\ndefaults: {offering: m}\nvms:\n"
    bad = "- {vm: a, cut_over: auto}\n- {vm: b, warm: true, shutdown: true, staging_pool: x}\n"
    assert told(
        head + bad + "- {vm: c, warm: true, cut_over: 2027-01-31T02:00:00}\n- {vm: d, warm: true, cut_over: 7}"
    ) == [
        (5, "vms[0].cut_over", "CONFLICTING_FIELDS"),
        (6, "vms[1].shutdown", "CONFLICTING_FIELDS"),
        (6, "vms[1].staging_pool", "CONFLICTING_FIELDS"),
        (7, "vms[2].cut_over", "INVALID_CUT_OVER"),
        (8, "vms[3].cut_over", "INVALID_CUT_OVER"),
    ]


def test_every_error_is_told_in_one_answer_with_its_line() -> None:
    text = """\
name: wave 1
sauce: vc1
on_no_go: maybe
parallel: {vms: 0, per_moon: 2}
defaults: {zone: z, cluster: c}
vms:
  - vm: 17
  - vm: web
    offering: medium
    offering: large
    shutdown: perhaps
    after: [nobody, web]
  - vm: web
    stopped: true
    test_boot: true
    disks: [{key: first}, {key: 2000}, {key: 2000}]
    networks: [br0]
  - web
"""
    assert told(text) == [
        (1, "name", "INVALID_NAME"),
        (1, "source", "REQUIRED"),
        (2, "sauce", "UNKNOWN_FIELD"),
        (3, "on_no_go", "INVALID_CHOICE"),
        (4, "parallel.per_moon", "UNKNOWN_FIELD"),
        (4, "parallel.vms", "INVALID_LIMIT"),
        (5, "defaults.cluster", "CONFLICTING_FIELDS"),
        (7, "vms[0].offering", "REQUIRED"),
        (7, "vms[0].vm", "INVALID_TYPE"),
        (10, "vms[1].offering", "DUPLICATE_FIELD"),
        (11, "vms[1].shutdown", "INVALID_TYPE"),
        (12, "vms[1].after", "AFTER_CYCLE"),
        (12, "vms[1].after[0]", "UNKNOWN_VM"),
        (13, "vms[2].offering", "REQUIRED"),
        (13, "vms[2].test_boot", "CONFLICTING_FIELDS"),
        (13, "vms[2].vm", "DUPLICATE_VM"),
        (16, "vms[2].disks[0].key", "INVALID_DISK"),
        (16, "vms[2].disks[2].key", "INVALID_DISK"),
        (17, "vms[2].networks", "INVALID_TYPE"),
        (18, "vms[3]", "INVALID_TYPE"),
    ]


def plan_of(*vms: str) -> str:
    lines = "".join(f"  - {vm}\n" for vm in vms)
    return f"name: w\nsource: vc1\ndefaults: {{offering: o}}\nvms:\n{lines}"


def test_only_the_vms_in_a_cycle_are_told() -> None:
    cycle = plan_of("{vm: a, after: c}", "{vm: b, after: a}", "{vm: c, after: b}", "{vm: d, after: a}", "{vm: e}")
    assert told(cycle) == [(number + 5, f"vms[{number}].after", "AFTER_CYCLE") for number in range(3)]


def test_looking_for_cycles_reads_each_list_a_few_times_only() -> None:
    """A plan of a stranger may be one long chain; its end decides about all the others."""

    class Counted(list[int]):
        reads = 0

        def __iter__(self) -> Iterator[int]:
            self.reads += 1
            return super().__iter__()

    needs = [Counted([number + 1]) for number in range(1000)] + [Counted([999])]
    assert _in_cycles(needs) == [999, 1000]
    assert max(wanted.reads for wanted in needs) <= 4


@pytest.mark.parametrize("number", ["'+-5'", "'++5'", "'-'", "''"])
def test_what_is_tagged_as_a_number_and_is_none_is_refused(number: str) -> None:
    text = f"parallel: {{vms: !!int {number}}}\n" + plan_of("{vm: a}")
    assert told(text) == [(1, "parallel.vms", "INVALID_LIMIT")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "EMPTY_FILE"),
        (b"# nothing\n", "EMPTY_FILE"),
        (b"just text", "INVALID_TYPE"),
        (b"name: \xff", "NOT_UTF8"),
        (b"name: [", "NOT_YAML"),
        (b"a: 1\n---\nb: 2\n", "SEVERAL_DOCUMENTS"),
        (b"name: &x y\nsource: *x\n", "ALIAS"),
        (b"name: " + b"[" * 5000, "TOO_DEEP"),
        (b"x" * (MAX_BYTES + 1), "FILE_TOO_LARGE"),
        (b"[" + b"a," * 60_000 + b"]", "FILE_TOO_LARGE"),
        (b"name: !!python/object/apply:os.system [id]\n", "INVALID_TYPE"),
        (b"name: w\nsource: vc1\nvms: []\n", "REQUIRED"),
    ],
)
def test_what_is_no_plan_is_refused(content: bytes, expected: str) -> None:
    assert expected in {reason for _, _, reason in told(content)}


def test_the_line_of_an_error_is_told_in_what_is_no_plan() -> None:
    assert told(b"name: w\nsource: \xff\n") == [(2, "", "NOT_UTF8")]
    assert told("name: w\nsource: vc1\n  vms: x\n")[0][0] == 3


@pytest.mark.parametrize(
    ("vm", "expected"),
    [
        (f"{{vm: {'x' * 256}}}", "INVALID_TEXT"),
        ('{vm: "a\\tb"}', "INVALID_TEXT"),
        ("{vm: a, name: -a}", "INVALID_NAME"),
        ("{vm: a, disks: [{key: 99999999999}]}", "INVALID_DISK"),
        (f"{{vm: a, after: [{', '.join('a' * 65)}]}}", "TOO_MANY"),
    ],
)
def test_fields_have_limits(vm: str, expected: str) -> None:
    assert expected in {reason for _, _, reason in told(plan_of(vm))}


def test_a_plan_has_a_largest_size() -> None:
    assert told(plan_of(*(f"{{vm: vm{number}}}" for number in range(MAX_VMS)))) == []
    more = plan_of(*(f"{{vm: vm{number}}}" for number in range(MAX_VMS + 1)))
    assert told(more) == [(MAX_VMS + 5, "vms", "TOO_MANY")]
