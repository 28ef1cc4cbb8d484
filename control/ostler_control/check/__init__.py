"""Compares what the database says with what hosts have. Changes nothing."""

from ostler_control.check.findings import Finding, Reason, Report, Severity
from ostler_control.check.inspect import inspect

__all__ = ["Finding", "Reason", "Report", "Severity", "inspect"]
