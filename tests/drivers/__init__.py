"""Small hypervisor drivers, correct and broken ones, that the conformance suite is tested with."""
