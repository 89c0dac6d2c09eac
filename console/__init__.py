"""What the commands share: types of options, progress, signals, and the output streams."""
