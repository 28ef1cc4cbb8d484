"""What attackers try, and what stops them: one module per target, one test per attack."""
