"""Fence devices: their rows, with the password sealed like a passphrase."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ostler_common.address import split_address
from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError, OstlerError
from ostler_common.secret import Secret
from peewee import IntegrityError

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.ha import run_agent
from ostler_control.ha.fence_agents import AGENTS, PLUG, Device, Power, check
from ostler_control.hosts.rows import is_up
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import FenceDevice, Host, now


@dataclass(frozen=True)
class NewDevice:
    """A fence device to be recorded. power_on: whether a fenced host is switched on again."""

    id: str
    device: Device
    password: Secret
    power_on: bool


def prove(new: NewDevice) -> Power:
    """Asks the device for its host's power: outside of transactions. Raises what `check` and `run_agent` raise."""
    check(new.device, new.password)
    return run_agent.ask_power(new.device, new.password)


def create(host: Host, new: NewDevice, power: Power, actor: str, keys: Keyring) -> FenceDevice:
    """Records a device that was proved.

    Raises AlreadyExistsError FENCE_EXISTS, FENCE_DEVICE_TAKEN; FailedPreconditionError WRONG_FENCE_DEVICE: it says that
    a host that is up is off.
    """
    if power is Power.OFF and is_up(Host.get_by_id(host.id)):
        raise FailedPreconditionError(
            f"the device says that its host is off, but host {host.name} is up: it is another host's "
            "(check address and plug)",
            "WRONG_FENCE_DEVICE",
            {"host": host.name},
        )
    try:
        with transaction():
            _check_not_taken(host, new.device)
            row = FenceDevice.create(
                id=new.id,
                host=host,
                agent=new.device.agent,
                address=new.device.address,
                username=new.device.username,
                options=json.dumps(dict(new.device.options), sort_keys=True),
                power_on=new.power_on,
                passphrase=keys.store(new.password, new.id),
                test_time=now(),
                test_power=power.value,
            )
            events.done("fence.add", actor, row, f"host {host.name}: {new.device.agent} at {new.device.address}")
    except IntegrityError:
        raise AlreadyExistsError(
            f"host {host.name} has a fence device already; remove it first (ostler fence remove {host.name})",
            "FENCE_EXISTS",
            {"host": host.name},
        ) from None
    return row


def _check_not_taken(host: Host, device: Device) -> None:
    where = _where(device.agent, device.address)
    for other in FenceDevice.select().where(FenceDevice.host != host.id):
        if _where(other.agent, other.address) != where:
            continue
        plugs = {json.loads(other.options).get(PLUG), device.options.get(PLUG)}
        if len(plugs) == 1 or None in plugs:  # without a plug the address alone says which machine it is
            raise AlreadyExistsError(
                f"this is the fence device of host {other.name} already (check address and plug)",
                "FENCE_DEVICE_TAKEN",
                {"host": other.name},
            )


def _where(agent: str, address: str) -> tuple[str, int]:
    """Host and port, which may be written in several ways; 0 for the protocol's own port: one BMC may speak several."""
    default_port = AGENTS[agent].default_port
    host, port = split_address(address, "address", default_port)
    return host.lower(), 0 if port == default_port else port


def of_host(host: Host) -> FenceDevice:
    """A host's device. Raises NotFoundError FENCE_NOT_FOUND."""
    row = FenceDevice.get_or_none(FenceDevice.host == host.id)
    if row is None:
        raise NotFoundError(
            f"host {host.name} has no fence device (add one: ostler fence add {host.name} ...)", "FENCE_NOT_FOUND"
        )
    return row


def delete(host: Host, actor: str) -> None:
    """Deletes a host's device and its password. Raises NotFoundError FENCE_NOT_FOUND."""
    with transaction():
        row = of_host(host)
        FenceDevice.delete().where(FenceDevice.id == row.id).execute()
        delete_passphrase(row.passphrase_id)
        events.done("fence.remove", actor, row, f"host {host.name}: {row.agent} at {row.address}")


def device(row: FenceDevice) -> Device:
    """How to reach a device."""
    return Device(row.agent, row.address, row.username, json.loads(row.options))


def test(row: FenceDevice, keys: Keyring) -> FenceDevice:
    """Asks the device for its host's power, records the answer and returns the row: outside of transactions.

    A device that does not answer is recorded too, and nothing is raised.
    """
    power, error = Power.UNKNOWN, ""
    try:
        power = run_agent.ask_power(device(row), keys.open(row))
    except OstlerError as failure:
        error = failure.message
    with transaction():
        values = {"test_time": now(), "test_power": power.value, "test_error": error}
        FenceDevice.update(values).where(FenceDevice.id == row.id).execute()
    with session():
        return FenceDevice.get_by_id(row.id)
