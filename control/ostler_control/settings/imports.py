"""Settings of imports from VMware and from other KVM hosts."""

from __future__ import annotations

from ostler_control.settings.kinds import integer
from ostler_control.settings.setting import Setting

_THREADS = integer(-1, 10, "threads")

VMWARE_CONVERT_TIMEOUT = Setting(
    "convert.vmware.instance.to.kvm.timeout",
    integer(1, 168, "hours"),
    "3",
    "How long the conversion of a VM from VMware may take before it fails.",
)
CONTROL_DOWNLOAD_THREADS = Setting(
    "threads.on.ms.to.import.vmware.vm.files",
    _THREADS,
    "0",
    "How many disks of a VM the control plane downloads from VMware at once. 0: one thread for each disk; "
    "-1 or 1: one disk after the other.",
)
HOST_DOWNLOAD_THREADS = Setting(
    "threads.on.kvm.host.to.import.vmware.vm.files",
    _THREADS,
    "0",
    "How many disks of a VM a host with ovftool 4.4.0 or later downloads from VMware at once. 0: one thread for each "
    "disk; -1 or 1: one disk after the other.",
)
REMOTE_COPY_TIMEOUT = Setting(
    "remote.kvm.instance.disks.copy.timeout",
    integer(1, 10_080, "minutes"),
    "30",
    "How long it may take to copy one disk of a VM from another KVM host.",
)

SETTINGS = (VMWARE_CONVERT_TIMEOUT, CONTROL_DOWNLOAD_THREADS, HOST_DOWNLOAD_THREADS, REMOTE_COPY_TIMEOUT)
