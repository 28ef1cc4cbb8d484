"""Chooses hosts and pools. Pure: facts in, answer out; knows neither database nor gRPC."""

from ostler_control.placement.facts import AffinityRules, Candidate, Demand, HostFacts, Placement, PoolFacts, Refusal
from ostler_control.placement.filters import refusal
from ostler_control.placement.place import explain, place
from ostler_control.placement.pools import choose_pools

__all__ = [
    "AffinityRules",
    "Candidate",
    "Demand",
    "HostFacts",
    "Placement",
    "PoolFacts",
    "Refusal",
    "choose_pools",
    "explain",
    "place",
    "refusal",
]
