"""Comparisons collected: replies drawn from a model, and a person or a program that ranks them."""
