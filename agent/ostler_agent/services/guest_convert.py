"""Messages of what guests say, from the agent's own types."""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp
from ostler.types.v1 import guest_pb2
from ostler_common.guest_info import MAX_TIME_S, clean

from ostler_agent.hypervisors.guest import GuestInfo


def guest_info(info: GuestInfo) -> guest_pb2.GuestInfo:
    """Cleaned, and with the host's time."""
    made = guest_pb2.GuestInfo(
        agent_version=info.agent_version,
        host_name=info.host_name,
        os_name=info.os_name,
        os_version=info.os_version,
        kernel=info.kernel,
        time_zone=info.time_zone,
        time=_time(info.time_s),
        host_time=_time(int(time.time())),
        file_systems=[
            guest_pb2.GuestInfo.FileSystem(
                mount_point=found.mount_point,
                type=found.type,
                device=found.device,
                total_bytes=found.total_bytes,
                used_bytes=found.used_bytes,
            )
            for found in info.file_systems
        ],
        users=[
            guest_pb2.GuestInfo.User(name=user.name, domain=user.domain, login_time=_time(user.login_time_s))
            for user in info.users
        ],
        interfaces=[
            guest_pb2.GuestInfo.Interface(name=found.name, mac=found.mac, addresses=found.addresses)
            for found in info.interfaces
        ],
    )
    return clean(made)


def _time(seconds: int) -> Timestamp | None:
    return Timestamp(seconds=min(seconds, MAX_TIME_S)) if seconds > 0 else None
