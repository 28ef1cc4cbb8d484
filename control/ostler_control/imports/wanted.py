"""What a caller wants imported, with the fleet's objects looked up."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

from ostler_common.secret import Secret

from ostler_control.models import (
    Account,
    Cluster,
    DiskOffering,
    Host,
    ImportSource,
    Network,
    Pool,
    ServiceOffering,
    Zone,
)


@dataclass(frozen=True)
class DiskChoice:
    """What is wanted of one disk. None: as for the others; passphrase: opens it at its source."""

    offering: DiskOffering | None = None
    pool: Pool | None = None
    passphrase: Secret | None = None


@dataclass(frozen=True)
class FileSource:
    """Files to import. files: those that are needed, by the key of their disk; url: where a host downloads the archive
    that has them, "" when the caller sends them; ca_pem: the CA to trust instead of the system's; archive_bytes: size
    of the archive; convert: the guest is made to boot here, else its disks are copied as they are."""

    files: Mapping[int, SourceFile]
    url: str = ""
    ca_pem: str = ""
    archive_bytes: int = 0
    convert: bool = True


@dataclass(frozen=True)
class SourceFile:
    """A disk's file. name: where it comes from; staged_name: in the staging directory; sha256: hex, "" when unknown."""

    name: str
    staged_name: str
    size_bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class Wanted:
    """An import that is wanted.

    source: None for files; source_vm: the VM's ref or name at the source; name "": the source's;
    disk_offering, pool: for all disks that `disks` says nothing of; disks: by VMware's device key; networks: by name of
    the source's network;
    zone, cluster, host, pool: where to, None for anywhere; conversion_host, staging_pool: None for chosen ones;
    shutdown: the guest may be shut down; stopped: the new VM stays off; test_boot: it boots once without network, and
    stays off then; force_control_download: the control plane
    downloads the disks even where the conversion host could; warm: the disks are copied while the VM runs;
    auto_cut_over: it is shut down as soon as little changes; cut_over_time: it is shut down then, or as soon as the
    first copy is complete (UTC, without a time zone), None for no such moment; tpm: it gets a new, empty TPM.
    """

    source: ImportSource | None
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
    networks: Mapping[str, Network] = field(default_factory=dict)
    conversion_host: Host | None = None
    staging_pool: Pool | None = None
    shutdown: bool = False
    stopped: bool = False
    test_boot: bool = False
    force_control_download: bool = False
    files: FileSource | None = None
    warm: bool = False
    auto_cut_over: bool = False
    cut_over_time: datetime.datetime | None = None
    tpm: bool = False

    @property
    def is_kvm(self) -> bool:
        """Whether the source is a KVM host."""
        return self.source is not None and self.source.type == "kvm"

    @property
    def stages(self) -> bool:
        """Whether the disks go by way of a staging directory; else straight into the volumes."""
        return not (self.warm or self.is_kvm)
