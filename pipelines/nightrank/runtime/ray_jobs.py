"""The door to the Ray Jobs API: submit a command to a cluster, follow its log, stop it.

A submission id is a stem and a number: `<stem>.1`, `<stem>.2`. The stem says what is asked for; Ray
takes an id once and for ever, so the number tells one attempt from the next, and of two submitters
who come at the same moment one finds its id taken and joins the other's job.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nightrank.errors import NightrankError

# This one comes before Ray itself: it says how Ray is to behave.
from nightrank.runtime.ray_cluster import authentication_failed, first_line, refuse_open

# isort: split
import ray.exceptions
from ray.job_submission import JobSubmissionClient

# What the client tells of its own: packages sent, sockets closed.
for _name in (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
):
    logging.getLogger(_name).setLevel(logging.WARNING)

POLL_SECONDS = 0.5
# A head that does not answer for so long is given up; its job may well go on.
PATIENCE_SECONDS = 60.0
# How long a job that was just submitted may take to be listed.
TELLS_SECONDS = 5.0
STOPPED_EXIT_CODE = 143


@dataclass(frozen=True)
class RayJob:
    """One submission as the cluster tells it.

    Attributes:
        id: the submission id.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        driver_exit_code: of the command; None while it runs, or where it never ran or was lost.
        message: Ray's words about the status.
    """

    id: str
    status: str
    driver_exit_code: int | None
    message: str

    @property
    def number(self) -> int:
        """Which attempt of its stem it is."""
        return int(self.id.rpartition(".")[2])

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def exit_code(self) -> int:
        """What the shell is told.

        Raises:
            NightrankError: E_CLUSTER where the command did not run to an end of its own.
        """
        if self.status == "STOPPED":
            return STOPPED_EXIT_CODE
        if self.status == "SUCCEEDED":
            return 0
        if self.driver_exit_code is None:
            what = f"the job never started or its node was lost: {self.message}"
            do = "look at the cluster; the same command submits it again and resumes"
            raise NightrankError("E_CLUSTER", what[:600], self.id, do)
        # A shell reports a signal as 128 + n, Python as -n.
        code = self.driver_exit_code
        return code if code >= 0 else 128 - code


class RayJobs:
    """The job server of one cluster.

    Args:
        address: http(s)://host:8265, or what `ray.init` takes (`auto`, host:6379); None asks
            RAY_API_SERVER_ADDRESS, RAY_ADDRESS, then a cluster on this machine.

    Raises:
        NightrankError: E_CLUSTER where no job server answers; E_AUTH without the right token, or
            for a cluster elsewhere without authentication.
    """

    def __init__(self, address: str | None) -> None:
        if address:
            # The client would let RAY_ADDRESS win over what it is given.
            os.environ["RAY_API_SERVER_ADDRESS"] = address
        self.address = os.environ.get("RAY_API_SERVER_ADDRESS") or "auto"
        refuse_open(self.address)
        with self._told():
            self._client = JobSubmissionClient(address)
        self.address = str(self._client.get_address())
        refuse_open(self.address)

    def newest(self, stem: str) -> RayJob | None:
        """The latest attempt of a stem, or None."""
        with self._told():
            found = self._client.list_jobs()
        mine = [
            _job(job)
            for job in found
            if job.submission_id and job.submission_id.rpartition(".")[0] == stem
        ]
        return max(mine, key=lambda job: job.number, default=None)

    def submit(
        self, stem: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> tuple[RayJob, bool]:
        """Starts a command, unless an attempt of the same stem has not ended.

        Args:
            stem: what is asked for.
            entrypoint: a shell command, run on the head.
            runtime_env: Ray's; local folders in it are uploaded.
            metadata: kept with the job, readable by whoever reaches the cluster.

        Returns:
            The attempt, and whether this call made it.
        """
        taken = 0
        while True:
            job = self.newest(stem)
            if job and not job.ended:
                return job, False
            number = max(taken, job.number if job else 0) + 1
            wanted = f"{stem}.{number}"
            with self._told():
                try:
                    self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=wanted,
                        runtime_env=runtime_env,
                        metadata=metadata,
                    )
                    return self.get(wanted), True
                except RuntimeError as error:
                    if "already exists" not in str(error):
                        raise
            # Somebody else was faster: join them, once the cluster tells of their job. It never
            # tells of one that was deleted, whose number is gone all the same.
            taken = number
            until = time.monotonic() + TELLS_SECONDS
            while time.monotonic() < until and getattr(self.newest(stem), "number", 0) < number:
                time.sleep(POLL_SECONDS)

    def get(self, submission: str) -> RayJob:
        """A submission as it stands now."""
        with self._told():
            return _job(self._client.get_job_info(submission))

    def follow(self, submission: str, write: Callable[[str], object]) -> RayJob:
        """Hands on the job's log as it comes, until the job has ended.

        A lost connection is taken up again where it broke off; the job does not notice.
        """
        seen, lost_since = 0, None
        while True:
            try:
                for chunk in self._tail(submission, seen):
                    write(chunk)
                    seen, lost_since = seen + len(chunk), None
                job = self.get(submission)
                if job.ended:
                    return job
                lost_since = None
            except NightrankError as error:
                lost_since = lost_since or time.monotonic()
                if error.code != "E_CLUSTER" or time.monotonic() - lost_since > PATIENCE_SECONDS:
                    raise
            time.sleep(POLL_SECONDS)

    def _tail(self, submission: str, skip: int) -> Iterator[str]:
        """The log from its beginning, less its first `skip` characters, while the job runs."""
        chunks = self._client.tail_job_logs(submission)

        async def next_chunk() -> str | None:
            return await anext(chunks, None)

        # The runner also ends what is under way when a signal breaks in.
        with asyncio.Runner() as runner:
            while True:
                with self._told():
                    chunk = runner.run(next_chunk())
                if chunk is None:
                    return
                fresh, skip = chunk[skip:], max(0, skip - len(chunk))
                if fresh:
                    yield fresh

    def stop(self, submission: str) -> RayJob:
        """Asks a job to stop and waits until it has."""
        with self._told():
            self._client.stop_job(submission)
        until = time.monotonic() + PATIENCE_SECONDS
        while not (job := self.get(submission)).ended:
            if time.monotonic() > until:
                what = f"the job has not stopped after {PATIENCE_SECONDS:.0f} s"
                raise NightrankError("E_CLUSTER", what, submission, "look at the cluster's head")
            time.sleep(POLL_SECONDS)
        return job

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what the client raises into one line."""
        try:
            yield
        except NightrankError:
            raise
        except ray.exceptions.AuthenticationError as error:
            raise authentication_failed(error, self.address) from None
        except (
            Exception,
            SystemExit,
        ) as error:  # Requests, aiohttp and Ray raise kinds of all sorts.
            what = f"the job server does not answer as expected: {first_line(error)}"
            do = "check --address (http://<head>:8265) and that the cluster runs"
            raise NightrankError("E_CLUSTER", what[:600], self.address, do) from error


def _job(details: Any) -> RayJob:
    message = " ".join(str(details.message or "").split())
    return RayJob(
        details.submission_id, str(details.status), details.driver_exit_code, message[:400]
    )
