"""Text in, text out: model, template and generation together. Starts without Lightning."""
