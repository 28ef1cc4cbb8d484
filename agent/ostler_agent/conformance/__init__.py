"""What every hypervisor driver must do, tried on a real host: `ostler-agent driver check NAME`.

`check` has the words that checks are written in, `bench` what they work with; `suite` lists and runs them; each of the
other modules holds the checks of one subject.
"""
