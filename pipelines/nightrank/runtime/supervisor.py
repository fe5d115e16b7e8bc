"""Signals of a program: a clean stop, and a run on Ray in a child process that it outlives.

Ray ends a driver whose node or head is lost by `_Exit(1)` out of C++ (`connection.cc` of Ray 2.60:
"The connection to the plasma store is failed. Terminate the process."), so no handler runs and the
user sees exit code 1 without a message. The kernel's out-of-memory killer leaves no message either.
The parent process remains and reports both.

A process that does not call `begin`, such as a notebook, keeps its own signal handlers.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from nightrank.errors import NightrankError

RAY_EXIT_CODE = 1  # No exit code of this program is 1.
PR_SET_PDEATHSIG = 1
# The signals that stop a run, and what the parent sends to the child for each: at its start Ray
# replaces the handler of SIGTERM, and Ray Train that of SIGINT by one that calls `sys.exit(0)`.
FORWARDED_AS = {signal.SIGINT: signal.SIGUSR1, signal.SIGTERM: signal.SIGUSR2}
SIGNALS = (*FORWARDED_AS, *FORWARDED_AS.values())
# typer's exit code after a KeyboardInterrupt, which it catches itself.
TYPER_INTERRUPTED = 130
REDELIVERY_SECONDS = 0.05


class Stopped(KeyboardInterrupt):
    """A signal stopped the run.

    A KeyboardInterrupt, since only that interrupts Ray's own waits: another BaseException became a
    SystemError in 8 of 23 runs that were stopped while Ray was up. Ray and typer replace it by an
    exception of their own, so the last one is kept (`last_stop`).

    Attributes:
        signum: the signal that came.
        exit_code: 128 and the number of the signal that the user or the system sent.
        what: what happened, for the line on standard error.
    """

    def __init__(self, signum: int, what: str = "stopped") -> None:
        sent = {forwarded: number for number, forwarded in FORWARDED_AS.items()}
        self.signum = signum
        self.exit_code = 128 + sent.get(signal.Signals(signum), signum)
        self.what = what


_programs: list[int] = []
_stops: list[Stopped] = []


def begin() -> None:
    """Makes this process a program: `supervise` may fork it, and no stop is lost."""
    _programs.append(os.getpid())
    sys.unraisablehook = redeliver_signal


def handle_signals() -> None:
    """Makes every signal of `SIGNALS` raise `Stopped`; does nothing outside the main thread."""
    _stops.clear()
    with contextlib.suppress(ValueError):
        for number in SIGNALS:
            signal.signal(number, _stop)


def last_stop() -> Stopped | None:
    """The last signal since `handle_signals`; None if none came."""
    return _stops[-1] if _stops else None


def stop_behind(error: BaseException) -> BaseException:
    """The `Stopped` that a library replaced by its own KeyboardInterrupt; else the error itself."""
    return last_stop() or error if isinstance(error, KeyboardInterrupt) else error


def redeliver_signal(unraisable: sys.UnraisableHookArgs) -> None:
    """Sends the signal again where Python prints and drops the exception of its handler.

    It does so in finalizers and in hooks of `os.register_at_fork`. Ray forks some ten processes at
    its start, each of which runs these hooks.
    """
    if isinstance(unraisable.exc_value, Stopped):
        number = unraisable.exc_value.signum
        timer = threading.Timer(REDELIVERY_SECONDS, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(unraisable)


def supervise(cluster: str) -> None:
    """Continues in a child; the parent waits, forwards signals and ends as the child ends.

    Call it before any thread is started. It does nothing where the process is not a program
    (`begin`), and on systems other than Linux, where a child cannot be made to end with its parent.

    Args:
        cluster: the cluster's address or a description of it, for the error.

    Raises:
        SystemExit: in the parent, with the child's exit code.
        Stopped: in the parent, if a signal killed the child.
        NightrankError: in the parent, E_CLUSTER if Ray ended the child, E_OOM if the child was
            killed by SIGKILL.
    """
    if os.getpid() not in _programs or sys.platform != "linux":
        return
    _programs.clear()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()
    # Signals wait until the fork is done: an exception that a handler raises inside a hook of
    # `os.register_at_fork` (logging has three) is printed and dropped.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if not child:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
        # A terminal sends Ctrl-C to a process group: the child gets it once, from the parent.
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return

    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):  # The child has ended; its code is known.
            os.kill(child, FORWARDED_AS[signal.Signals(number)])

    for number in FORWARDED_AS:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _, status = os.waitpid(child, 0)
    _end_as(os.waitstatus_to_exitcode(status), cluster)


def leave(exit_code: int) -> NoReturn:
    """Ends the process.

    After a signal, C++ destructors are skipped: the signal can come between a thread's start and
    its join, and the destructor of such a thread aborts (3 of 60 runs ended with 134 instead of
    143).
    """
    if exit_code > 128:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def _stop(signum: int, frame: FrameType | None) -> None:
    _stops.append(Stopped(signum))
    raise _stops[-1]


def _end_as(exit_code: int, cluster: str) -> NoReturn:
    """Raises what the end of the child means; a negative code is minus the signal."""
    if exit_code == RAY_EXIT_CODE:
        what = "Ray ended this run's process: its node, or the cluster's head, was lost"
        do = "start the cluster again if it has ended; the same command resumes"
        raise NightrankError("E_CLUSTER", what, cluster, do)
    if exit_code == -signal.SIGKILL:
        what = "this run's process was killed, probably because memory ran out"
        do = "give its machine more memory or the run fewer workers; the same command resumes"
        raise NightrankError("E_OOM", what, cluster, do)
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        _stops.append(Stopped(-exit_code, f"this run's process was killed by {name}"))
        raise _stops[-1]
    raise SystemExit(exit_code)
