"""Reading properties of many objects in few calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ostler_common.errors import InternalError, NotFoundError
from pyVmomi import vim, vmodl

from ostler_control.vmware.connection import Connection

_MAX_OBJECTS_PER_CALL = 200
# A server that never stops answering "there is more" is broken; the largest vCenter has a tenth of this.
_MAX_OBJECTS = 500_000

Collector = vmodl.query.PropertyCollector


# Any: pyvmomi makes its classes at run time; their attributes have no types.
Managed = Any


@dataclass(frozen=True)
class Properties:
    """An object's properties by path. ref: its managed object id ("vm-12")."""

    ref: str
    values: dict[str, Managed]

    def get(self, path: str, default: Managed = None) -> Managed:
        """A property; `default` where the server has it unset."""
        return self.values.get(path, default)


def read_one(connection: Connection, kind: type[Managed], ref: str, paths: Sequence[str]) -> Properties:
    """One object's properties. Raises NotFoundError VCENTER_OBJECT_GONE."""
    spec = Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=kind(ref, connection.stub))],
        propSet=[Collector.PropertySpec(type=kind, pathSet=list(paths))],
    )
    for found in _retrieve(connection, spec):
        return found
    raise NotFoundError(
        f"{connection.server.name} does not have the object {ref} any more", "VCENTER_OBJECT_GONE", {"object": ref}
    )


def read_all(connection: Connection, kind: type[Managed], paths: Sequence[str]) -> Iterator[Properties]:
    """The properties of all objects of a kind in the inventory, page by page."""
    content = connection.content
    manager = content.viewManager
    if manager is None:
        raise InternalError(f"{connection.server.name} has no view manager", "VCENTER_FAULT")
    view = connection.call(lambda: manager.CreateContainerView(content.rootFolder, [kind], True), repeatable=True)
    try:
        traversal = Collector.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False)
        spec = Collector.FilterSpec(
            objectSet=[Collector.ObjectSpec(obj=view, skip=True, selectSet=[traversal])],
            propSet=[Collector.PropertySpec(type=kind, pathSet=list(paths))],
        )
        yield from _retrieve(connection, spec)
    finally:
        with contextlib.suppress(Exception):  # it ends with the session anyway
            view.DestroyView()


def _retrieve(connection: Connection, spec: vmodl.query.PropertyCollector.FilterSpec) -> Iterator[Properties]:
    collector = connection.content.propertyCollector
    options = Collector.RetrieveOptions(maxObjects=_MAX_OBJECTS_PER_CALL)
    page = connection.call(lambda: collector.RetrievePropertiesEx([spec], options), repeatable=True)
    count = 0
    while page is not None:
        for found in page.objects:
            yield Properties(str(found.obj._moId), {item.name: item.val for item in found.propSet})
        count += len(page.objects)
        token = page.token
        if not token:
            return
        if count > _MAX_OBJECTS:
            raise InternalError(f"{connection.server.name} lists more than {_MAX_OBJECTS} objects", "VCENTER_FAULT")
        page = connection.call(lambda token=token: collector.ContinueRetrievePropertiesEx(token))  # type: ignore[misc]
