import pytest
from ostler_agent.spec import DiskFormat, VolumeRef
from ostler_agent.volumes.locks import VolumeLocks
from ostler_common.errors import AbortedError

ONE, TWO, THREE = (VolumeRef("p", volume_id, DiskFormat.RAW) for volume_id in ("one", "two", "three"))


def test_many_read_while_nobody_changes() -> None:
    locks = VolumeLocks()
    with locks.shared(ONE), locks.shared(ONE), locks.exclusive(TWO):
        with pytest.raises(AbortedError), locks.exclusive(ONE):
            pass
        with pytest.raises(AbortedError), locks.shared(TWO):
            pass
    with locks.exclusive(ONE, TWO):
        pass


def test_what_is_refused_holds_nothing() -> None:
    locks = VolumeLocks()
    with locks.exclusive(ONE):
        with pytest.raises(AbortedError), locks.exclusive(TWO, ONE):
            pass
        with locks.exclusive(TWO, THREE):
            pass
    with locks.shared(ONE), locks.shared(THREE):
        pass


def test_one_reader_of_two_keeps_changes_out() -> None:
    locks = VolumeLocks()
    with locks.shared(ONE):
        with locks.shared(ONE):
            pass
        with pytest.raises(AbortedError), locks.exclusive(ONE):
            pass
    with locks.exclusive(ONE):
        pass
