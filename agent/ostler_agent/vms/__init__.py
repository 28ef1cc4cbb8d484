"""What is done with VMs: the driver's single steps put together, with checks before the first side effect."""
