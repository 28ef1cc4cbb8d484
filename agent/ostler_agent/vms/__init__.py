"""Operations on VMs, composed of the driver's single steps, with checks before the first side effect."""
