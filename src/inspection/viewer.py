"""The figures of the data and its packed blocks, on a terminal or as plain text."""

import math
import re
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.data.blocks import Blocks
from src.data.comparison_targets import Comparisons
from src.data.datamodule import ChatDataModule
from src.data.order import shuffled
from src.data.report import RowReport
from src.data.sources import SPLITS
from src.inspection.inspection import (
    END,
    BlockView,
    LengthBin,
    Piece,
    length_histogram,
    length_table,
    view_block,
)

# Two shades of each in turn, so that every token differs from the next.
READ = ("grey78 on grey15", "grey78 on grey23")
TAUGHT = ("bold grey100 on color(24)", "bold grey100 on color(25)")
PROMPT = ("grey93 on color(58)", "grey93 on color(94)")  # scored at a weight
SIGNS = "not bold grey66"
END_SIGN = "gold1"
QUIET = "grey50"
EIGHTHS = "▏▎▍▌▋▊▉█"


class Output(Console):
    """A console that prints text as it is and raises BrokenPipeError to its caller."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)

    @property
    def coloured(self) -> bool:
        """Whether colours are visible."""
        return self.color_system is not None and not self.no_color

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 - rich calls this while it handles the BrokenPipeError

    def heading(self, text: str) -> None:
        """Print a heading after an empty line."""
        self.print()
        self.print(Text(text, style="bold"))


def show(data: ChatDataModule, num_blocks: int) -> None:
    """Print the figures of ``data``, which is set up, and its first blocks in training's order."""
    output, train = Output(), data.splits["train"]
    output.heading(f"Rows of {', '.join(part.name for part in data.source.parts)}")
    output.print(rows_table(data.report))
    output.heading(
        f"Blocks of {train.block_size:,} positions; a vocabulary of {data.tokenizer.vocab_size:,}"
    )
    output.print(splits_table(data))
    output.heading("Lengths of the train examples in tokens, before any is cut")
    lengths = train.corpus.lengths
    bins = length_histogram(lengths)
    grid = Table.grid(padding=(0, 4))
    grid.add_row(describe_table(length_table(lengths)), histogram_table(bins, output.width - 44))
    output.print(grid)

    first_blocks = shuffled(len(train), data.seed, epoch=0)[:num_blocks].tolist()
    if not first_blocks:
        return
    output.heading(f"The first blocks that a training with seed={data.seed} sees")
    output.print(legend(output.coloured, train.targets.prompt_weight))
    if how := unusual(train):
        output.print(f"  {how}")
    for block in first_blocks:
        output.print()
        for line in block_lines(view_block(train, block, data.tokenizer), block, output):
            output.print(line)


def rows_table(report: RowReport) -> Table:
    """Return a line for each split, each reason that dropped rows, and each thing not used."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_row("  read", f"{report.read:,}")
    for split in SPLITS:
        table.add_row(f"  used for {split}", f"{report.used[split]:,}")
    for reason, count in report.dropped.most_common():
        first_place = report.first_dropped.get(reason)
        table.add_row(
            f"  dropped: {reason}",
            f"{count:,}",
            Text(f"first: {first_place}" if first_place else "", style=QUIET),
        )
    for name, count in report.unused.most_common():
        first = Text(f"first: {report.first_unused[name]}", style=QUIET)
        table.add_row(Text(f"  not used: {name}"), f"{count:,}", first)
    return table


def splits_table(data: ChatDataModule) -> Table:
    """Return a table with a column for each split."""
    splits = [data.splits[split] for split in SPLITS]
    weight = splits[0].targets.prompt_weight
    shared = ["", *(f"{data.shared_prompts(split):,}" for split in SPLITS[1:])]
    nearly = ["", *(f"{data.shared_prompts(split, nearly=True):,}" for split in SPLITS[1:])]
    table = Table(box=None, padding=(0, 2), header_style="")
    table.add_column("")
    for split in SPLITS:
        table.add_column(split, justify="right")
    for name, values in (
        ("examples", [f"{b.num_examples:,}" for b in splits]),
        ("cut to fit a block", [f"{b.num_cut:,}" for b in splits]),
        ("dropped: no room for response", [f"{b.num_without_room:,}" for b in splits]),
        ("with a prompt that train has too", shared),
        ("... but for case, spaces and signs", nearly),
        ("tokens", [f"{b.num_tokens:,}" for b in splits]),
        ("blocks", [f"{len(b):,}" for b in splits]),
        ("positions that hold a token", [f"{b.utilisation:.2%}" for b in splits]),
        _due(splits),
        *(
            [
                (
                    f"tokens of prompts at weight {weight:g}",
                    [
                        f"{_ratio(splits[0].num_prompt_targets, splits[0].num_tokens):.1%}",
                        *["not scored"] * 2,
                    ],
                )
            ]
            if weight
            else []
        ),
        ("documents a block", [f"{_ratio(b.num_examples, len(b)):.1f}" for b in splits]),
    ):
        table.add_row(name, *values)
    return table


def _due(splits: list[Blocks]) -> tuple[str, list[str]]:
    if isinstance(splits[0].targets, Comparisons):
        return "prompts whose replies are compared", [f"{b.num_targets:,}" for b in splits]
    return "tokens that are taught", [f"{_ratio(b.num_targets, b.num_tokens):.1%}" for b in splits]


def _ratio(part: int, total: int) -> float:
    return part / max(total, 1)


def describe_table(table: dict[str, float]) -> Table:
    """Return the length table as names and numbers."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="left")
    grid.add_column(justify="right")
    for name, value in table.items():
        decimals = 0 if name in ("count", "min", "max") else 1
        text = "-" if math.isnan(value) else f"{value:,.{decimals}f}"
        grid.add_row(f"  {name}", text)
    return grid


def histogram_table(bins: list[LengthBin], width: int) -> Table:
    """Return a bar and a count for each bin; the longest bar has ``width`` cells, within limits."""
    width = min(max(width, 8), 60)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right")
    grid.add_column(justify="right")
    grid.add_column(no_wrap=True)
    most = max(bin.count for bin in bins)
    for bin in bins:
        grid.add_row(
            str(bin), f"{bin.count:,}", Text(bar(bin.count / most * width), style="color(25)")
        )
    return grid


def bar(cells: float) -> str:
    """Return a bar of ``cells``, in eighths of a cell, rounded up."""
    full, rest = divmod(math.ceil(cells * 8), 8)
    return EIGHTHS[-1] * full + (EIGHTHS[rest - 1] if rest else "")


def unusual(train: Blocks) -> str:
    """Return how the documents of a block are read otherwise than by default."""
    found = [
        *(["attends to all before it (isolate_documents=false)"] * (not train.isolate_documents)),
        *(["goes on with their positions (reset_positions=false)"] * (not train.reset_positions)),
    ]
    return f"each document of a block {' and '.join(found)}" if found else ""


def legend(coloured: bool, prompt_weight: float = 0.0) -> Text:
    """Return one line that explains a block."""
    signs = f"   {END} end of text   · space   ↵ newline"
    at_weight = f"prompt at weight {prompt_weight:g}" if prompt_weight else ""
    if not coloured:
        return Text(f"  only read ⟦taught⟧{f' ⟨{at_weight}⟩' * bool(at_weight)}{signs}")
    read = [(" only", READ[0]), (" read ", READ[1])]
    taught = [(" ta", TAUGHT[0]), ("ught ", TAUGHT[1])]
    prompt: list[str | tuple[str, str]] = []
    if at_weight:
        prompt = [" ", (f" {at_weight} ", PROMPT[0])]
    text = Text.assemble("  ", *read, " ", *taught, *prompt, ("   a shade a token" + signs, QUIET))
    text.highlight_regex(END, f"{END_SIGN} on color(24)")  # seen on a light screen, too
    return text


def block_lines(view: BlockView, number: int, output: Output) -> list[Text]:
    """Return a block as lines: a heading, each document with its number, the count of padding."""
    num_documents = len(view.documents)
    heading = (
        f"block {number:,}: {num_documents} document{'s' * (num_documents != 1)}, "
        f"{view.num_tokens:,} tokens, {view.num_taught:,} taught"
        + (f", {view.num_prompt:,} of prompts" if view.num_prompt else "")
    )
    lines = [Text(f"  {heading}", style="bold")]
    for index, document in enumerate(view.documents, start=1):
        text = document_text(document, output.coloured)
        if view.ranks:
            group, rank = view.ranks[index - 1]
            if index == 1 or group != view.ranks[index - 2][0]:
                lines.append(Text(f"      │ prompt {group + 1}, its replies by rank", style=QUIET))
        gutter = [f"{rank:>4}. │ " if view.ranks else f"{index:>5} │ ", "      │ "]
        offsets = line_ends(text.plain, max(output.width - len(gutter[0]), 20))
        for part in text.divide(offsets):
            lines.append(Text.assemble((gutter[0], QUIET), part))
            gutter = gutter[1:] * 2
    if view.num_padding:
        lines.append(Text(f"      │ · {view.num_padding:,} padding", style=QUIET))
    return lines


def document_text(document: list[Piece], coloured: bool) -> Text:
    """Return a document on one line: pieces that are scored in colour, or in brackets."""
    text = Text()
    if coloured:
        for index, piece in enumerate(document):
            style = TAUGHT if piece.taught else PROMPT if piece.is_prompt else READ
            text.append(piece.text, style=style[index % 2])
        text.highlight_regex("[·↵⇥]+", SIGNS)
        text.highlight_regex(END, END_SIGN)
        return text
    for (taught, is_prompt), group in groupby(document, key=lambda p: (p.taught, p.is_prompt)):
        run = "".join(piece.text for piece in group)
        text.append(f"⟦{run}⟧" if taught else f"⟨{run}⟩" if is_prompt else run)
    return text


def line_ends(text: str, width: int) -> list[int]:
    """Return the offsets at which visible ``text`` is broken into lines of at most ``width`` cells.

    Lines end after newlines, else before a space, else (in a word longer than a line) anywhere.
    """
    ends: list[int] = []
    column = 0
    for word in re.finditer(r"⟦?·*[^·↵⟦]*↵*", text):
        if column and column + cell_len(word[0]) > width:
            ends.append(word.start())
            column = 0
        for offset, character in enumerate(word[0], start=word.start()):
            if column + cell_len(character) > width:
                ends.append(offset)
                column = 0
            column += cell_len(character)
        if word[0].endswith("↵") and word.end() < len(text):
            ends.append(word.end())
            column = 0
    return ends
