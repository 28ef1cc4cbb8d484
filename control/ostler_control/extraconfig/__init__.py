"""Extra configuration: raw libvirt XML for a VM, as far as its account may have it.

`rules` is the language of the allow-list, `host_access` knows what reaches the host, `check` applies both, `dpdk` says
what service offerings may carry. All of it is pure: text and values in, values or one refusal out.
"""
