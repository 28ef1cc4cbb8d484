"""One module a noun; each holds the group `command`, imported by `ostler_control.cli.main` when it is used."""
