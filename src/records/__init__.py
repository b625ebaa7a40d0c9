"""What runs have left in their folders: lists of runs, and one run to look at."""
