"""Sends a volume's file, as stored, to a store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

from ostler_common import object_store
from ostler_common.errors import bad_field

from ostler_agent.image_header import open_image
from ostler_agent.image_lock import block_writers
from ostler_agent.jobs import JobContext
from ostler_agent.pools import Pools, objects
from ostler_agent.pools.objects import Part
from ostler_agent.spec import VolumeRef
from ostler_agent.volumes.locks import VolumeLocks
from ostler_agent.volumes.runtime import VmRuntime, check_unused

MAX_PARTS = 64


class Uploads:
    """Sends volumes; part of `volumes.Volumes`."""

    def __init__(self, pools: Pools, runtime: VmRuntime, locks: VolumeLocks) -> None:
        self._pools = pools
        self._runtime = runtime
        self._locks = locks

    def send(self, job: JobContext, ref: VolumeRef, parts: Sequence[Part], ca_pem: bytes) -> list[str]:
        """Sends parts of a volume's file and returns the ETag of each. Excludes writers meanwhile.

        Raises InvalidArgumentError (INVALID_FIELD, INVALID_CERTIFICATE); NotFoundError (VOLUME_NOT_FOUND);
        FailedPreconditionError (VOLUME_IN_USE, NOT_AN_IMAGE, SIZE_MISMATCH); AbortedError (VOLUME_BUSY); what
        `objects.put` raises.
        """
        if not 1 <= len(parts) <= MAX_PARTS:
            raise bad_field("parts", f"must be 1 to {MAX_PARTS} parts")
        total, before = sum(part.size_bytes for part in parts), 0
        with ExitStack() as stack:
            stack.enter_context(self._locks.shared(ref))
            path = stack.enter_context(self._pools.hold(ref))
            check_unused(self._runtime, ref)
            file = open_image(path)
            stack.callback(os.close, file)
            block_writers(file, path)
            client = stack.enter_context(object_store.client(ca_pem))
            etags = []
            for part in parts:

                def sent(done: int, before: int = before) -> None:
                    job.report("sending", before + done, total)

                etags.append(objects.put(file, part, client, job, sent))
                before += part.size_bytes
        return etags
