"""The command line: what a person types becomes a config, and a mistake becomes one line."""
