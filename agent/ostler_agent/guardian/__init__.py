"""Self-fencing: a host that is cut off from storage and control plane ends its VMs by itself.

The guardian is a process of its own, so that an agent that hangs or is killed changes nothing. `hold` is the pure model
of its timing, `lease` the file on shared storage that other hosts read; `renewer` writes it without waiting for the
storage, and `loop` puts them together. `desk` holds the files through which agent and guardian talk, `guards` is the
agent's side.
"""
