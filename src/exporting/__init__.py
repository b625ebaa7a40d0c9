"""A model folder or a checkpoint becomes files that other programs read."""
