"""The chat at a terminal: its lines, its commands, and the conversation that they lead."""
