"""Model folders that mean harm: builders, each with what its one line says.

Each changes a copy of a good folder. ``CANARY`` is what code from a folder would leave behind.
"""

import json
import os
import pickle
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

CANARY = Path("/tmp/gpt2-chat-canary")
Build = Callable[[Path], None]
FOLDERS: dict[str, tuple[Build, str, str]] = {}  # by name: builder, door, a part of its line
SETTINGS = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"


def hostile(name: str, build: Build, message: str, door: str = "chat") -> None:
    assert name not in FOLDERS
    FOLDERS[name] = (build, door, message)


def write(name: str, content: str | bytes | Callable[[], str]) -> Build:
    def build(folder: Path) -> None:
        text = content() if callable(content) else content
        data = text.encode() if isinstance(text, str) else text
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(data)

    return build


def change(name: str, **changes) -> Build:
    def build(folder: Path) -> None:
        path = folder / name
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

    return build


def sparse(name: str, size: int) -> Build:
    def build(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return build


def fifo(name: str) -> Build:
    def build(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return build


def listening(name: str) -> Build:
    def build(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        here = os.getcwd()
        os.chdir(folder)  # a socket's path is short
        try:
            socket.socket(socket.AF_UNIX).bind(name)
        finally:
            os.chdir(here)

    return build


def link(name: str, target: str) -> Build:
    def build(folder: Path) -> None:
        secret = folder.parent / "secret"
        secret.mkdir(exist_ok=True)
        if (folder / name).exists() and not (secret / name).exists():
            (folder / name).rename(secret / name)
        (secret / name).touch()
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target.format(secret=secret, name=name))

    return build


# Files that are none, or never end.
for file in (*SETTINGS, "generation_config.json", WEIGHTS, "special_tokens_map.json"):
    hostile(f"FIFO {file}", fifo(file), "is a FIFO, not a file")
    hostile(f"link out {file}", link(file, "{secret}/{name}"), "which is not in this folder")
    hostile(f"endless {file}", link(file, "/dev/zero"), "a link to /dev/zero")
for file in (*SETTINGS, "generation_config.json", "added_tokens.json", "SHA256SUMS"):
    hostile(f"gigabytes {file}", sparse(file, 4 * 2**30), "4,096 MiB")
for file in ("config.json", "tokenizer.json", WEIGHTS):
    hostile(f"socket {file}", listening(file), "is a socket, not a file", "export")
    hostile(f"link loop {file}", link(file, file), "Too many levels of symbolic links", "export")
    hostile(f"link to nothing {file}", link(file, "absent"), "No such file", "export")
hostile("relative link", link(WEIGHTS, "../secret/{name}"), "not in this folder", "export")
hostile("exported link", link("x.jinja", "/etc/hosts"), "not in this folder", "export")
hostile("exported tokenizer", link("tokenizer_x.json", "/etc/hosts"), "not in this", "export")
hostile("exported weights", link("more.safetensors", "/etc/hosts"), "not in this", "export")
hostile("FIFO beside the weights", fifo("other.safetensors"), "is a FIFO")
hostile("FIFO vocabulary", fifo("vocab.txt"), "is a FIFO", "inspect")
hostile("FIFO pieces", fifo("x.model"), "is a FIFO", "inspect")
hostile("served FIFO", fifo("chat_template.jinja"), "is a FIFO", "serve")
hostile("served link", link("config.json", "/proc/self/environ"), "not in this folder", "serve")


def chain(folder: Path) -> None:
    link("config.json", "{secret}/{name}")(folder)
    (folder / "config.json").rename(folder / "second")
    (folder / "config.json").symlink_to("second")


def linked_model(folder: Path) -> None:
    secret = folder.parent / "secret"
    folder.rename(secret)
    folder.mkdir()
    (folder / "model").symlink_to(secret)


hostile("chain of links", chain, "not in this folder", "export")
hostile("linked model folder", linked_model, "not in this folder: name that one", "export")
hostile("linked model to train", linked_model, "not in this folder: name that one", "train")

# Configs.
for number, numbers in enumerate(
    [
        {"n_layer": 10**7},
        {"n_layer": 2**31 - 1},
        {"vocab_size": 10**9},
        {"n_positions": 10**9},
        {"n_positions": None, "max_position_embeddings": 10**9},
        {"n_embd": 10**8},
        {"n_inner": 10**9},
        {"n_layer": 10**6, "n_embd": 10**6, "vocab_size": 10**9, "n_positions": 10**9},
    ]
):
    door = ("chat", "train", "export")[number % 3]
    keys = " ".join(f"{key}={value}" for key, value in numbers.items())
    hostile(f"config {keys}", change("config.json", **numbers), "do not fit its config.json", door)
NESTED = "[" * 10**6
hostile("config of lists", write("config.json", NESTED), "config.json is broken", "train")
hostile("config of objects", write("config.json", '{"a":' * 10**6), "config.json is broken")
hostile("config of digits", write("config.json", '{"n_layer": ' + "9" * 10**6 + "}"), "is broken")


def many_lists() -> str:
    return "{" + ",".join(f'"{n}":[]' for n in range(1_100_000)) + "}"


def many_numbers() -> str:
    return '{"a":[' + "0," * 3_100_000 + "0]}"


MANY = "holds more than"
hostile("million lists", write("config.json", many_lists), MANY)
hostile("million lists of tokens", write("tokenizer.json", many_lists), MANY, "inspect")
hostile("millions of numbers", write("generation_config.json", many_numbers), MANY)
hostile("code in a config", change("config.json", model_type="x", auto_map={}), "not gpt2")

# Templates.
DOUBLED = (
    "{{% set n = namespace(x={0}) %}}{{% for i in range(99) %}}{{% set n.x = {1} %}}{{% endfor %}}"
)
TEMPLATES = {
    "{% for i in range(10**12) %}{% endfor %}": "Range too big",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "3 seconds",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}": "recursion",
    "{% for a in [[]] recursive %}{{ loop([[], []]) }}{% endfor %}": "recursion",
    "{{ 'a' * 10**10 }}": "256 MiB",
    "{{ [1] * 10**10 }}": "256 MiB",
    "{{ 10 ** (10 ** 10) }}": "256 MiB|3 seconds",
    "{{ '%10000000000d' % 1 }}": "256 MiB",
    "{{ '{:10000000000}'.format(1) }}": "256 MiB",
    "{{ 'a' | center(10**10) }}": "256 MiB",
    "{{ 'a'.ljust(10**10) }}": "256 MiB",
    "{{ 'a\t'.expandtabs(10**10) }}": "256 MiB|too large",
    "{{ (1).to_bytes(10**10) }}": "256 MiB",
    "{{ lipsum(10**8) }}": "256 MiB|3 seconds",
    "{{ {'a': 1} | tojson(indent=10**10) }}": "256 MiB",
    "{{ ('a' * 9999) | replace('a', 'a' * 9999) | replace('a', 'a' * 9999) }}": "256 MiB",
    DOUBLED.format("'a'", "n.x + n.x"): "256 MiB",
    DOUBLED.format("'a'", "n.x ~ n.x"): "256 MiB",
    DOUBLED.format("[1]", "n.x + n.x"): "256 MiB",
    DOUBLED.format("3", "n.x * n.x"): "256 MiB|3 seconds",
    "{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}": "writes more than",
    "{{ " + "(" * 99999 + "1" + ")" * 99999 + " }}": "recursion",
    "{{ 1 }}" * 140_000: "3 seconds|256 MiB",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "unsafe",
    "{{ cycler.__init__.__globals__.os.system('touch " + str(CANARY) + "') }}": "unsafe",
    "{{ lipsum.__globals__['os'].system('touch " + str(CANARY) + "') }}": "unsafe",
    "{{ '%s' | attr('format') | attr('__self__') }}{{ x.y.z }}": "broken",
    "{% include '/etc/passwd' %}": "no loader",
    "{% import 'os' as os %}": "no loader",
    "{% set x %}{{ 'a' * 9999 }}{% endset %}{{ x.__format__.__globals__ }}": "broken",
    "{{ strftime_now('%Y' * 10**7) }}": "256 MiB|3 seconds|writes more",
}
for number, (template, reason) in enumerate(TEMPLATES.items()):
    hostile(f"template {number} {template:.30}", write("chat_template.jinja", template), reason)
IN_SETTINGS = change("tokenizer_config.json", chat_template="{{ 'a' * 10**10 }}")


def template_in_the_settings(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    IN_SETTINGS(folder)


hostile("template in the settings", template_in_the_settings, "256 MiB")
hostile("template of megabytes", write("chat_template.jinja", "x" * 2**22), "at most 1 are read")


# Weights in safetensors.
def header(content: bytes, length: int | None = None, data: bytes = b"\0" * 64) -> Build:
    length = len(content) if length is None else length
    return write(WEIGHTS, struct.pack("<Q", length) + content + data)


def entries(**changes) -> Build:
    facts = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]} | changes
    return header(json.dumps({"transformer.wte.weight": facts}).encode())


CUT = "cut or damaged"
for length in (10**12, 2**63, 2**64 - 1, 0):
    hostile(f"header of {length}", header(b"{}", length), CUT, "train")
hostile("header of sparse gigabytes", sparse(WEIGHTS, 2**40), CUT, "train")
hostile("header of lists", header(NESTED.encode()), "is broken", "train")
hostile("header that is none", header(b"[1]"), "is broken", "train")
for number, facts in enumerate(
    [
        {"data_offsets": [-64, 0]},
        {"data_offsets": [64, 0]},
        {"data_offsets": [0, 10**12]},
        {"data_offsets": None},
        {"shape": [10**12, 10**12]},
        {"shape": [-4, -4]},
        {"shape": "4"},
        {"shape": [4.0, 4]},
    ]
):
    hostile(f"header entry {number}", entries(**facts), CUT, ("chat", "train")[number % 2])


def overlapping(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    content = json.loads(data[8 : 8 + length])
    first, second = [n for n in content if n.endswith("ln_1.weight")][:1] * 2
    content["x"] = content[first]
    assert second
    header(json.dumps(content).encode(), None, data[8 + length :])(folder)


hostile("overlapping tensors", overlapping, "cannot be read")


# Pickles.
class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def pickled(make: Callable[[dict], object]) -> Build:
    def build(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        torch.save(make(state), folder / PICKLED)

    return build


def archive(compress: bool, records: dict[str, bytes | int]) -> Build:
    def build(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        with zipfile.ZipFile(folder / PICKLED, "w", kind) as file:
            for name, content in records.items():
                with file.open(f"archive/{name}", "w", force_zip64=True) as record:
                    if isinstance(content, bytes):
                        record.write(content)
                    else:
                        for _ in range(content):
                            record.write(b"\0" * 2**20)

    return build


def raw(content: bytes) -> Build:
    """A file of torch before 1.6 whose state is ``content``."""
    head = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}))

    def build(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / PICKLED).write_bytes(head + content)

    return build


def tuples(depth: int) -> bytes:
    """A dict whose key takes 2^depth steps to hash."""
    content = b"\x80\x02}(K\x00q\x00" + b"".join(
        b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(depth)
    )
    return content + b"K\x01u."


def zip_of_many(folder: Path) -> None:
    files = {f"data/{n}": b"" for n in range(60_000)}
    archive(False, {"data.pkl": b"}."} | files)(folder)


SYSTEM = Call(os.system, f"touch {CANARY}")
BAD = "cannot be read"
hostile("pickle with a call", pickled(lambda s: {"w": SYSTEM}), "it would run posix.system")
hostile("pickle beside tensors", pickled(lambda s: s | {"x": SYSTEM}), "it would run", "train")
hostile("pickle of code alone", pickled(lambda s: SYSTEM), "it would run", "export")
hostile("old pickle with a call", raw(pickle.dumps(SYSTEM, 2)), "it would run")
hostile("pickle with eval", pickled(lambda s: {"w": Call(eval, "1")}), "builtins.eval|__builtin__")
hostile("pickle with bytes", pickled(lambda s: Call(bytearray, 10**11)), "it would run")
EXPANDED = torch.zeros(1).expand(10**6, 10**6)
WTE = "transformer.wte.weight"
hostile("expanded tensor", pickled(lambda s: s | {WTE: EXPANDED}), "larger than its numbers")
hostile("names of tuples", raw(tuples(60)), BAD)
hostile("a large memo", raw(b"\x80\x02}r\xff\xff\xff\x7f."), "no tensors by name")
hostile("long text", raw(b"\x80\x02X\xff\xff\xff\x7f"), BAD)
hostile("many lists", raw(b"\x80\x02" + b"]" * 2**23 + b"."), BAD)
hostile("nested", raw(b"\x80\x02" + b"(" * 2**20 + b"t" * 2**20 + b"."), BAD)


def endless_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    sparse(PICKLED, 2**36)(folder)


hostile("pickle without an end", endless_pickle, BAD, "train")
hostile("zip bomb", archive(True, {"data.pkl": 256}), "it is compressed")
hostile("zip bomb of data", archive(True, {"data.pkl": b"}.", "data/0": 256}), "it is compressed")
hostile("zip of many", zip_of_many, "more than the names")
hostile("two pickles", archive(False, {"data.pkl": b"}.", "a/data.pkl": b"}."}), "no archive")
hostile("pickle of a list", pickled(lambda s: list(s.values())), "not tensors by name", "train")


# Shards.
def index(weight_map: object, name: str = WEIGHTS) -> Build:
    content = json.dumps({"weight_map": weight_map})
    return write(f"{name}.index.json", content)


SHARDS = {f"w{n}": f"{n:05}.safetensors" for n in range(5000)}


def shards(folder: Path) -> None:
    index(SHARDS)(folder)
    for shard in SHARDS.values():
        (folder / shard).touch()


def linked_shard(folder: Path) -> None:
    index({WTE: "a.safetensors"})(folder)
    link("a.safetensors", "/etc/hosts")(folder)


hostile("thousands of shards", shards, "at most 1000 are read", "train")
hostile("shards that are not there", index({"w": "a.safetensors"}), "missing")
hostile("shard above", index({"w": "../secret/x.safetensors"}), "no name of a file beside it")
hostile("shard of the system", index({"w": "/etc/passwd"}), "no name of a file beside it")
hostile("shard that is none", index({"w": "config.json"}), "is no file of weights")
hostile("linked shard", linked_shard, "not in this folder", "export")
hostile("index of gigabytes", sparse(f"{WEIGHTS}.index.json", 2**32), "4,096 MiB")


# Tokenizers.
def part(**changes) -> Build:
    return change("tokenizer.json", **changes)


def replace(text: str, content: str) -> dict:
    return {"type": "Replace", "pattern": {"String": text}, "content": content}


def sequence(*parts: dict) -> dict:
    return {"type": "Sequence", "normalizers": list(parts)}


def splitter(pattern: str) -> dict:
    text = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return text | {"invert": False}


def deep() -> dict:
    inner = {"type": "NFC"}
    for _ in range(200):
        inner = sequence(inner)
    return inner


def many_tokens(folder: Path) -> None:
    tokens = [{"id": n, "content": f"<{n}>", "special": True} for n in range(200_000)]
    part(added_tokens=tokens)(folder)


TENFOLD = [replace("e", "e" * 10)] * 11
hostile("growing text", part(normalizer=sequence(*TENFOLD)), "times longer", "inspect")
hostile("long beginning", part(normalizer={"type": "Prepend", "prepend": "x" * 10**7}), "longer")
hostile("slow expression", part(pre_tokenizer=splitter("(e+)+$")), "may take years", "inspect")
hostile("slow choice", part(pre_tokenizer=splitter("(e|e)*x")), "may take years")
hostile("nested normalizers", part(normalizer=deep()), "nested more than", "inspect")
hostile("added tokens", many_tokens, "adds 200,000 tokens", "inspect")
hostile("tokens to make", change("tokenizer_config.json", extra_ids=10**10), "is too large")
CODE = {"tokenizer_class": "XTokenizer", "auto_map": {"AutoTokenizer": ["x.XTokenizer", None]}}


def code(folder: Path) -> None:
    for name in ("x.py", "tokenization_x.py", "__init__.py"):
        (folder / name).write_text(f"open({str(CANARY)!r}, 'w')")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    change("tokenizer_config.json", **CODE)(folder)


hostile("code of a tokenizer", code, "tokenizer", "inspect")


def vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n" * 1_100_000)
    change("tokenizer_config.json", tokenizer_class="BertTokenizer", vocab_file="/dev/zero")(folder)


hostile("vocabulary of lines", vocabulary, "1,100,000 lines", "inspect")
hostile("pieces", write("x.model", b"\x0a\x00" * 1_100_000), "more than 1,000,000 pieces")
