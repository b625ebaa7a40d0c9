"""Ties data to model: the training step, its schedule, and everything that watches a run."""
