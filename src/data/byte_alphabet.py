"""GPT-2's alphabet: a visible character for each byte."""


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of GPT-2's vocabulary, all of which are visible."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    codes = [*printable, *range(256, 256 + len(others))]
    return {chr(code): byte for code, byte in zip(codes, printable + others, strict=True)}


BYTES = _byte_alphabet()
