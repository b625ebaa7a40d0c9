"""The whole of InstructGPT on known taste: runs one after another, judged in the end by gold."""
