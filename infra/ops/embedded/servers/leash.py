"""Runs a command that dies with its parent: `python leash.py PARENT_PID COMMAND...`.

On Linux the kernel kills the command when its parent ends (`prctl(2)`, PR_SET_PDEATHSIG), however the parent ended. This
program sets that and becomes the command, so that no Python code runs between fork and exec in a process that may have
threads. The kernel watches the parent *thread*: start children from a thread that lives as long as they should. On other
systems only an orderly stop of the parent ends the command.

This file runs with `python -I -S`: it imports the standard library only.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Replace this process by the command, killed with its parent on Linux."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the signal was set
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted; the command comes from our own code


if __name__ == "__main__":
    main(sys.argv[1:])
