"""Talking to vCenter and ESXi: connect, read the inventory, clone a VM, export its disks.

Everything here works on one server's objects and knows nothing of Ostler's database. Needs vSphere 6.5 or newer.
"""
