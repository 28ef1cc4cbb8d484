"""Pure placement: which host takes a VM, and why the others do not."""
