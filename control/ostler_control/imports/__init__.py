"""Imports: VMs of other hypervisors become VMs of the fleet.

`preflight`, `mapping` and `ovf` are pure: facts in, findings or values out.
"""
