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

WARM_QUIET_SIZE = Setting(
    "vmware.warm.import.quiet.size",
    integer(0, 1 << 20, "MiB"),
    "256",
    "A warm import is quiet when at most this much changed since the round before.",
)
WARM_MAX_ROUNDS = Setting(
    "vmware.warm.import.max.rounds",
    integer(1, 100, "rounds"),
    "10",
    "A warm import is taken as quiet after this many rounds, however much changes.",
)
WARM_INTERVAL = Setting(
    "vmware.warm.import.interval",
    integer(1, 1440, "minutes"),
    "10",
    "Pause between two rounds of a quiet warm import that waits for its cut-over.",
)
WARM_WAIT = Setting(
    "vmware.warm.import.wait",
    integer(1, 720, "hours"),
    "72",
    "How long a warm import may wait for its cut-over before it is undone.",
)

SETTINGS = (
    VMWARE_CONVERT_TIMEOUT,
    CONTROL_DOWNLOAD_THREADS,
    HOST_DOWNLOAD_THREADS,
    REMOTE_COPY_TIMEOUT,
    WARM_QUIET_SIZE,
    WARM_MAX_ROUNDS,
    WARM_INTERVAL,
    WARM_WAIT,
)
