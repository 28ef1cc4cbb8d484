"""Labels of objects, and the selectors that find objects by them."""

from ostler_control.labels.selector import matches, parse
from ostler_control.labels.store import add, check_new, clear, of_objects, selected, update

__all__ = ["add", "check_new", "clear", "matches", "of_objects", "parse", "selected", "update"]
