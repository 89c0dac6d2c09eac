"""How the stages are run: each in a process of its own, its records kept as they come."""
