"""The command ``llm``: a model in extra-openai-models.yaml, a prompt, and the conversation on."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "extra-openai-models.yaml").write_text(
        f"- model_id: ours\n  model_name: tiny\n  api_base: {sys.argv[1]}\n", encoding="utf-8"
    )
    for arguments in (
        ["Hello"],
        ["-c", "1 2 3"],
        ["Hello", "--no-stream", "-o", "temperature", "0"],
    ):
        command = [sys.executable, "-m", "llm", "prompt", "-m", "ours", *arguments]
        environment = os.environ | {"LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"}
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.strip()
