"""The entry point of the driver `executable`."""

from __future__ import annotations

import os
from typing import Any

from ostler_common.config import ConfigError
from ostler_common.errors import OstlerError
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ostler_agent.capabilities.facts import HypervisorFacts, attempt
from ostler_agent.host_load import parse_memory
from ostler_agent.hypervisors.driver import DriverContext
from ostler_agent.hypervisors.executable import protocol
from ostler_agent.hypervisors.executable.driver import ExecutableHypervisor, hypervisor_type
from ostler_agent.hypervisors.executable.protocol import ProtocolError
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.process import run

ASK_TIMEOUT_S = 15.0


class Options(BaseModel):
    """[driver_options] of agent.toml. command: the program with its arguments; options: passed to the program."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: list[str] = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("command", mode="before")
    @classmethod
    def _one_word(cls, value: object) -> object:
        """A single text is a program without arguments, as `driver check --option command=PATH` passes it."""
        return [value] if isinstance(value, str) else value

    @field_validator("command")
    @classmethod
    def _absolute(cls, value: list[str]) -> list[str]:
        if not value[0].startswith("/"):
            raise ValueError("must begin with an absolute path")
        return value


class ExecutableDriver:
    """`driver.Driver`: what it states is what the configured program states."""

    def __init__(self, info: DriverInfo | None = None) -> None:
        self.info = info or DriverInfo(interface_version=1, display_name="Executable")

    def configure(self, context: DriverContext) -> ExecutableDriver:
        """`driver.Configurable`: asks the program what it states."""
        options = context.options_as(Options)
        try:
            return ExecutableDriver(protocol.driver_info(_ask(context, options, "hello")))
        except (ProtocolError, OstlerError) as error:
            raise ConfigError(f"driver_options.command: {options.command[0]}: {error}") from error

    def probe(self, context: DriverContext) -> HypervisorFacts:
        options = context.options_as(Options)
        found: list[tuple[str, str]] = []

        def ask() -> str:
            found.append(protocol.facts(_ask(context, options, "probe")))
            return found[0][1]

        with open("/proc/meminfo") as meminfo:
            memory_bytes, _ = parse_memory(meminfo.read())
        outcome = attempt("driver-program", ask)
        version = found[0][0] if found else ""
        return HypervisorFacts(
            hypervisor_version=version, cpus=os.cpu_count() or 1, memory_bytes=memory_bytes, probes=(outcome,)
        )

    def open(self, context: DriverContext) -> ExecutableHypervisor:
        options = context.options_as(Options)
        configured = self.configure(context)
        return hypervisor_type(configured.info)(configured.info, context.state_dir, options.command, options.options)


def _ask(context: DriverContext, options: Options, call: str) -> object:
    """Starts the program for hello and one more call; returns the last result. Raises ProtocolError, OstlerError."""
    hello = {
        "protocol_version": protocol.PROTOCOL_VERSION,
        "state_dir": str(context.state_dir),
        "options": options.options,
    }
    lines = protocol.request(0, "hello", hello)
    if call != "hello":
        lines += protocol.request(1, call, {})
    output = run(options.command, stdin=lines, timeout_s=ASK_TIMEOUT_S, check=False).stdout
    replies = [protocol.parse_reply(line) for line in output.encode().splitlines()]
    for reply in replies:
        if reply.error:
            raise reply.error
    wanted = 0 if call == "hello" else 1
    for reply in replies:
        if reply.id == wanted:
            return reply.result
    raise ProtocolError(f"it does not answer {call}")


DRIVER = ExecutableDriver()
