"""What is shown fits the terminal, with colours and without, and nothing is lost."""

from rich.cells import cell_len

from src.inspection.inspection import END, Piece
from src.inspection.viewer import PROMPT, READ, TAUGHT, document_text, legend, line_ends


def test_lines_fit_and_lose_nothing():
    text = f"###·Prompt:·a[b]·{'w' * 25}·日本語日本語日本語↵↵next⟦··two{END}⟧"
    for width in (2, 7, 12, 40):
        ends = line_ends(text, width)
        lines = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
        assert "".join(lines) == text
        assert max(cell_len(line) for line in lines) <= width
        assert all(lines)
    assert any(line.endswith("↵↵") for line in lines)


def test_colours_replace_the_brackets():
    document = [Piece("[b]", False), Piece("·yes", True), Piece(END, True)]
    assert document_text(document, coloured=True).plain == f"[b]·yes{END}"
    assert document_text(document, coloured=False).plain == f"[b]⟦·yes{END}⟧"


def test_prompts_that_are_scored_have_brackets_and_a_colour_of_their_own():
    document = [Piece("a", False, is_prompt=True), Piece("b", False), Piece("c", True)]
    assert document_text(document, coloured=False).plain == "⟨a⟩b⟦c⟧"
    styles = [span.style for span in document_text(document, coloured=True).spans]
    assert styles == [PROMPT[0], READ[1], TAUGHT[0]]
    assert "⟨prompt at weight 0.1⟩" in legend(False, 0.1).plain
    assert " prompt at weight 0.1 " in legend(True, 0.1).plain
    assert "prompt" not in legend(False).plain + legend(True).plain
