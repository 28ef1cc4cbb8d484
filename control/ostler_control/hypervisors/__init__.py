"""Types of hypervisor: learned from what hosts report, named by their drivers and the fleet's administrator.

`registry` knows the types, `rules` says what a cluster, a VM or a host of a type may do.
"""
