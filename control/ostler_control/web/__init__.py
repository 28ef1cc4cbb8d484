"""The web console: pages on loopback, served by `ostler web` with the user's own profile. It sees the fleet as the
command line does, through the same client, and never the server's rooms."""
