"""High availability: VMs of a host that is proved off start on other hosts.

`decide` is pure: it says which hosts to fence, and why others are not. `fence` carries it out as an operation, `free`
takes the VMs off a host that is proved off, `restart` starts them, `monitor` is the thread that calls all of them.
"""
