"""What a person reads: commands to copy, the nearest name, lines that fit a screen."""
