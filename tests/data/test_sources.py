import gzip
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import src.download
from src.data.report import prompt_hash
from src.data.sources import SPLITS, RowReport, open_source
from src.download import probe_hub
from src.errors import UserError


@pytest.fixture
def write_rows(tmp_path):
    """Write rows as a JSONL file; return its path as a string."""

    def write(rows, name="rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def row(prompt, response="A"):
    return {"prompt": prompt, "response": response}


def numbered(count):
    return [row(f"question {i}") for i in range(count)]


def read(source) -> tuple[dict[str, list[str]], RowReport]:
    """The prompts of each split in order, and what became of the rows."""
    report = RowReport()
    prompts = {split: [] for split in SPLITS}
    for split, conversation in source.conversations(report):
        prompts[split].append(conversation.turns[0][0])
    assert report.read == report.used.total() + report.dropped.total()
    assert dict(report.used) == {split: len(texts) for split, texts in prompts.items() if texts}
    return prompts, report


# A local file


def test_equal_prompts_never_fall_on_two_sides(data_config, write_rows):
    rows = [row(f"question {i % 500}", f"answer {i}") for i in range(2000)]
    config = data_config(
        source="file", path=write_rows(rows), validation_fraction=0.2, test_fraction=0.1
    )
    prompts, report = read(open_source(config))
    sides = [set(texts) for texts in prompts.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 500
    assert report.used.total() == 2000
    # 500 prompts: within three standard deviations of 20% and 10%.
    assert 73 <= len(sides[1]) <= 127
    assert 30 <= len(sides[2]) <= 70


def test_the_split_hangs_on_the_prompt_alone(data_config, write_rows):
    """Not on its place among the rows, on other rows, or on the response."""

    def sides(rows):
        options = {"validation_fraction": 0.2, "test_fraction": 0.2}
        source = open_source(data_config(source="file", path=write_rows(rows), **options))
        prompts, _ = read(source)
        assert read(source)[0] == prompts, "a second reading"
        return {prompt: split for split, texts in prompts.items() for prompt in texts}

    whole = sides(numbered(300))
    fewer = sides([row(f"question {i}", "B") for i in reversed(range(150))])
    assert fewer == {prompt: whole[prompt] for prompt in fewer}
    assert set(whole.values()) == set(SPLITS)


def test_a_prompts_hash_is_the_same_on_every_machine():
    """As `printf Hello | b2sum -l 64` prints it."""
    assert prompt_hash("Hello") == 0x3C5C8A1FDB206886
    assert prompt_hash("東京") == 0xEE1155CAD1682BF0


def test_fractions_of_zero_keep_every_row_for_training(data_config, write_rows):
    prompts, _ = read(open_source(data_config(source="file", path=write_rows(numbered(50)))))
    assert [len(texts) for texts in prompts.values()] == [50, 0, 0]


def test_own_validation_and_test_files_are_used_whole(data_config, write_rows):
    config = data_config(
        source="file",
        path=write_rows(numbered(100)),
        validation_split=write_rows([row("v"), row("question 1")], "validation.jsonl"),
        test_split=write_rows([row("t")], "test.jsonl"),
        validation_fraction=0.3,
        test_fraction=0.3,
    )
    prompts, _ = read(open_source(config))
    assert len(prompts["train"]) == 100
    assert prompts["validation"] == ["v", "question 1"]
    assert prompts["test"] == ["t"]


def test_a_missing_validation_file_is_taken_out_of_train_beside_an_own_test_file(
    data_config, write_rows
):
    config = data_config(
        source="file",
        path=write_rows(numbered(300)),
        test_split=write_rows([row("t")], "test.jsonl"),
        validation_fraction=0.3,
        test_fraction=0.3,
    )
    prompts, _ = read(open_source(config))
    assert prompts["test"] == ["t"]
    assert 60 <= len(prompts["validation"]) <= 120
    assert len(prompts["train"]) + len(prompts["validation"]) == 300


def test_max_rows_keeps_the_first_usable_rows_of_each_split(data_config, write_rows):
    rows = [row("q0"), row("", "A"), row("q1"), row("q2"), row("q3")]
    config = data_config(
        source="file",
        path=write_rows(rows),
        validation_split=write_rows(numbered(5), "validation.jsonl"),
        max_rows=2,
    )
    prompts, report = read(open_source(config))
    assert prompts == {
        "train": ["q0", "q1"],
        "validation": ["question 0", "question 1"],
        "test": [],
    }
    assert report.dropped == {"empty_prompt": 1, "over_max_rows": 5}


def test_every_dropped_row_is_counted_and_the_first_of_each_reason_named(data_config, write_rows):
    rows = [row("q"), row("q", " "), row(None), row("q", ""), {"prompt": "q"}, row("q", ["a", "b"])]
    rows.append({**row("q"), "score": 0, "note": None})
    path = write_rows(rows)
    _, report = read(open_source(data_config(source="file", path=path)))
    assert report == RowReport(
        read=7,
        used={"train": 2},
        dropped={
            "empty_response": 2,
            "empty_prompt": 1,
            "no_conversation": 1,
            "several_responses": 1,
        },
        first_dropped={
            "empty_response": f'{path}, line 2: after "q"',
            "empty_prompt": f'{path}, line 3: before "A"',
            "no_conversation": f"{path}, line 5: columns prompt",
            "several_responses": f'{path}, line 6: ["a", "b"]',
        },
        unused={"column score": 1},
        first_unused={"column score": f"{path}, line 7"},
    )
    assert RowReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_rows_that_leave_nothing_to_train_on_are_refused(data_config, write_rows):
    def complaint(rows) -> str:
        with pytest.raises(UserError) as caught:
            read(open_source(data_config(source="file", path=write_rows(rows))))
        return str(caught.value)

    assert "no usable training rows among 0; the dataset is empty" in complaint([])
    said = complaint([row(""), row(" "), row("q", "")])
    assert re.search(r"among 3 \(2 empty_prompt, first .* line 1.*; 1 empty_response, first", said)
    said = complaint([{"x": "Q", "y": "A"}])
    assert re.search(r"no_conversation, first .* line 1: columns x, y: name your columns", said)
    said = complaint([{"prompt": {"0": "Q"}, "response": {"0": "A"}}] * 2)
    assert "columnar" in said
    assert 'orient="records"' in said


@pytest.mark.parametrize("key", ["path", "validation_split", "test_split"])
def test_a_missing_file_is_named_by_its_key(data_config, write_rows, key):
    files = {"path": write_rows([row("q")]), key: "absent.jsonl"}
    with pytest.raises(UserError, match=rf"data\.{key}=absent\.jsonl: there is no such file or"):
        open_source(data_config(source="file", **files))


def test_the_fingerprint_follows_whatever_decides_the_conversations(data_config, write_rows):
    def fingerprint(prompt="q", **changes) -> str:
        path = write_rows([row(prompt)])
        return open_source(data_config(source="file", path=path, **changes)).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(block_size=128, packing=False, num_workers=2) == first
    changed = [
        fingerprint("other"),
        fingerprint(max_rows=1),
        fingerprint(columns={"prompt": "response", "response": "prompt"}),
        fingerprint(validation_fraction=0.1),
        fingerprint(test_fraction=0.1),
        fingerprint(validation_split=write_rows([row("v")], "validation.jsonl")),
        fingerprint(test_split=write_rows([row("v")], "test.jsonl")),
        fingerprint(encoding="cp1252"),
        fingerprint(on_bad_row="skip"),
    ]
    assert len({first, *changed}) == 10


# Broken rows


def broken_file(tmp_path, count=3) -> str:
    path = tmp_path / "broken.jsonl"
    path.write_text((json.dumps(row("q")) + "\n" + '{"prompt": "x", "respo\n') * count)
    return str(path)


def test_all_broken_rows_of_a_file_are_named_in_one_go(data_config, tmp_path):
    def complaint(count: int) -> str:
        source = open_source(data_config(source="file", path=broken_file(tmp_path, count)))
        with pytest.raises(UserError) as caught:
            list(source.conversations(RowReport()))
        return str(caught.value)

    said = complaint(3)
    assert re.search(r"broken\.jsonl, line 2: not valid JSON.*; line 4: .*; line 6: ", said)
    assert "data.on_bad_row=skip" in said
    assert "and more" not in said
    assert "line 20: " in (said := complaint(11))
    assert "line 22" not in said
    assert "and more" in said


def test_skipped_broken_rows_are_counted_and_named(data_config, tmp_path):
    path = broken_file(tmp_path)
    prompts, report = read(open_source(data_config(source="file", path=path, on_bad_row="skip")))
    assert len(prompts["train"]) == 3
    assert report.dropped == {"broken_line": 3}
    for number in (2, 4, 6):
        assert f"{path}, line {number}: not valid JSON" in report.first_dropped["broken_line"]


def test_what_can_be_read_of_a_cut_file_is_used_and_the_cut_is_named(data_config, tmp_path):
    path = tmp_path / "cut.jsonl.gz"
    lines = "".join(json.dumps(row(f"q{i * 7919 % 1000003}")) + "\n" for i in range(2000))
    whole = gzip.compress(lines.encode())
    path.write_bytes(whole[: len(whole) // 2])
    config = data_config(source="file", path=str(path))
    with pytest.raises(UserError, match=r"cut\.jsonl\.gz, line \d+: the file is cut here"):
        read(open_source(config))
    prompts, report = read(open_source(replace(config, on_bad_row="skip")))
    assert 500 < len(prompts["train"]) < 1500
    assert (
        f"line {len(prompts['train']) + 1}: the file is cut"
        in (report.first_dropped["broken_line"])
    )


# Files with splits of their own


def test_splits_inside_a_file_or_folder_are_kept(data_config, tmp_path, write_rows):
    splits = {"train": numbered(4), "val": [row("v")], "test": [row("t")]}
    (tmp_path / "all.json").write_text(json.dumps(splits))
    (tmp_path / "folder").mkdir()
    for name, rows in splits.items():
        write_rows(rows, f"folder/{name}-00.jsonl")
    for path in (tmp_path / "all.json", tmp_path / "folder"):
        config = data_config(source="file", path=str(path), validation_fraction=0.4)
        prompts, _ = read(open_source(config))
        assert [len(texts) for texts in prompts.values()] == [4, 1, 1]
        assert prompts["validation"] == ["v"]


def test_a_split_of_a_folder_can_be_named(data_config, tmp_path, write_rows):
    for name, rows in {
        "train_sft": numbered(2),
        "train_gen": numbered(3),
        "x": numbered(4),
    }.items():
        write_rows(rows, f"{name}.jsonl")
    config = data_config(source="file", path=str(tmp_path), train_split="train_gen", test_split="x")
    prompts, _ = read(open_source(config))
    assert [len(texts) for texts in prompts.values()] == [3, 0, 4]
    with pytest.raises(UserError, match=r"data\.train_split=sft: there is no such split"):
        open_source(replace(config, train_split="sft"))


def test_a_list_of_files_is_one_source(data_config, write_rows):
    paths = [write_rows(numbered(2)), write_rows([row("other")], "b, c.jsonl")]
    prompts, _ = read(open_source(data_config(source="file", path=paths)))
    assert prompts["train"] == ["question 0", "question 1", "other"]


# Several sources


def mixed(data_config, entries, **changes):
    return open_source(data_config(source="file", sources=entries, **changes))


def test_several_sources_are_read_with_their_own_settings(data_config, write_rows):
    first = write_rows(numbered(50))
    second = write_rows([{"q1": f"b{i}", "a1": "A"} for i in range(9)], "b.jsonl")
    columns = {"prompt": "q1", "response": "a1"}
    entries = [{"path": first, "weight": 2.5}, {"path": second, "columns": columns, "max_rows": 4}]
    source = mixed(data_config, entries)
    prompts, report = read(source)
    assert len(prompts["train"]) == 54
    assert report.dropped == {"over_max_rows": 5}
    assert [(s.label, s.weight) for s in source.sources] == [("rows", 2.5), ("b", 1.0)]
    other = mixed(data_config, [{**entries[0], "weight": 1}, entries[1]])
    assert other.fingerprint() == source.fingerprint()  # weights come in after the rows are read
    fewer = mixed(data_config, [entries[0], {**entries[1], "max_rows": 3}])
    assert fewer.fingerprint() != source.fingerprint()


def test_sources_of_one_name_have_figures_of_their_own(data_config, write_rows, tmp_path):
    (tmp_path / "other").mkdir()
    paths = [write_rows(numbered(3)), write_rows(numbered(3), "other/rows.jsonl")]
    labels = [s.label for s in mixed(data_config, [{"path": path} for path in paths]).sources]
    assert labels == ["rows", "rows-2"]
    labels = [s.label for s in mixed(data_config, [{"path": paths[0], "label": "mine"}]).sources]
    assert labels == ["mine"]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([], r"data\.sources: must be a list"),
        ("a.jsonl", r"data\.sources: must be a list"),
        ([{"weight": 2}], r"data\.sources\[0\]: must be an object with a path"),
        ([{"path": "a"}, {"path": "b", "wieght": 2}], r"data\.sources\[1\]\.wieght: no such key"),
        ([{"path": "a", "weight": 0}], r"data\.sources\[0\]\.weight=0: must be above 0"),
        ([{"path": "a", "weight": "x"}], r"data\.sources\[0\]\.weight=x: must be a number"),
        ([{"path": "a", "max_rows": 0}], r"data\.sources\[0\]\.max_rows=0: must be at least 1"),
    ],
)
def test_a_mistake_in_a_source_is_named_by_its_key(data_config, entries, says):
    with pytest.raises(UserError, match=says):
        data_config(source="file", sources=entries)


def test_sources_and_a_path_are_one_too_many(data_config):
    with pytest.raises(UserError, match=r"data\.path and data\.sources"):
        data_config(source="file", path="a", sources=[{"path": "b"}])


# The embedded corpus


def test_the_embedded_corpus_says_each_rows_split_and_family(data_config):
    """So fractions do not apply to it."""
    source = open_source(data_config(validation_fraction=0.4, test_fraction=0.4))
    pairs = list(source.conversations(RowReport()))
    assert {split for split, _ in pairs} == set(SPLITS)
    assert all(conversation.family for _, conversation in pairs)
    assert pairs == list(open_source(data_config()).conversations(RowReport()))


# The hub


@pytest.fixture
def hub(monkeypatch):
    """Hold a hub dataset of these splits in memory: {split: {column: values}}."""
    import datasets

    def hold(splits):
        held = datasets.DatasetDict(
            {split: datasets.Dataset.from_dict(columns) for split, columns in splits.items()}
        )

        def load_dataset(path, split, name=None):
            assert path == "owner/name"
            if name not in (None, "small"):
                raise ValueError(f"BuilderConfig '{name}' not found. Available: ['small', 'large']")
            if split not in held:
                raise ValueError(f'Unknown split "{split}". Should be one of {list(held)}.')
            return held[split]

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return {"source": "hub", "path": "owner/name", "train_split": "train"}

    return hold


def test_hub_rows_become_conversations(data_config, hub):
    """More rows than one batch of reading, none lost or doubled; None is an empty response."""
    count = 2500
    named = hub(
        {
            "train": {
                "id": list(range(count)),
                "prompt": [f"question {i}" for i in range(count)],
                "response": [None if i == 7 else f"answer {i}" for i in range(count)],
            },
            "eval": {"prompt": ["v"], "response": ["A"]},
        }
    )
    config = data_config(**named, validation_split="eval", validation_fraction=0.3)
    prompts, report = read(open_source(config))
    assert prompts["train"] == [f"question {i}" for i in range(count) if i != 7]
    assert prompts["validation"] == ["v"]
    assert report.first_dropped == {
        "empty_response": 'owner/name[train], row 8: after "question 7"'
    }


def test_hub_messages_become_turns(data_config, hub):
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    source = open_source(data_config(**hub({"train": {"messages": [messages, messages]}})))
    turns = [conversation.turns for _, conversation in source.conversations(RowReport())]
    assert turns == [(("Q", "A"),)] * 2


def test_a_split_that_the_hub_dataset_has_not_is_named(data_config, hub):
    named = hub({"train": {"prompt": ["Q"], "response": ["A"]}})
    with pytest.raises(UserError, match=r"data\.test_split=test of owner/name: Unknown split"):
        open_source(data_config(**named, test_split="test"))


def test_a_configuration_of_a_hub_dataset_is_named(data_config, hub):
    named = hub({"train": {"prompt": ["Q"], "response": ["A"]}})
    prompts, _ = read(open_source(data_config(**named, name="small")))
    assert prompts["train"] == ["Q"]
    with pytest.raises(UserError, match=r"data\.name \(.*Available: \['small', 'large'\]"):
        open_source(data_config(**named, name="tiny"))


def test_a_hub_dataset_is_a_source_among_files(data_config, hub, write_rows):
    hub({"train_sft": {"prompt": ["Q1", "Q2"], "response": ["A", "A"]}})
    hub_entry = {"path": "owner/name", "name": "small", "split": "train_sft", "max_rows": 1}
    prompts, _ = read(mixed(data_config, [{"path": write_rows(numbered(1))}, hub_entry]))
    assert prompts["train"] == ["question 0", "Q1"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            "DatasetNotFoundError:Dataset 'o/n' is a gated dataset on the Hub. You must be "
            "authenticated to access it.",
            [r"hf auth login", r"https://huggingface\.co/datasets/owner/name", r"gated dataset"],
        ),
        (
            "ValueError:Config name is missing.\nPlease pick one among the available configs: "
            "['en', 'de']\nExample of usage:\n\t`load_dataset('o/n', 'en')`",
            [r"data\.name", r"\['en', 'de'\]"],
        ),
        (
            "DatasetGenerationError:An error occurred while generating the dataset\n\nAll the data "
            "files must have the same columns, but at some point there are 1 new columns ({'x'})",
            [r"different columns", r"new columns \(\{'x'\}\)", r"data=file"],
        ),
        ("ValueError:Unknown split \"a\". Should be one of ['b'].", [r"train_split", r"\['b'\]"]),
        ("DatasetNotFoundError:Dataset 'o/n' doesn't exist on the Hub", [r"doesn't exist"]),
    ],
)
def test_what_the_hub_says_reaches_the_person_whole(data_config, monkeypatch, error, says):
    _, _, text = error.partition(":")
    monkeypatch.setattr("src.data.hub_rows.download_rows", lambda path, name: text)
    with pytest.raises(UserError) as caught:
        open_source(data_config(source="hub", path="owner/name"))
    for pattern in says:
        assert re.search(pattern, str(caught.value))


def test_a_hub_that_never_answers_does_not_hang_a_run(data_config, tmp_path):
    """In a process of its own that has never heard of HF_HUB_OFFLINE."""
    code = f"""
import sys
import src.download
from src.data.sources import open_source
from src.data.config import DataConfig
from src.errors import UserError
src.download.SECONDS = 2
try:
    open_source({data_config(source="hub", path="owner/name")!r})
except UserError as error:
    sys.exit(str(error))
"""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env={"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "no_proxy": "*"},
            capture_output=True,
            text=True,
            timeout=300,  # two processes that import all libraries
        )
    assert result.returncode == 1
    assert "data.path=owner/name is not in the local cache" in result.stderr
    assert f"{endpoint} cannot be reached (nothing came for 2 seconds)" in result.stderr
    assert "data=file" in result.stderr
    assert "data=sample" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_switched_off_the_hub_is_refused_with_what_to_do(data_config):
    import datasets  # noqa: F401  # before the time counts: it takes seconds

    config = data_config(source="hub", path="nobody/no-such-dataset")
    started = time.monotonic()
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set: use a file with data=file"):
        open_source(config)
    assert time.monotonic() - started < 20


def test_a_path_is_no_hub_name(data_config):
    for path in ("./rows.jsonl", "/rows.jsonl", "~/rows.jsonl", "a/b/rows.jsonl"):
        with pytest.raises(UserError, match="is no hub name; for a file say data=file"):
            open_source(data_config(source="hub", path=path))


# Asking the hub for a sign of life


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections, and that nobody else gets meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def ask(monkeypatch):
    """Probe a hub at this port of this machine; return what is wrong."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("no_proxy", "*")

    def probe(port: int) -> str | None:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        return probe_hub()

    return probe


def answering(answer: bytes) -> socket.socket:
    """A server that gives one connection this answer, whatever it asks."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return server


def test_a_silent_hub_is_given_up_in_time(ask, monkeypatch):
    monkeypatch.setattr(src.download, "PROBE_SECONDS", 0.5)
    started = time.monotonic()
    with closing(socket.create_server(("127.0.0.1", 0))) as server:  # accepts, never answers
        problem = ask(server.getsockname()[1])
    assert "cannot be reached (timed out)" in problem
    assert time.monotonic() - started > 0.4


def test_a_refused_connection_is_said(ask):
    with closed_port() as port:
        problem = ask(port)
    assert "cannot be reached" in problem
    assert "refused" in problem


@pytest.mark.parametrize("status", [b"200 OK", b"401 Unauthorized", b"404 Not Found", b"500 Oops"])
def test_a_hub_that_answers_is_alive_whatever_it_says(ask, status):
    with closing(answering(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status)) as server:
        assert ask(server.getsockname()[1]) is None


def test_an_answer_that_is_no_http_is_said(ask):
    with closing(answering(b"SSH-2.0-OpenSSH_9.6\r\n")) as server:
        assert "cannot be reached" in ask(server.getsockname()[1])


def test_an_endpoint_that_is_no_address_is_said(ask, monkeypatch):
    for endpoint in ("hub", "http://127.0.0.1:port"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert f"{endpoint} cannot be reached" in probe_hub()


def test_a_switched_off_hub_is_not_asked(ask, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("it is asked"))
    with closed_port() as port:
        assert ask(port) == "HF_HUB_OFFLINE is set"


def test_what_a_file_holds_beside_its_rows_is_in_the_report(data_config, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"train": [row("q")], "extra": [row("r")]}), encoding="utf-8")
    report = RowReport()
    list(open_source(data_config(source="file", path=str(path))).conversations(report))
    assert report.unused == {"key extra": 1}
    assert report.first_unused["key extra"] == f"{path}[train]"


@pytest.mark.parametrize("columns", [["a"], {"prompt": None}, {"prompt": ""}, {"prompt": {}}])
def test_columns_that_are_no_names_are_refused(data_config, columns):
    with pytest.raises(UserError, match=r"^data\.columns(\.prompt=.*)?: must be "):
        data_config(source="file", path="rows.jsonl", columns=columns)


def test_a_file_that_is_both_train_and_validation_is_refused(data_config, write_rows):
    path = write_rows([row("q")])
    with pytest.raises(UserError, match="none are left to train"):
        open_source(data_config(source="file", path=path, validation_split=path))


def test_a_configuration_that_only_the_cache_has_chosen_is_said(data_config, hub, caplog):
    named = hub({"train": {"prompt": ["Q"], "response": ["A"]}})
    import datasets

    rows = datasets.load_dataset("owner/name", split="train")
    rows.info.config_name = "small"
    open_source(data_config(**named, name="small"))
    assert not caplog.messages
    open_source(data_config(**named))
    assert caplog.messages == [
        "warning: data.name is not set: owner/name has the configuration small in the cache"
    ]
