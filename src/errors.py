"""The one exception for a person's mistake."""


class UserError(ValueError):
    """A person's input cannot be used.

    The message is one line: what is wrong, where (file, row, key), and what to do. The doors print
    it on standard error and exit with code 2; every other exception is ours and keeps its
    traceback.
    """
