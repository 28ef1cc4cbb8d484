import pytest
from ostler_agent.spec import DiskFormat, VolumeRef
from ostler_agent.volumes.busy import Busy
from ostler_common.errors import AbortedError

ONE, TWO, THREE = (VolumeRef("p", volume_id, DiskFormat.RAW) for volume_id in ("one", "two", "three"))


def test_many_read_while_nobody_changes() -> None:
    busy = Busy()
    with busy.reading(ONE), busy.reading(ONE), busy.changing(TWO):
        with pytest.raises(AbortedError), busy.changing(ONE):
            pass
        with pytest.raises(AbortedError), busy.reading(TWO):
            pass
    with busy.changing(ONE, TWO):
        pass


def test_what_is_refused_holds_nothing() -> None:
    busy = Busy()
    with busy.changing(ONE):
        with pytest.raises(AbortedError), busy.changing(TWO, ONE):
            pass
        with busy.changing(TWO, THREE):
            pass
    with busy.reading(ONE), busy.reading(THREE):
        pass


def test_one_reader_of_two_keeps_changes_out() -> None:
    busy = Busy()
    with busy.reading(ONE):
        with busy.reading(ONE):
            pass
        with pytest.raises(AbortedError), busy.changing(ONE):
            pass
    with busy.changing(ONE):
        pass
