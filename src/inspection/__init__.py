"""What the data teaches: figures of the rows, and packed blocks in colour."""
