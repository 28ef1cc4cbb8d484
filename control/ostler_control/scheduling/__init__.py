"""From the database to placement and back: candidates, capacity claims, affinity."""
