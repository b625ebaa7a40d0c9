"""How good a model is: what it scores on rows that it was not taught. Knows no Lightning."""
