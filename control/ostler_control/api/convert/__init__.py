"""From rows to messages, one module a subject."""
