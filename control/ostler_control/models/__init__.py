"""The tables. `ALL` lists them in the order in which they are made."""

from ostler_control.models.base import BaseModel, db, new_id, now
from ostler_control.models.drs import AffinityGroup, AffinityMember, DrsMove, DrsPlan
from ostler_control.models.machines import Nic, ServiceOffering, Vm
from ostler_control.models.people import Account, Certificate, JoinToken, User
from ostler_control.models.places import Cluster, Host, UnmanagedVm, Zone
from ostler_control.models.records import Event, Operation, Replica, Request, SettingValue
from ostler_control.models.storage import DiskOffering, Passphrase, Pool, PoolHost, Template, Volume

ALL: tuple[type[BaseModel], ...] = (
    Account,
    User,
    Certificate,
    JoinToken,
    Zone,
    Cluster,
    Host,
    UnmanagedVm,
    Pool,
    PoolHost,
    Template,
    Passphrase,
    DiskOffering,
    Volume,
    ServiceOffering,
    Vm,
    Nic,
    AffinityGroup,
    AffinityMember,
    DrsPlan,
    DrsMove,
    Operation,
    Event,
    SettingValue,
    Request,
    Replica,
)

__all__ = [
    "ALL",
    "Account",
    "AffinityGroup",
    "AffinityMember",
    "BaseModel",
    "Certificate",
    "Cluster",
    "DiskOffering",
    "DrsMove",
    "DrsPlan",
    "Event",
    "Host",
    "JoinToken",
    "Nic",
    "Operation",
    "Passphrase",
    "Pool",
    "PoolHost",
    "Replica",
    "Request",
    "ServiceOffering",
    "SettingValue",
    "Template",
    "UnmanagedVm",
    "User",
    "Vm",
    "Volume",
    "Zone",
    "db",
    "new_id",
    "now",
]
