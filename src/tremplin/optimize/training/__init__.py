"""Training networks: one loop, and one file per thing it can teach."""
