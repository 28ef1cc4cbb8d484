"""Checks of the driver contract on a real host: `ostler-agent driver check NAME`.

`assertions` and `bench` are what checks are written with; `suite` lists and runs them; each of the other modules
contains the checks of one subject.
"""
