"""What ended a task, out of the groups that task groups make of it."""

from cluster.protocol.errors import ClusterError, Unavailable


def cluster_error(failure: BaseException | None) -> ClusterError:
    """Return the error to tell whoever waited for the manager."""
    error = _first(failure) if failure is not None else None
    if isinstance(error, ClusterError):
        return error
    return Unavailable("the manager did not start; see its log")


def described(failure: BaseException) -> str:
    """Return a text for the log: other errors' texts could quote anything, so only their type."""
    error = _first(failure)
    name = type(error).__name__
    return f"{name}: {error.message}" if isinstance(error, ClusterError) else name


def _first(failure: BaseException) -> BaseException:
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
