"""GPT-2 as a chat assistant: chat rows in, a model that answers out."""
