"""Volumes: what can be done to them, and the workflows that do it.

Every request function here (`create`, `grow`, ...) works within the caller's transaction: it checks, changes rows,
claims them, and returns the operation that it recorded. Nothing else happens before that transaction has committed.
"""

from ostler_control.volumes.adopt import NewAdoption, adopt, inspect_file
from ostler_control.volumes.attach import attach, detach
from ostler_control.volumes.copy import NewCopy, copy
from ostler_control.volumes.create import create
from ostler_control.volumes.delete import delete
from ostler_control.volumes.download import download
from ostler_control.volumes.exchange import encrypt, migrate
from ostler_control.volumes.forget import forget
from ostler_control.volumes.grow import grow
from ostler_control.volumes.limit import limit
from ostler_control.volumes.new_volume import NewVolume
from ostler_control.volumes.offering import change_offering
from ostler_control.volumes.rekey import rekey
from ostler_control.volumes.upload import NewUpload, check_upload, upload

__all__ = [
    "NewAdoption",
    "NewCopy",
    "NewUpload",
    "NewVolume",
    "adopt",
    "attach",
    "change_offering",
    "check_upload",
    "copy",
    "create",
    "delete",
    "detach",
    "download",
    "encrypt",
    "forget",
    "grow",
    "inspect_file",
    "limit",
    "migrate",
    "rekey",
    "upload",
]
