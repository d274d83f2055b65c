"""What starting used and serving does not need goes back to the system."""

import ctypes


def trim() -> bool:
    """Have the C library return what is free: glibc keeps it otherwise. False where there is no such function."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):  # another C library; another system
        return False
