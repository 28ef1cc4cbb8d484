"""The states that rows are in, as enums that answer questions. Columns keep their text.

Pure: nothing here knows of the database, so that placement and the DRS planner may use it too.
"""

from __future__ import annotations

from enum import StrEnum


class VmState(StrEnum):
    """Where Ostler has brought a VM."""

    CREATING = "creating"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    MIGRATING = "migrating"
    DELETING = "deleting"
    FAILED = "failed"

    @property
    def is_stable(self) -> bool:
        """Whether the VM stays in this state until somebody asks for a change."""
        return self in (VmState.STOPPED, VmState.RUNNING, VmState.FAILED)


class PowerState(StrEnum):
    """What a VM's host says of it; UNKNOWN: its host has not been heard."""

    UNKNOWN = ""
    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"
    ABSENT = "absent"

    @property
    def is_executing(self) -> bool:
        """Whether a process of the hypervisor has the VM's disks open."""
        return self in (PowerState.RUNNING, PowerState.PAUSED)


class HostState(StrEnum):
    """Whether the control plane hears a host's agent. FENCED: it is being fenced or proved off, heard or not."""

    CONNECTING = "connecting"
    UP = "up"
    DISCONNECTED = "disconnected"
    FENCED = "fenced"


class VolumeState(StrEnum):
    """How far a volume has come."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"
    FAILED = "failed"


class SnapshotState(StrEnum):
    """How far a snapshot has come."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"
    FAILED = "failed"


class BackupState(StrEnum):
    """How far a backup has come."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"
    FAILED = "failed"


class OperationState(StrEnum):
    """How far an operation has come."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (OperationState.PENDING, OperationState.RUNNING)


class PlanState(StrEnum):
    """How far a DRS plan has come; READY: to be executed next."""

    UNDER_REVIEW = "under_review"
    READY = "ready"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_active(self) -> bool:
        """Whether the plan is executed, or is next to be."""
        return self in (PlanState.READY, PlanState.IN_PROGRESS)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self is not PlanState.UNDER_REVIEW and not self.is_active


class MoveState(StrEnum):
    """How far a move of a DRS plan has come."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (MoveState.PENDING, MoveState.RUNNING)


class ImportPlanState(StrEnum):
    """How far an import plan has come; PAUSING: waits for the imports under way."""

    READY = "ready"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_active(self) -> bool:
        """Whether an operation carries the plan out."""
        return self in (ImportPlanState.RUNNING, ImportPlanState.PAUSING)


class ImportPlanVmState(StrEnum):
    """How far a VM of an import plan has come; REFUSED: the check said no-go."""

    WAITING = "waiting"
    RUNNING = "running"
    IMPORTED = "imported"
    FAILED = "failed"
    REFUSED = "refused"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen unless the VM is retried."""
        return self not in (ImportPlanVmState.WAITING, ImportPlanVmState.RUNNING)


# For queries, too: `Vm.power_state.in_(OFF_POWER_STATES)`. No process of the hypervisor has the VM's disks open.
OFF_POWER_STATES = (PowerState.STOPPED, PowerState.CRASHED, PowerState.ABSENT)
# For queries: `Operation.state.in_(OVER_OPERATIONS)`.
OVER_OPERATIONS = tuple(state for state in OperationState if state.is_over)
UNFINISHED_OPERATIONS = tuple(state for state in OperationState if not state.is_over)
ACTIVE_PLANS = tuple(state for state in PlanState if state.is_active)
ACTIVE_IMPORT_PLANS = tuple(state for state in ImportPlanState if state.is_active)


class Scope(StrEnum):
    """Whose value of a setting it is. The widest first: a value of a narrower scope wins over that of a wider one."""

    GLOBAL = "global"
    ZONE = "zone"
    CLUSTER = "cluster"
    ACCOUNT = "account"


class Priority(StrEnum):
    """How early a VM restarts after its host was proved off; OFF: it does not restart by itself."""

    OFF = "off"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """Larger restarts earlier."""
        return list(Priority).index(self)


class SwitchState(StrEnum):
    """How far a host that is switched off to save power is. EMPTYING: its VMs leave first."""

    EMPTYING = "emptying"
    SWITCHING_OFF = "switching_off"
    OFF = "off"
    SWITCHING_ON = "switching_on"


class GuardState(StrEnum):
    """How a host's guardian stands; see `Guard.State` in agent/v1/host.proto."""

    OFF = "off"
    STARTING = "starting"
    GUARDING = "guarding"
    ENDED = "ended"
    ABSENT = "absent"


class FenceState(StrEnum):
    """How far the fencing of a host has come. OFF: it is proved off."""

    FENCING = "fencing"
    FAILED = "failed"
    OFF = "off"
