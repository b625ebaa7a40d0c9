"""The one exception for a person's mistake, and the machine's own limit."""


class UserError(ValueError):
    """A person's input cannot be used.

    The message is one line: what is wrong, where (file, row, key), and what to do. The doors print
    it on standard error and exit with code 2; every other exception is ours and keeps its
    traceback.
    """


# What torch and the C++ library say of a CPU; a GPU has a class of its own.
NO_ROOM = ("DefaultCPUAllocator", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or this machine had no room, whatever class says so."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_ROOM)
