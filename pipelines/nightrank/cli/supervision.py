"""A run on Ray is a child of the process that the user started, which outlives it and says how.

Ray ends a driver whose node or head is lost by `_Exit(1)` out of C++ (`connection.cc` of Ray 2.60:
"The connection to the plasma store is failed. Terminate the process."). No handler runs: what was
left was exit code 1 without a word. The kernel's killer for want of memory leaves as little.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from types import FrameType

from nightrank.cli import closing
from nightrank.errors import NightrankError

RAYS_END = 1  # No ending of this program's own has this code.
PR_SET_PDEATHSIG = 1
# What stops a run, and as what it is handed on: as they start, Ray puts a handler of its own for
# SIGTERM in place of this program's, and Ray Train one for SIGINT, which calls `sys.exit(0)`.
HANDED_ON = {signal.SIGINT: signal.SIGUSR1, signal.SIGTERM: signal.SIGUSR2}
SIGNALS = (*HANDED_ON, *HANDED_ON.values())
_program: list[int] = []


def allow() -> None:
    """Says that this process is a program that a user started, so that `supervise` may fork it."""
    _program.append(os.getpid())


def supervise(where: str) -> None:
    """Goes on in a child; the parent waits, hands signals on and ends as the child ends.

    To be called before anything starts a thread. Does nothing where the process is not a program of
    its own (`allow`), and on systems other than Linux, where a child cannot be made to die with its
    parent.

    Args:
        where: the cluster, for the error.

    Raises:
        SystemExit: in the parent, with the child's exit code.
        NightrankError: in the parent, E_CLUSTER where Ray ended the child, E_OOM where it was
            killed.
    """
    if os.getpid() not in _program or sys.platform != "linux":
        return
    _program.clear()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()
    # A signal that comes as it forks waits: an exception out of a handler that runs in a hook of
    # `os.register_at_fork` (logging has three) is printed and forgotten, and the signal with it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if not child:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
        # A terminal's Ctrl-C reaches a group: it is to come once, handed on by the parent.
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return

    def hand_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):  # It has ended: its code is told anyway.
            os.kill(child, HANDED_ON[signal.Signals(number)])

    for number in HANDED_ON:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == RAYS_END:
        what = "Ray ended this run's process: its node, or the cluster's head, was lost"
        do = "the same command resumes once the cluster is there again"
        raise NightrankError("E_CLUSTER", what, where, do)
    if code == -signal.SIGKILL:
        what = "this run's process was killed, most likely for want of memory"
        do = "give its machine more, or fewer workers; the same command resumes"
        raise NightrankError("E_OOM", what, where, do)
    if code < 0:
        what = f"this run's process was killed by {signal.Signals(-code).name}"
        print(f"nightrank: {what}; the same command resumes", file=sys.stderr)
        closing.stopped(128 - code, what, "the same command resumes")
    raise SystemExit(code if code >= 0 else 128 - code)
