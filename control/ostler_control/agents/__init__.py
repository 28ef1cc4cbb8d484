"""The client side of the hosts' agents."""

from ostler_control.agents.client import Agent, Agents, HostAddress
from ostler_control.agents.jobs import JobCall, JobControl, JobRequest, run_job, watch_job

__all__ = ["Agent", "Agents", "HostAddress", "JobCall", "JobControl", "JobRequest", "run_job", "watch_job"]
