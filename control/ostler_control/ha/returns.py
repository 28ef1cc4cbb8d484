"""The thread that asks hosts which were proved off, and are heard again, what they run, frees what has ended there, and
gives them back. It is a thread of its own: a host that accepts calls and does not answer them, as one that is broken or
in other hands, must not hold up the fencing of another."""

from __future__ import annotations

import time
from collections.abc import Callable

from ostler_control.agents import Agents
from ostler_control.database import session
from ostler_control.ha.ended import ended_vms
from ostler_control.ha.free import free_vms
from ostler_control.ha.give_back import give_back
from ostler_control.models import HostFence, tuples
from ostler_control.outage import bug_logged
from ostler_control.periodic import Periodic

_EVERY_S = 2.0
# A host that does not answer is asked again after 4, 8, ... seconds, at most this: it holds up other returned hosts.
_MAX_PAUSE_S = 64.0


class Returns(Periodic):
    """leads: whether this replica is to do it; two at once do no harm."""

    def __init__(
        self,
        leads: Callable[[], bool],
        agents: Agents,
        interval_s: float = _EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("ha-returns", interval_s)
        self._leads = leads
        self._agents = agents
        self._clock = clock
        self._unanswered: dict[str, tuple[float, float]] = {}  # by host the last pause, and until when it lasts

    def work(self) -> None:
        if self._leads():
            self.tick()
        else:
            self._unanswered.clear()

    def tick(self) -> None:
        """Does what is due now."""
        with session():
            returned = HostFence.select(HostFence.host).where(HostFence.has_returned())
            host_ids = [host_id for (host_id,) in tuples(returned, tuple[str])]
        self._unanswered = {host_id: pause for host_id, pause in self._unanswered.items() if host_id in host_ids}
        clock_s = self._clock()
        due = [host_id for host_id in host_ids if self._unanswered.get(host_id, (0.0, clock_s))[1] <= clock_s]
        answers = ended_vms(self._agents, due) if due else {}
        for host_id in due:
            ended = answers.get(host_id, frozenset())
            if ended is None:
                pause_s = min(2 * self._unanswered.get(host_id, (_EVERY_S, 0.0))[0], _MAX_PAUSE_S)
                self._unanswered[host_id] = (pause_s, self._clock() + pause_s)
                continue
            self._unanswered.pop(host_id, None)
            with bug_logged("a host is not given back by a bug; it is tried again", host=host_id):
                free_vms(host_id, ended)
                give_back(host_id)
