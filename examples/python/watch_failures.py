"""Prints what fails in the fleet, as it happens, until Ctrl-C.

python watch_failures.py
"""

from ostler.client import connect
from ostler.control.v1.event_pb2 import Event

with connect() as client:
    for event in client.watch_events():
        if event.outcome == Event.FAILED:
            print(f"{event.time.ToJsonString()} {event.type} {event.resource_name}: {event.message}", flush=True)
