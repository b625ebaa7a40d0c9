"""Many runs that are one question: what starts them, what guides them."""
