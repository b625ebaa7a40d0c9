"""What the door's settings and the evaluation must agree on; imports nothing."""

MOST_BEST_OF = 2**12  # replies to a prompt; a reply's chance is numbered by it
