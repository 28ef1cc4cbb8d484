"""The gateway's client against the stand-in: what PyPowerFlex really sends, over TLS."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_agent.tools.powerflex import GIB, Gateway, StoragePool
from ostler_common.errors import (
    FailedPreconditionError,
    NotFoundError,
    OstlerError,
    ResourceExhaustedError,
    UnavailableError,
)
from ostler_common.secret import Secret

from tests.fakes.powerflex import FakeGateway, gateway
from tests.host.conftest import need


def client(array: FakeGateway, password: str = "", ca_pem: str | None = None) -> Gateway:
    secret = Secret((password or array.password).encode())
    return Gateway(array.address, array.username, secret, array.ca_pem if ca_pem is None else ca_pem)


@pytest.fixture
def array(tmp_path: Path) -> Iterator[FakeGateway]:
    need("losetup")
    with gateway(tmp_path / "array") as running:
        yield running


@pytest.mark.parametrize("api_version", ["3.6", "4.5"])
def test_the_life_of_a_volume(tmp_path: Path, api_version: str) -> None:
    need("losetup")
    with gateway(tmp_path, api_version=api_version) as array:
        one = client(array)
        pool = one.storage_pool(array.domain, array.pool)
        assert pool == StoragePool(array.pool_id, array.system_id, False)
        size_bytes, free_bytes = one.capacity(pool.id)
        assert size_bytes == pytest.approx(array.capacity_bytes, rel=1e-6)
        assert free_bytes == pytest.approx(array.capacity_bytes, rel=1e-6)

        assert one.find("ost-a") is None
        made = one.create(pool.id, "ost-a", 8 * GIB, thick=True)
        assert (made.size_bytes, made.mapped, array.volumes[made.id].thick) == (8 * GIB, frozenset(), True)
        [(sdc_id, _, _)] = one.sdcs()
        one.map(made.id, sdc_id)
        device = array.sdcs[0].by_id / f"emc-vol-{array.system_id}-{made.id}"
        assert device.is_block_device()
        one.resize(made.id, 24 * GIB)
        one.rename(made.id, "ost-b")
        found = one.find("ost-b")
        assert found is not None
        assert (found.id, found.size_bytes, found.mapped) == (made.id, 24 * GIB, frozenset({sdc_id}))
        assert one.volumes(pool.id) == [found]
        assert one.used_bytes(made.id) > 0
        with pytest.raises(FailedPreconditionError) as refused:
            one.remove(made.id)
        assert refused.value.reason == "POWERFLEX_REFUSED"
        one.unmap(made.id, sdc_id)
        assert not device.exists()
        one.remove(made.id)
        assert not array.volumes


def test_failures_are_told_apart(array: FakeGateway, tmp_path: Path) -> None:
    one = client(array)
    with pytest.raises(NotFoundError) as missing:
        one.storage_pool(array.domain, "nowhere")
    assert missing.value.reason == "POWERFLEX_POOL_NOT_FOUND"
    array.capacity_bytes = 8 * GIB
    with pytest.raises(ResourceExhaustedError) as full:
        one.create(array.pool_id, "ost-a", 16 * GIB, thick=False)
    assert full.value.reason == "POOL_FULL"
    with pytest.raises(FailedPreconditionError) as untrusted:
        client(array, ca_pem="").sdcs()
    assert untrusted.value.reason == "POWERFLEX_UNTRUSTED"
    with gateway(tmp_path / "gone") as other:
        gone = client(other)
    with pytest.raises(UnavailableError) as unreachable:
        gone.sdcs()
    assert unreachable.value.reason == "POWERFLEX_UNREACHABLE"


def test_a_refused_password_is_in_no_error_and_no_log(
    array: FakeGateway, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "not-" + array.password
    with pytest.raises(OstlerError) as refused:
        client(array, password=wrong).sdcs()
    assert refused.value.reason == "POWERFLEX_LOGIN_REFUSED"
    told = f"{refused.value!r} {refused.value.__cause__!r} {caplog.text} {capfd.readouterr()}"
    assert wrong not in told


def test_the_process_keeps_its_own_log(array: FakeGateway) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    client(array).sdcs()
    assert (list(root.handlers), root.level) == before
