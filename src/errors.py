"""The one exception for a person's mistake, and what errors of libraries say."""


class UserError(ValueError):
    """A person's input cannot be used.

    The message is one line: what is wrong, where (file, row, key), and what to do. The doors print
    it on standard error and exit with code 2; every other exception is ours and keeps its
    traceback.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def whole_message(error: BaseException) -> str:
    """Return all that an error and its causes say, each once, on one line."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split()) or type(cause).__name__
        if not any(text in other for other in said):
            said.append(text)
        cause = cause.__cause__
    return "; ".join(said)
