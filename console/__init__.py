"""Shared parts of the commands: option types, progress, signals and output streams."""
