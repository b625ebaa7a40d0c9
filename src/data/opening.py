"""From the values of ``conf/data`` to rows and what encodes them."""

from src.data.config import DataConfig
from src.data.conversation import RowReader
from src.data.report import RowReport
from src.data.source import Reader, Source
from src.data.sources import open_source
from src.data.template import PROMPT_HEADER, RESPONSE_HEADER
from src.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer


def open_data(
    config: DataConfig, tokenizer_name: str | None, vocab_size: int, reader: Reader = RowReader
) -> tuple[Source, Tokenizer]:
    """Open the source and load its tokenizer; without a name, train one on the training rows.

    ``reader`` says what the rows are read as.

    Raises:
        UserError: one of them cannot be opened.
    """
    source = open_source(config)
    if reader is not RowReader:
        source = source.read_by(reader)
    if tokenizer_name is not None:
        return source, load_tokenizer(tokenizer_name)
    texts = (
        f"{PROMPT_HEADER}{prompt}\n{RESPONSE_HEADER} {response}"
        for split, row in source.read(RowReport())
        if split == "train"
        for conversation in row.documents()
        for prompt, response in conversation.turns
    )
    return source, train_tokenizer(texts, vocab_size)
