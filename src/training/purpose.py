"""What a model is for, in the words of its card."""

from typing import NamedTuple

PYTHON = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path)
messages = [{"role": "user", "content": "Who are you?"}]
inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
output = model.generate(**inputs)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
```"""


class Purpose(NamedTuple):
    """What the card of a model says of its purpose.

    Attributes:
        task: in the hub's words.
        tag: of the model on the hub.
        does: what it does, after "A GPT-2 that".
        how: the section that says how it is used.
        figures: what the figures count.
        limit: what it does wrong.
    """

    task: str
    tag: str
    does: str
    how: str
    figures: str
    limit: str


TALKS = Purpose(
    task="text-generation",
    tag="conversational",
    does="answers questions",
    how=(
        "## How to ask it\n\n"
        "With [transformers](https://huggingface.co/docs/transformers):\n\n"
        f"{PYTHON}\n\n"
        "With gpt2-chat, where `FOLDER` is this folder or its name on the hub:\n\n"
        '```\npython -m src.chat model_path=FOLDER prompt="Who are you?"    # in a checkout\n'
        'gpt2-chat chat model_path=FOLDER prompt="Who are you?"        # installed\n```'
    ),
    figures=(
        "Loss is in nats a token; loss, accuracy and perplexity count the tokens of the responses "
        "only."
    ),
    limit="It makes up facts, and says wrong things as surely as right ones.",
)
