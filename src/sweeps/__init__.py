"""Many runs at once: how far they are, which is the best, and how they go on."""
