"""Read the limit of the process's address space (ulimit -v)."""

import contextlib


def address_space_limit() -> float:
    """Return the limit of address space in MB, or infinity."""
    with contextlib.suppress(ImportError):  # Windows has no such limits
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            return limit / (1 << 20)
    return float("inf")
