"""The Ray Jobs API: submits a command to a cluster, follows its log, stops it.

A submission id is a stem and a number: `<stem>.1`, `<stem>.2`. The stem identifies the command, the
number its attempt: Ray accepts an id only once. Of two submitters at the same moment, one gets an
error that its id exists, and joins the job of the other.
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

# Before Ray itself: it sets the environment that Ray reads at import.
from nightrank.runtime.ray_cluster import authentication_failed, first_line, refuse_open

# isort: split
import ray.exceptions
from ray.job_submission import JobSubmissionClient

# The client logs each package that it sends and each socket that it closes.
for _name in (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
):
    logging.getLogger(_name).setLevel(logging.WARNING)

POLL_SECONDS = 0.5
# A head that does not answer for this long counts as lost; its job may still run.
HEAD_LOST_SECONDS = 60.0
# How long a job that was just submitted may take to be listed.
LISTED_SECONDS = 5.0
STOPPED_EXIT_CODE = 143


@dataclass(frozen=True)
class RayJob:
    """One submission as the cluster reports it.

    Attributes:
        id: the submission id.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        driver_exit_code: of the command; None while it runs, or where it never ran or was lost.
        message: what Ray says about the status.
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
        """Whether it is over, whatever its status."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def exit_code(self) -> int:
        """The exit code for the shell.

        Raises:
            NightrankError: E_CLUSTER where the command did not start or was lost with its node.
        """
        if self.status == "STOPPED":
            return STOPPED_EXIT_CODE
        if self.status == "SUCCEEDED":
            return 0
        if self.driver_exit_code is None:
            what = f"the job never started or its node was lost: {self.message}"
            do = "check the cluster; the same command submits the job again and resumes"
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
            # Otherwise RAY_ADDRESS would take precedence over the argument.
            os.environ["RAY_API_SERVER_ADDRESS"] = address
        self.address = os.environ.get("RAY_API_SERVER_ADDRESS") or "auto"
        refuse_open(self.address)
        with self._one_line_errors():
            self._client = JobSubmissionClient(address)
        self.address = str(self._client.get_address())
        refuse_open(self.address)

    def newest(self, stem: str) -> RayJob | None:
        """The latest attempt of a stem, or None."""
        with self._one_line_errors():
            jobs = self._client.list_jobs()
        attempts = [
            _job(job)
            for job in jobs
            if job.submission_id and job.submission_id.rpartition(".")[0] == stem
        ]
        return max(attempts, key=lambda job: job.number, default=None)

    def submit(
        self, stem: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> tuple[RayJob, bool]:
        """Starts a command, unless an attempt of the same stem has not ended.

        Args:
            stem: identifies the command.
            entrypoint: a shell command, run on the head.
            runtime_env: Ray's; local folders in it are uploaded.
            metadata: kept with the job, readable by everyone who reaches the cluster.

        Returns:
            The attempt, and whether this call submitted it.
        """
        taken = 0
        while True:
            job = self.newest(stem)
            if job and not job.ended:
                return job, False
            number = max(taken, job.number if job else 0) + 1
            submission = f"{stem}.{number}"
            with self._one_line_errors():
                try:
                    self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=submission,
                        runtime_env=runtime_env,
                        metadata=metadata,
                    )
                    return self.get(submission), True
                except RuntimeError as error:
                    if "already exists" not in str(error):
                        raise
            # A concurrent submitter has the number: join its job once the cluster lists it. A job
            # that was deleted is never listed, and its number stays taken.
            taken = number
            until = time.monotonic() + LISTED_SECONDS
            while time.monotonic() < until and getattr(self.newest(stem), "number", 0) < number:
                time.sleep(POLL_SECONDS)

    def get(self, submission: str) -> RayJob:
        """The current state of a submission."""
        with self._one_line_errors():
            return _job(self._client.get_job_info(submission))

    def follow(self, submission: str, write: Callable[[str], object]) -> RayJob:
        """Writes the job's log as it grows, until the job has ended.

        After a lost connection it continues where it stopped; the job is not affected.

        Raises:
            NightrankError: E_CLUSTER where the head does not answer for a minute.
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
                if error.code != "E_CLUSTER" or time.monotonic() - lost_since > HEAD_LOST_SECONDS:
                    raise
            time.sleep(POLL_SECONDS)

    def _tail(self, submission: str, skip: int) -> Iterator[str]:
        """The log without its first `skip` characters, while the job runs."""
        chunks = self._client.tail_job_logs(submission)

        async def next_chunk() -> str | None:
            return await anext(chunks, None)

        # On a signal the runner also cancels the request in progress.
        with asyncio.Runner() as runner:
            while True:
                with self._one_line_errors():
                    chunk = runner.run(next_chunk())
                if chunk is None:
                    return
                new, skip = chunk[skip:], max(0, skip - len(chunk))
                if new:
                    yield new

    def stop(self, submission: str) -> RayJob:
        """Stops a job and waits until it has ended.

        Raises:
            NightrankError: E_CLUSTER where it does not end within a minute.
        """
        with self._one_line_errors():
            self._client.stop_job(submission)
        until = time.monotonic() + HEAD_LOST_SECONDS
        while not (job := self.get(submission)).ended:
            if time.monotonic() > until:
                what = f"the job has not stopped after {HEAD_LOST_SECONDS:.0f} s"
                raise NightrankError("E_CLUSTER", what, submission, "check the cluster's head")
            time.sleep(POLL_SECONDS)
        return job

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Raises what the client raises as NightrankError."""
        try:
            yield
        except NightrankError:
            raise
        except ray.exceptions.AuthenticationError as error:
            raise authentication_failed(error, self.address) from None
        except (Exception, SystemExit) as error:  # The client exits the process on some errors.
            what = f"the job server does not answer as expected: {first_line(error)}"
            do = "check --address (http://<head>:8265) and that the cluster runs"
            raise NightrankError("E_CLUSTER", what[:600], self.address, do) from error


def _job(details: Any) -> RayJob:
    message = " ".join(str(details.message or "").split())
    return RayJob(
        details.submission_id, str(details.status), details.driver_exit_code, message[:400]
    )
