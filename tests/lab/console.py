"""A guest's serial console for tests: wait for what it prints, type at it."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Iterator

import grpc
from ostler.control.v1.vm_pb2 import ConsoleInput
from ostler.control.v1.vm_pb2_grpc import VmServiceStub


class Console:
    """A context manager: the console of one VM. It is taken again whenever it breaks off, as by a migration."""

    def __init__(self, stub: VmServiceStub, vm: str) -> None:
        self.seen = ""
        self._stub, self._vm = stub, vm
        self._typed: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._grown = threading.Condition()
        self._over = False
        self._call: grpc.Call | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Console:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        if self._call:
            self._call.cancel()
        self._reader.join(10)

    def type(self, line: str) -> None:
        self._typed.put(line.encode() + b"\n")

    def wait(self, pattern: str, timeout_s: float = 60) -> re.Match[str]:
        """Waits for the pattern in what is printed from now on (what an earlier `wait` has consumed is gone).

        Output comes in pieces, which may end anywhere: a pattern whose end is open, as `(\\d+)`, matches a part of it.
        """
        end = time.monotonic() + timeout_s
        with self._grown:
            while not (found := re.search(pattern, self.seen)):
                if not self._grown.wait(max(0.0, end - time.monotonic())) and time.monotonic() > end:
                    raise TimeoutError(f"the guest did not print {pattern!r} within {timeout_s} s: {self.seen!r}")
            self.seen = self.seen[found.end() :]
            return found

    def run(self, line: str, pattern: str) -> re.Match[str]:
        """Types a command once the guest is seen to live, where it now is, and waits for its answer."""
        self.tick()
        self.type(line)
        return self.wait(pattern)

    def tick(self) -> int:
        """The next number that the guest counts, from now on."""
        with self._grown:
            self.seen = ""
        return int(self.wait(r"tick (\d+)\r?\n")[1])

    def _inputs(self, ended: threading.Event) -> Iterator[ConsoleInput]:
        yield ConsoleInput(vm=self._vm, force=True)
        while not ended.is_set():
            with contextlib.suppress(queue.Empty):
                data = self._typed.get(timeout=0.2)
                if ended.is_set():  # it is for the next call
                    self._typed.put(data)
                else:
                    yield ConsoleInput(data=data)

    def _read(self) -> None:
        while not self._over:
            ended = threading.Event()
            self._call = self._stub.Console(self._inputs(ended))
            try:
                for output in self._call:
                    with self._grown:
                        self.seen += output.data.decode(errors="replace")
                        self._grown.notify_all()
            except grpc.RpcError:
                time.sleep(0.3)  # between two hosts, or the control plane is away
            finally:
                ended.set()
                with self._grown:
                    self.seen += "\0"  # bytes were lost here: what comes before and after is not one line
