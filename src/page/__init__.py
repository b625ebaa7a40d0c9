"""A page in a browser to talk to a model, and to ask two the same."""
