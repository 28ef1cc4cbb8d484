"""What a caller wants imported, with the fleet's objects looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ostler_control.models import (
    Account,
    Cluster,
    DiskOffering,
    Host,
    ImportSource,
    Pool,
    ServiceOffering,
    Zone,
)


@dataclass(frozen=True)
class DiskChoice:
    """What is wanted of one disk. None: as for the others."""

    offering: DiskOffering | None = None
    pool: Pool | None = None


@dataclass(frozen=True)
class Wanted:
    """An import that is wanted.

    source_vm: the VM's ref or name at the source; name "": the source's; disk_offering, pool: for all disks that
    `disks` says nothing of; disks: by VMware's device key; bridges: by name of the source's network;
    zone, cluster, host, pool: where to, None for anywhere; conversion_host, staging_pool: None for chosen ones;
    shutdown: the guest may be shut down; stopped: the new VM stays off; test_boot: it boots once without network, and
    stays off then; force_control_download: the control plane
    downloads the disks even where the conversion host could.
    """

    source: ImportSource
    source_vm: str
    account: Account
    offering: ServiceOffering
    name: str = ""
    disk_offering: DiskOffering | None = None
    zone: Zone | None = None
    cluster: Cluster | None = None
    host: Host | None = None
    pool: Pool | None = None
    disks: Mapping[int, DiskChoice] = field(default_factory=dict)
    bridges: Mapping[str, str] = field(default_factory=dict)
    conversion_host: Host | None = None
    staging_pool: Pool | None = None
    shutdown: bool = False
    stopped: bool = False
    test_boot: bool = False
    force_control_download: bool = False
