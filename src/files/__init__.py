"""Files that appear whole, that are what they were, and that strangers may have made."""
