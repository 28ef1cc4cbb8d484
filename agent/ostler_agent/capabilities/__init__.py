"""What this host can do, found by trying: one module per family of probes."""

from ostler_agent.capabilities.facts import Capabilities, HypervisorFacts, Probe
from ostler_agent.capabilities.prober import Prober, probe_all

__all__ = ["Capabilities", "HypervisorFacts", "Probe", "Prober", "probe_all"]
