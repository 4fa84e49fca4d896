"""Results on standard output, and what becomes of them where it takes none.

For the verbs that print but `get`, which writes bytes and loads no more than it must. The codes are
those of the command `strongroom`.
"""

import sys

from agent.cli.exit_codes import FAILED, OK, fail


def tell(text: str) -> int:
    """Print `text`, at once; return 0, or 1 where it is not printed, or not whole, and say so.

    Of a reader that went away (`| head`) nothing is said: nobody is left to tell.
    """
    if sys.stdout is None:
        return fail("standard output is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is not written would be tried again at the end, and take the place of the code.
        sys.stdout = None
        return FAILED
    except OSError as error:
        sys.stdout = None
        return fail(f"standard output: {error.strerror}")
    return OK
