"""The driver `executable`: the protocol, and the faults of a driver program, which the agent contains."""

from __future__ import annotations

import json
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ostler_agent.hypervisors.base import VmEvent
from ostler_agent.hypervisors.driver import DriverContext
from ostler_agent.hypervisors.executable import protocol
from ostler_agent.hypervisors.executable.channel import Channel
from ostler_agent.hypervisors.executable.driver import ExecutableHypervisor
from ostler_agent.hypervisors.executable.factory import DRIVER
from ostler_agent.hypervisors.executable.protocol import ProtocolError
from ostler_agent.hypervisors.registry import check_parts
from ostler_agent.spec import VmSpec
from ostler_common.config import ConfigError
from ostler_common.driver_details import DetailField, DetailKind
from ostler_common.errors import DeadlineExceededError, FailedPreconditionError, UnavailableError
from ostler_common.hypervisors import Function

VM = "7b6c9a0c-0000-4000-8000-000000000001"
HELLO: dict[str, Any] = {
    "protocol_version": 1,
    "type": "custom",
    "display_name": "Test",
    "template_formats": ["raw"],
    "functions": ["reboot"],
    "pool_types": ["local"],
}
# A program that does as its calls say; a class attribute of a test's own replaces single replies.
PROGRAM = """
import json, os, sys, time
hello, replies = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for line in sys.stdin:
    request = json.loads(line)
    call = request["call"]
    reply = hello if call == "hello" else replies.get(call)
    if reply == "crash":
        os._exit(7)
    if reply == "hang":
        time.sleep(600)
    if isinstance(reply, str) and reply.startswith("say:"):
        print(reply[4:], flush=True)
        continue
    if reply == "flood":
        sys.stdout.write("x" * (5 << 20))
        sys.stdout.flush()
        continue
    key = "error" if isinstance(reply, dict) and "reason" in reply else "result"
    print(json.dumps({"id": request["id"], key: reply}), flush=True)
"""


class Listener:
    def __init__(self) -> None:
        self.events: list[VmEvent] = []
        self.reconnections = 0

    def vm_event(self, event: VmEvent) -> None:
        self.events.append(event)

    def reconnected(self) -> None:
        self.reconnections += 1


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., list[str]]:
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(PROGRAM))

    def command(hello: object = HELLO, **replies: object) -> list[str]:
        return [sys.executable, "-S", "-E", str(file), json.dumps(hello), json.dumps(replies)]

    return command


@pytest.fixture
def channel(program: Callable[..., list[str]]) -> Iterator[Callable[..., Channel]]:
    opened: list[Channel] = []

    def open_channel(**replies: object) -> Channel:
        made = Channel(program(**replies), {})
        made.open()
        opened.append(made)
        return made

    yield open_channel
    for one in opened:
        one.close()


def test_a_call_returns_the_programs_result_or_raises_its_error(channel: Callable[..., Channel]) -> None:
    made = channel(list=[1], start={"reason": "DISK_IN_USE", "message": "another VM uses it"})
    assert made.call("list", {}) == [1]
    with pytest.raises(FailedPreconditionError, match="another VM uses it") as caught:
        made.call("start", {})
    assert caught.value.reason == "DISK_IN_USE"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("crash", "it exited with 7"),
        ("say:nonsense", "not a line of JSON: 'nonsense"),
        ('say:{"id": 1}', "either `result` or `error`"),
        ("say:[]", "an object with a number `id`"),
        ("flood", "longer than"),
    ],
)
def test_a_faulty_program_fails_its_call_and_is_restarted(
    channel: Callable[..., Channel], fault: str, said: str
) -> None:
    made = channel(start=fault, list=[])
    with pytest.raises(UnavailableError) as caught:
        made.call("start", {})
    assert caught.value.reason == "DRIVER_UNAVAILABLE"
    assert said in caught.value.message
    assert made.call("list", {}) == []


def test_a_program_that_hangs_is_killed_at_the_time_limit(channel: Callable[..., Channel]) -> None:
    made = channel(start="hang", list=[])
    assert made.call("list", {}) == []
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError) as caught:
        made.call("start", {}, timeout_s=0.5)
    assert caught.value.reason == "DRIVER_TIMEOUT"
    assert time.monotonic() - began < 5
    assert made.call("list", {}) == []


def test_all_pending_calls_fail_when_the_program_crashes(channel: Callable[..., Channel]) -> None:
    made = channel(start="crash")
    failures: list[Exception] = []

    def call() -> None:
        try:
            made.call("start", {}, timeout_s=10)
        except UnavailableError as error:
            failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert len(failures) == 4


def test_a_program_that_is_not_there_fails_calls_within_their_time() -> None:
    made = Channel(["/nowhere/driver"], {})
    made.open()
    try:
        with pytest.raises(UnavailableError, match="not installed"):
            made.call("list", {}, timeout_s=1)
    finally:
        made.close()


# -- the driver


def vms(state: str = "running") -> list[dict[str, object]]:
    return [{"vm_id": VM, "name": "a", "state": state, "cpus": 1, "memory_bytes": 1 << 20, "volume_ids": ["v"]}]


def test_the_driver_has_the_calls_that_the_program_states(program: Callable[..., list[str]], tmp_path: Path) -> None:
    context = DriverContext(tmp_path, {"command": program(list=[])})
    driver = DRIVER.configure(context)
    assert driver.info.functions == {Function.REBOOT}
    hypervisor = driver.open(context)
    try:
        check_parts(hypervisor)
        assert hasattr(hypervisor, "reboot")
        assert not hasattr(hypervisor, "attach")
        assert not hasattr(ExecutableHypervisor, "reboot")
    finally:
        hypervisor.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol_version": 2}, "version 2 of the protocol"),
        ({"functions": ["live-migration"]}, "live-migration"),
        ({"template_formats": ["vmdk"]}, "template_formats"),
        ({"display_name": ""}, "display_name"),
        ({"pool_types": "local"}, "pool_types must be a list"),
    ],
)
def test_a_statement_that_is_refused(
    program: Callable[..., list[str]], tmp_path: Path, change: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        DRIVER.configure(DriverContext(tmp_path, {"command": program({**HELLO, **change})}))


def test_a_relative_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absolute path"):
        DRIVER.configure(DriverContext(tmp_path, {"command": "driver.sh"}))


def test_a_console_outside_of_the_drivers_directory_is_refused(
    program: Callable[..., list[str]], tmp_path: Path
) -> None:
    for path in ("/run/libvirt/libvirt-sock", f"{tmp_path}/../x"):
        context = DriverContext(tmp_path, {"command": program(list=vms(), console={"socket": path})})
        hypervisor = DRIVER.configure(context).open(context)
        try:
            with pytest.raises(UnavailableError, match="is not below"):
                hypervisor.console(VM, force=False)
        finally:
            hypervisor.close()


@pytest.mark.parametrize(
    "listed",
    [
        {},
        [{"vm_id": "x"}],
        [{**vms()[0], "state": "odd"}],
        [{**vms()[0], "cpus": -1}],
        [{**vms()[0], "cpus": True}],
        [{**vms()[0], "name": "x" * 5000}],
        vms() * 2,
    ],
)
def test_a_list_that_violates_the_protocol(listed: object) -> None:
    with pytest.raises(ProtocolError):
        protocol.vm_infos(listed)


def test_a_vm_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    """The program need not send events: the driver compares what it lists."""
    state = tmp_path / "state"
    state.write_text(json.dumps(vms()))
    file = tmp_path / "program.sh"
    file.write_text(
        "while read -r line; do id=${line#*:}; id=${id%%,*}\n"
        f"case $line in *hello*) echo '{{\"id\":'$id',\"result\":{json.dumps(HELLO)}}}';;\n"
        f"*) echo '{{\"id\":'$id',\"result\":'$(cat {state})'}}';; esac; done\n"
    )
    context = DriverContext(tmp_path, {"command": ["/bin/sh", str(file)]})
    hypervisor = DRIVER.configure(context).open(context)
    listener = Listener()
    try:
        hypervisor.subscribe(listener)
        assert hypervisor.running(VM)
        state.write_text(json.dumps(vms("stopped")))
        deadline = time.monotonic() + 10
        while "STOPPED" not in [event.kind for event in listener.events] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [event.kind for event in listener.events][-1] == "STOPPED"
    finally:
        hypervisor.close()


def test_a_program_states_details_and_receives_them() -> None:
    kernel = {"key": "kernel", "summary": "path of the kernel", "required": True, "per_vm": False}
    queues = {"key": "queues", "summary": "of a disk", "kind": "number", "minimum": 1, "maximum": 8}
    info = protocol.driver_info({**HELLO, "details": [kernel, queues]})
    assert info.details == (
        DetailField("kernel", "path of the kernel", required=True),
        DetailField("queues", "of a disk", DetailKind.NUMBER, minimum=1, maximum=8),
    )
    spec = VmSpec(VM, "web", 1, 1 << 20, details={"kernel": "/k"})
    assert protocol.vm_args(spec, lambda volume: Path("/"))["details"] == {"kernel": "/k"}


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("kernel", "must be an object"),
        ({"key": "kernel"}, "summary must be a text"),
        ({"key": "kernel", "summary": "x", "kind": "blob"}, "text, number, boolean"),
        ({"key": "kernel", "summary": "x", "required": 1}, "required must be true or false"),
        ({"key": "password", "summary": "x"}, "must not contain secrets"),
        ({"key": "kernel", "summary": "x", "max_length": 10**9}, "max_length must be"),
    ],
)
def test_details_that_a_program_cannot_state_are_refused_by_name(detail: object, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        protocol.driver_info({**HELLO, "details": [detail]})
