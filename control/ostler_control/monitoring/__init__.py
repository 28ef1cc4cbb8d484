"""What Prometheus reads of the control plane, with the alert rules and the dashboard that go with it."""

from ostler_control.monitoring.collector import ControlCollector

__all__ = ["ControlCollector"]
