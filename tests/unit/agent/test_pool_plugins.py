"""Pool types as plug-ins, and the conformance suite for them: a correct type passes, broken ones are caught."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from ostler_agent.conformance.pool_checks import CHECKS, PoolBench, opened
from ostler_agent.conformance.results import Outcome, attempt
from ostler_agent.pools import POOL_TYPES, Capacity, PoolSpec, PoolType, StagedVolume, registry
from ostler_agent.pools.directory import Files
from ostler_agent.pools.local import Local
from ostler_agent.spec import VolumeRef
from ostler_common.config import ConfigError


class Plugin(Local):
    """A correct pool type; below, each class has one fault."""

    name = "plugin"


class RandomFingerprint(Plugin):
    def fingerprint(self, spec: PoolSpec, *, make: bool) -> str | None:
        return str(uuid.uuid4())


class NegativeSpace(Plugin):
    def capacity(self, spec: PoolSpec) -> Capacity:
        return Capacity(1, 2)


class AnyOption(Plugin):
    def check(self, spec: PoolSpec) -> None:
        pass


class DeletesOnRelease(Plugin):
    def release(self, spec: PoolSpec) -> None:
        for path in self.directory(spec).glob("[0-9a-f]*-*"):
            path.unlink()


class FaultyFiles(Files):
    """A store of which one class below breaks one call."""


class Replaces(FaultyFiles):
    @contextmanager
    def make(self, volume: VolumeRef, size_bytes: int, *, thick: bool) -> Iterator[StagedVolume]:
        with super().make(volume, size_bytes, thick=thick) as staged:
            self.path(volume).unlink(missing_ok=True)
            yield staged


class KeepsUnpublished(FaultyFiles):
    @contextmanager
    def make(self, volume: VolumeRef, size_bytes: int, *, thick: bool) -> Iterator[StagedVolume]:
        with super().make(volume, size_bytes, thick=thick) as staged:
            yield staged
            if staged.path.exists():
                shutil.copyfile(staged.path, self.path(volume))


class AppearsEarly(FaultyFiles):
    def exists(self, volume: VolumeRef) -> bool:
        return super().exists(volume) or self._part(volume).exists() or self.path(volume).parent.exists()


class RaisesForeignErrors(FaultyFiles):
    @contextmanager
    def hold(self, volume: VolumeRef) -> Iterator[Path]:
        if not self.exists(volume):
            raise KeyError(volume.volume_id)
        with super().hold(volume) as path:
            yield path


class DeletesOnce(FaultyFiles):
    def delete(self, volume: VolumeRef) -> None:
        os.unlink(self.path(volume))


class DiscardsVolume(FaultyFiles):
    def discard(self, volume: VolumeRef) -> None:
        super().discard(volume)
        self.path(volume).unlink(missing_ok=True)


class KeepsPart(FaultyFiles):
    """What a killed agent left stays, and a new attempt fails on it."""

    def discard(self, volume: VolumeRef) -> None:
        pass

    @contextmanager
    def make(self, volume: VolumeRef, size_bytes: int, *, thick: bool) -> Iterator[StagedVolume]:
        if self._part(volume).exists():
            raise FileExistsError(self._part(volume))
        with super().make(volume, size_bytes, thick=thick) as staged:
            yield staged
        self._part(volume).unlink(missing_ok=True)


class ShowsOldData(FaultyFiles):
    @contextmanager
    def hold(self, volume: VolumeRef) -> Iterator[Path]:
        with super().hold(volume) as path:
            if path.stat().st_size == 1 << 20 and not any(path.read_bytes()):
                path.write_bytes(b"old data".ljust(1 << 20))
            yield path


def with_store(store: type[Files]) -> PoolType:
    class Faulty(Plugin):
        def store(self, spec: PoolSpec) -> Files:
            return store(self.directory(spec))

    return Faulty()


SOUND = Plugin()
BROKEN: dict[str, tuple[PoolType, str, str]] = {
    "random-fingerprint": (RandomFingerprint(), "pool.idempotent", "must not change"),
    "negative-space": (NegativeSpace(), "pool.idempotent", "available space"),
    "any-option": (AnyOption(), "pool.options", "must refuse an unknown option"),
    "deletes-on-release": (DeletesOnRelease(), "pool.release", "volumes must survive"),
    "replaces": (with_store(Replaces), "volume.never-replaces", "must raise FileExistsError"),
    "keeps-unpublished": (with_store(KeepsUnpublished), "volume.unpublished", "must not exist"),
    "appears-early": (with_store(AppearsEarly), "volume.create", "before it is published"),
    "raises-foreign-errors": (with_store(RaisesForeignErrors), "volume.absent", "KeyError"),
    "deletes-once": (with_store(DeletesOnce), "volume.absent", "FileNotFoundError"),
    "discards-volume": (with_store(DiscardsVolume), "volume.killed", "discard must not delete"),
    "keeps-part": (with_store(KeepsPart), "volume.killed", "FileExistsError"),
    "shows-old-data": (with_store(ShowsOldData), "volume.zeroes", "must read as zeros"),
}
NOT_A_POOL, OTHER_NAME = object(), Local()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The plug-in as an installed package, also for processes that a check starts."""
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    value = f"{__name__}:SOUND"
    info = tmp_path / "site" / "plugin-1.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\nplugin = {value}\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Plugin.__module__])


def outcome(pool_type: PoolType, name: str, path: Path) -> tuple[Outcome, str]:
    with opened(PoolBench(pool_type, PoolSpec(str(uuid.uuid4()), "plugin", str(path)))) as bench:
        return attempt(name, lambda: CHECKS[name](bench), bench.clean_up)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", CHECKS)
def test_a_correct_pool_type_passes(tmp_path: Path, name: str) -> None:
    expected = Outcome.SKIPPED if name == "pool.password" else Outcome.OK
    assert outcome(SOUND, name, tmp_path / "pool")[0] is expected


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_pool_type_is_caught(tmp_path: Path, fault: str) -> None:
    pool_type, name, finding = BROKEN[fault]
    found, detail = outcome(pool_type, name, tmp_path / "pool")
    assert found is Outcome.FAILED
    assert finding in detail


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    found: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == registry.GROUP else [])
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Plugin.__module__])
    registry.pool_types.cache_clear()
    return found


def test_a_package_brings_a_pool_type(points: list[EntryPoint]) -> None:
    points.append(EntryPoint("plugin", f"{__name__}:SOUND", registry.GROUP))
    assert registry.load("plugin") is sys.modules[__name__].SOUND
    assert [pool_type.name for pool_type in registry.pool_types()] == [*(own.name for own in POOL_TYPES), "plugin"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no.such.module:TYPE", "cannot be loaded"),
        (f"{__name__}:NOT_A_POOL", "implements version None of the pool interface"),
        (f"{__name__}:OTHER_NAME", "has the name 'local'"),
    ],
)
def test_a_bad_plugin_is_named_and_left_out(points: list[EntryPoint], value: str, said: str) -> None:
    points.append(EntryPoint("bad", value, registry.GROUP))
    with pytest.raises(ConfigError, match=said):
        registry.load("bad")
    assert len(registry.pool_types()) == len(POOL_TYPES)


def test_a_plugin_cannot_replace_a_type_of_the_agent(points: list[EntryPoint]) -> None:
    points.append(EntryPoint("local", f"{__name__}:SOUND", registry.GROUP))
    assert registry.load("local") is POOL_TYPES[0]
