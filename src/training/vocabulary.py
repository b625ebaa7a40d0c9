"""Whether a tokenizer is that of the pretrained weights: ids mean nothing to other weights."""

import logging

from src.data.template import PROMPT_HEADER, RESPONSE_HEADER
from src.data.tokenizer import Tokenizer, load_tokenizer
from src.errors import UserError
from src.model.config import GPT2_NAMES

log = logging.getLogger(__name__)


def check_vocabulary(pretrained: str, name: str, tokenizer: Tokenizer) -> None:
    """Check ``tokenizer``, called ``name``, against that of the ``pretrained`` weights.

    Logs a warning where both have one vocabulary but are not the same, and where the weights come
    without a tokenizer.

    Raises:
        UserError: a token has another id there.
    """
    if pretrained == name or {pretrained, name} <= GPT2_NAMES:
        return
    try:
        theirs = load_tokenizer(pretrained, key="model.pretrained")
    except UserError as error:
        log.warning(
            "warning: whether model.tokenizer=%s is that of the weights cannot be checked: %s",
            name,
            error,
        )
        return
    expected = theirs.backend.get_vocab(with_added_tokens=True)
    found = tokenizer.backend.get_vocab(with_added_tokens=True)
    wrong = [token for token, index in expected.items() if found.get(token) != index]
    if wrong:
        token = min(wrong, key=expected.__getitem__)
        here = f"is {found[token]}" if token in found else "does not exist"
        raise UserError(
            f"model.tokenizer={name} is not the tokenizer of model.pretrained={pretrained}: "
            f"{len(wrong)} of {len(expected)} tokens differ; {token!r} is {expected[token]} there "
            f"and {here} here: set model.tokenizer={pretrained}"
        )
    if tokenizer.fingerprint() != theirs.fingerprint() or tokenizer.end_id != theirs.end_id:
        log.warning(
            "warning: model.tokenizer=%s is not the tokenizer of model.pretrained=%s, but has its "
            "vocabulary: make sure that it is meant",
            name,
            pretrained,
        )


def check_pieces(name: str, tokenizer: Tokenizer) -> None:
    """Check that a text has the same ids in pieces as it has whole.

    We teach pieces, and other programs encode the rendered template as a whole.

    Raises:
        UserError: the tokenizer treats the beginning of a piece in its own way.
    """
    if tokenizer.is_byte_level:
        return
    pieces = [f"{PROMPT_HEADER}a\n{RESPONSE_HEADER}", " b", tokenizer.end_token, PROMPT_HEADER]
    ids = [
        index
        for piece in pieces
        for index in (
            [tokenizer.end_id] if piece == tokenizer.end_token else tokenizer.encode(piece)
        )
    ]
    if ids != tokenizer.encode_special("".join(pieces)):
        raise UserError(
            f"model.tokenizer={name} gives a text other ids in pieces than as a whole, so prompts "
            f"and responses cannot be told apart in training: take another tokenizer"
        )
