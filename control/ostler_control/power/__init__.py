"""Saving power: which hosts could be off or should be on, and carrying that out without being asked.

What is planned is `ostler_control.drs.power`'s business, how a host is switched `ostler_control.ha.switching`'s.
"""
