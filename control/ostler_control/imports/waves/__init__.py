"""Import plans: many VMs of one source, imported in an order and under limits. Each VM is one `vm.import` operation."""
