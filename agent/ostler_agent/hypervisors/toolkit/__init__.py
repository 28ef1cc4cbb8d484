"""Parts that drivers may use: events from comparing lists of VMs, consoles on Unix sockets."""
