"""`ostler drs simulate`: what it reads, what it prints, and how it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from ostler_common.errors import InvalidArgumentError
from ostler_control.cli.main import root
from ostler_control.drs.simulate import read, simulate

GOLDEN = Path(__file__).parent / "golden"
GIB = 1 << 30


def example() -> dict[str, Any]:
    """Three hosts, one of them crowded; a pair that must be apart."""
    return json.loads((GOLDEN / "cluster.json").read_text())  # type: ignore[no-any-return]


def ostler(*words: str | Path) -> Result:
    return CliRunner().invoke(root, ["drs", "simulate", *map(str, words)])


def golden(name: str, text: str) -> None:
    """Compares with the golden file; OSTLER_REGENERATE=1 writes it anew."""
    path = GOLDEN / name
    if os.environ.get("OSTLER_REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def test_the_answer_has_all_that_the_file_s_reader_needs() -> None:
    answer = simulate(json.dumps(example()))
    assert answer.pop("elapsed_s") >= 0
    golden("answer.json", json.dumps(answer, indent=2, ensure_ascii=False) + "\n")


def test_table() -> None:
    done = ostler("--cluster", GOLDEN / "cluster.json")
    assert done.exit_code == 0
    golden("table.txt", _without_time(done.stdout))


def _without_time(text: str) -> str:
    return "\n".join(line.split(", planned in")[0] for line in text.splitlines()) + "\n"


def test_json_of_the_command_is_the_answer() -> None:
    done = ostler("--cluster", GOLDEN / "cluster.json", "-o", "json")
    answer = json.loads(done.stdout)
    assert {"imbalance_before", "imbalance_after", "migrations", "refused", "elapsed_s"} <= set(answer)
    assert {"vm", "from", "to", "gain", "cost", "reason"} <= set(answer["migrations"][0])


def test_settings_of_the_command_line_win(tmp_path: Path) -> None:
    done = ostler("--cluster", GOLDEN / "cluster.json", "--set", "drs.imbalance=0.0", "-o", "json")
    answer = json.loads(done.stdout)
    assert (answer["settings"]["drs.imbalance"], answer["verdict"], answer["migrations"]) == (0.0, "satisfied", [])


def test_repair_and_evacuate(tmp_path: Path) -> None:
    assert json.loads(ostler("--cluster", GOLDEN / "cluster.json", "--repair", "-o", "json").stdout)["migrations"] == []
    done = ostler("--cluster", GOLDEN / "cluster.json", "--evacuate", "h2", "-o", "json")
    assert {move["from"] for move in json.loads(done.stdout)["migrations"]} == {"h2"}
    assert ostler("--cluster", GOLDEN / "cluster.json", "--evacuate", "h9").exit_code == 3


def test_svg_is_a_picture_of_every_host_and_move(tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"
    assert ostler("--cluster", GOLDEN / "cluster.json", "--svg", picture).exit_code == 0
    tree = ElementTree.fromstring(picture.read_text())
    texts = [element.text or "" for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"h1", "h2", "h3"} <= set(texts)
    titles = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}title")]
    moves = simulate(json.dumps(example()))["migrations"]
    assert titles == [f"{move['vm']}: {move['from']} → {move['to']}" for move in moves]


HOST = {"name": "h1", "cpu_mhz": 1000, "memory_bytes": GIB}
VM = {"name": "a", "host": "h1", "cpu_mhz": 1, "memory_bytes": 1}
BAD = [
    ({}, "hosts: is missing"),
    ([], "the file must be an object"),
    ({"hosts": {}}, "hosts: must be a list"),
    ({"hosts": [1]}, "hosts[0]: must be an object"),
    ({"hosts": [HOST], "vmz": []}, "vmz: unknown key"),
    ({"hosts": [{**HOST, "memory": 1}]}, "hosts[0].memory: unknown key"),
    ({"hosts": [{"name": "h1", "cpu_mhz": 1}]}, "hosts[0].memory_bytes: is missing"),
    ({"hosts": [{**HOST, "cpu_mhz": -1}]}, "hosts[0].cpu_mhz: must not be negative (-1)"),
    ({"hosts": [{**HOST, "cpu_mhz": "many"}]}, "hosts[0].cpu_mhz: must be a whole number"),
    ({"hosts": [{**HOST, "cpu_mhz": True}]}, "hosts[0].cpu_mhz: must be a whole number"),
    ({"hosts": [{**HOST, "cpu_mhz": 1.5}]}, "hosts[0].cpu_mhz: must be a whole number"),
    ({"hosts": [{**HOST, "memory_bytes": 1 << 60}]}, "hosts[0].memory_bytes: must be at most"),
    ({"hosts": [{**HOST, "reserved_memory_bytes": 2 * GIB}]}, "hosts[0].reserved_memory_bytes: is more than"),
    ({"hosts": [{**HOST, "state": "sleepy"}]}, "hosts[0].state: must be connecting or up or disconnected"),
    ({"hosts": [{**HOST, "encryption": "yes"}]}, "hosts[0].encryption: must be true or false"),
    ({"hosts": [HOST, HOST]}, 'hosts[1].name: "h1" is the name of hosts[0] already'),
    ({"hosts": [{**HOST, "name": ""}]}, "hosts[0].name: must be a text that is not empty"),
    ({"hosts": [HOST], "vms": [{**VM, "host": "h2"}]}, 'vms[0].host: there is no host "h2"'),
    ({"hosts": [HOST], "vms": [VM, {**VM, "name": "b", "memory_bytes": -4}]}, "vms[1].memory_bytes: must not be"),
    ({"hosts": [HOST], "vms": [{**VM, "groups": ["g"]}]}, 'vms[0].groups[0]: there is no group "g"'),
    ({"hosts": [HOST], "vms": [{**VM, "groups": "g"}]}, "vms[0].groups: must be a list of texts"),
    ({"hosts": [HOST], "vms": [{**VM, "moved_ago_s": -1}]}, "vms[0].moved_ago_s: must be a number"),
    (
        {"hosts": [HOST], "groups": [{"name": "g", "kind": "near"}]},
        "groups[0].kind: must be affinity or anti-affinity or run-on or not-run-on",
    ),
    ({"hosts": [{**HOST, "name": "\ud800"}]}, "hosts[0].name: holds a character that cannot be printed"),
    ({"hosts": [{**HOST, "name": "h" * 256}]}, "hosts[0].name: has 256 characters; at most 255 are allowed"),
    ({"hosts": [{**HOST, "\ud800": 1}]}, "hosts[0].\\ud800: unknown key"),
    ({"hosts": [HOST], "groups": [{"name": "g", "kind": "run-on"}]}, "groups[0].hosts: must name hosts"),
    (
        {"hosts": [HOST], "groups": [{"name": "g", "kind": "run-on", "hosts": ["h9"]}]},
        'groups[0].hosts: there is no host "h9"',
    ),
    (
        {"hosts": [HOST], "groups": [{"name": "g", "kind": "affinity", "hosts": ["h1"]}]},
        "groups[0].hosts: is not for kind affinity",
    ),
    ({"hosts": [HOST], "settings": []}, "settings: must be an object"),
    ({"hosts": [HOST], "settings": {"drs.algorithm": "\ud800"}}, 'settings["drs.algorithm"] must be a name'),
    (
        {"hosts": [HOST], "settings": {"drs.imbalence": 1}},
        'settings["drs.imbalence"] there is no such setting (did you',
    ),
    ({"hosts": [HOST], "settings": {"drs.imbalance": 2}}, 'settings["drs.imbalance"] must be a number, 0 to 1'),
    ({"hosts": [HOST], "settings": {"drs.level": 2}}, 'settings["drs.level"] there is no such setting'),
]


@pytest.mark.parametrize(("content", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_wrong_is_named_by_its_path(content: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        read(json.dumps(content))
    assert error.value.message.startswith(message)


LONG = "9" * 5_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{{"hosts": [{{"name": "h", "cpu_mhz": {LONG}, "memory_bytes": 1}}]}}', "hosts[0].cpu_mhz: must be at most"),
        (f'{{"hosts": [], "settings": {{"drs.max.migrations": {LONG}}}}}', 'settings["drs.max.migrations"] must be'),
        ('{"hosts": [{"name": "h", "cpu_mhz": 1, "cpu_mhz": 1}]}', 'hosts[0]: has the key "cpu_mhz" twice'),
        ('{"hosts": [], "settings": {"a": 1, "a": 1}}', 'settings: has the key "a" twice'),
    ],
)
def test_long_numbers_and_repeated_keys_are_named_by_their_path(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        read(text)
    assert error.value.message.startswith(message)


@pytest.mark.parametrize("number", ["9" * 400, "1e400", LONG])
def test_no_number_of_seconds_is_too_large_to_be_refused(number: str) -> None:
    vm = f'{{"name": "a", "host": "h1", "cpu_mhz": 1, "memory_bytes": 1, "moved_ago_s": {number}}}'
    with pytest.raises(InvalidArgumentError, match=r"vms\[0\].moved_ago_s: must be a number from 0 to"):
        read(f'{{"hosts": [{json.dumps(HOST)}], "vms": [{vm}]}}')


def test_a_host_without_capacity_takes_no_part() -> None:
    hosts = [HOST, {**HOST, "name": "h2"}, {**HOST, "name": "h3", "memory_bytes": 0}]
    answer = simulate(json.dumps({"hosts": hosts, "vms": [{**VM, "host": "h3"}]}), {"drs.imbalance": "1.0"})
    assert answer["left_out"]["hosts"] == [
        {"name": "h3", "code": "NO_CAPACITY", "explanation": "it has no CPU or memory for VMs"}
    ]
    assert answer["hosts"][2]["memory_before"] == 1.0


def test_loads_are_what_is_measured_when_that_is_asked_for() -> None:
    hosts = [
        {**HOST, "name": name, "measured_cpu_mhz": 500, "measured_memory_bytes": GIB // 4} for name in ("h1", "h2")
    ]
    answer = simulate(json.dumps({"hosts": hosts}), {"drs.source": "measured"})
    assert (answer["hosts"][0]["cpu_before"], answer["hosts"][0]["memory_before"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the file is no JSON: Expecting property name enclosed in double quotes (line 1, column 2)"),
        (b"\xff\xfe\xfd", "the file is no UTF-8 text"),
        ('{"hosts": [], "hosts": []}', 'the file has the key "hosts" twice'),
        ('{"hosts": [{"name": "h", "cpu_mhz": NaN, "memory_bytes": 1}]}', "the file NaN is no JSON"),
        ("[" * 100_000, "the file is nested too deeply"),
    ],
)
def test_what_is_no_json(text: str | bytes, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        read(text)
    assert error.value.message == message


def test_command_fails_with_one_line_and_the_code_for_bad_values(tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text(json.dumps({"hosts": [{**HOST, "cpu_mhz": -1}]}))
    done = ostler("--cluster", file)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "Error: hosts[0].cpu_mhz: must not be negative (-1) [INVALID_CLUSTER_FILE]\n"
    assert ostler("--cluster", GOLDEN / "cluster.json", "--set", "drs.metric=disk").exit_code == 2
    assert ostler("--cluster", GOLDEN / "cluster.json", "--set", "drs.metric").exit_code == 2
    assert ostler("--cluster", GOLDEN / "cluster.json", "--set", "drs.algorithm=magic").exit_code == 6
    twice = ostler("--cluster", GOLDEN / "cluster.json", "--set", "drs.metric=cpu", "--set", "drs.metric=memory")
    assert (twice.exit_code, "drs.metric is given twice" in twice.stderr) == (2, True)
    assert ostler("--cluster", tmp_path / "absent.json").exit_code == 2


def test_empty_clusters_have_answers() -> None:
    assert simulate('{"hosts": []}')["verdict"] == "no-hosts"
    assert simulate(json.dumps({"hosts": [HOST], "vms": [VM]}))["verdict"] == "no-hosts"
    both = {"hosts": [HOST, {**HOST, "name": "h2"}]}
    assert simulate(json.dumps(both))["verdict"] == "satisfied"
    for algorithm in ("balanced", "condensed"):
        assert simulate(json.dumps(both), {"drs.algorithm": algorithm, "drs.imbalance": "1.0"})["migrations"] == []
