"""Exit codes of all commands, which tell a scheduler what to do next.

    0     done
    1     a failure of the program or of what it computed: a bug, a loss that is not finite. Trying again gives the same.
    2     a mistake in the arguments or in the data that they name
    74    the infrastructure failed: storage, a full disk, the network, another rank. The same command goes on where it was.
    75    a signal asked the run to stop, and it has saved: the same command goes on

74 and 75 are EX_IOERR and EX_TEMPFAIL of sysexits.h. What a signal kills, ends with 128 + its number in a shell.
"""

from __future__ import annotations

import os

from common.errors import InfrastructureError, is_caused_by_user, is_transient

FAILED = 1
USER_ERROR = 2
INFRASTRUCTURE = os.EX_IOERR
STOPPED = os.EX_TEMPFAIL
ASKED_TO_STOP = "asked to stop: what is finished stays; start the same command again to resume"


def exit_code(error: Exception) -> int | None:
    """The exit code of a command that ends with `error`; None for a bug of ours, which is to show its traceback."""
    if isinstance(error, InfrastructureError) or is_transient(error):
        return INFRASTRUCTURE
    if isinstance(error, OSError) and error.errno is not None and not is_caused_by_user(error):
        return INFRASTRUCTURE  # a full disk, too many open files, a lost mount
    if isinstance(error, ValueError | OSError):  # OSErrors without a number are about damaged files
        return USER_ERROR
    return FAILED if isinstance(error, FloatingPointError) else None
