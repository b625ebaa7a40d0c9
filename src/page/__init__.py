"""The page: a chat in the browser. Only this room knows Gradio."""
