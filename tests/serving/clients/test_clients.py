"""Client libraries that people have talk to our server: ``make test-clients`` installs them.

Each script beside this file is one client; it asks the server at its first argument.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving.conftest import running_server, tiny_assistant

HERE = Path(__file__).parent
CLIENTS = Path(os.environ.get("CLIENTS", ".clients")).absolute()  # made by `make test-clients`
SCRIPTS = {
    "openai_python.py": "python",
    "litellm_sdk.py": "python",
    "langchain_chat.py": "python",
    "llm_command.py": "python",
    "huggingface_client.py": "python",
    "llama_index_llm.py": "llama-index",  # wants another version of openai than the others
    "openai_javascript.mjs": "node",
    "vercel_ai.mjs": "node",
}

QUIET = {
    "NO_PROXY": "*",
    "HF_HUB_OFFLINE": "0",  # else InferenceClient refuses to ask any server
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "DO_NOT_TRACK": "1",
}

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def server():
    with running_server(tiny_assistant(n_positions=1024)) as running:
        yield running


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_client_talks_to_our_server(script, server, tmp_path):
    place = CLIENTS / SCRIPTS[script]
    if not place.exists():
        pytest.skip(f"{place} is not here: make test-clients installs the clients")
    copy, program = HERE / script, place / "bin" / "python"
    if script.endswith(".mjs"):  # node looks for packages beside the script
        copy, program = Path(shutil.copy(HERE / script, place)), Path("node")
    done = subprocess.run(
        [program, copy, f"{server.url}/v1"],
        env=os.environ | QUIET | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
