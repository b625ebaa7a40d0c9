"""The API: HTTP in, replies out, by OpenAI's protocol. Only this room knows FastAPI."""
