"""The only module that imports s3fs: it sends and retries every request, and translates errors.

The retry loop of s3fs has no jitter and knows few errors, and botocore has another one below it;
both are off. A body is read where its request is made, so that a body that breaks off is requested
again like any other failure.

A conditional PUT is not idempotent: sent again after its reply was lost, it meets its own write and
is answered 412. That arrives as `FileExistsError`, and the writer reads back what is stored.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
from typing import Any

import aiohttp
import s3fs
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NotConnected
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync_wrapper
from fsspec.exceptions import FSTimeoutError

from nightrank.errors import NightrankError
from nightrank.storage.retries import Limits, retries_of

# Below 500: concurrent writes, requests damaged or stalled in transit, throttling.
RETRYABLE = {
    "ConditionalRequestConflict",
    "OperationAborted",
    "IncompleteBody",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "RequestTimeout",
    "RequestTimeoutException",
    "RequestLimitExceeded",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "429",
}
NETWORK = (
    HTTPClientError,
    NotConnected,
    ResponseParserError,
    aiohttp.ClientError,
    FSTimeoutError,
    TimeoutError,
    ConnectionError,
)
# A HEAD has no body: S3 answers it with a bare 400 where the session token has expired.
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "400"}
DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "401", "403", "Forbidden"}
SKEWED = {"RequestTimeTooSkewed", "RequestExpired"}
# Answers for the caller: a missing key; an existing or a replaced object; a range after the end.
ANSWERS = (404, 412, 416)
# The IAM permissions of requests where the names differ.
PERMISSIONS = {
    "head_object": "s3:GetObject",
    "head_bucket": "s3:ListBucket",
    "list_objects_v2": "s3:ListBucket",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "delete_objects": "s3:DeleteObject",
}


class Body:
    """A complete response body, with the interface of a stream that s3fs reads."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, or all remaining ones."""
        cut = len(self._data) if size < 0 else size
        part, self._data = self._data[:cut], self._data[cut:]
        return part

    def close(self) -> None:
        """Does nothing."""


class RetryingS3(s3fs.S3FileSystem):  # type: ignore[misc]
    """S3 whose requests are retried within the limits of this process.

    Besides the errors of s3fs for missing and existing keys, requests raise NightrankError: E_AUTH,
    E_STORE_RETRY or E_STORE_UNFIT.

    Args:
        retry: `Limits` as plain data.
        **options: of s3fs.
    """

    retries = 1

    def __init__(self, retry: dict[str, Any] | None = None, **options: Any) -> None:
        self._budget = retries_of(Limits.of(retry or {}))
        config = {**options.pop("config_kwargs", {}), "retries": {"total_max_attempts": 1}}
        super().__init__(config_kwargs=config, **options)

    async def _call_s3(self, method: str, *positional: Any, **arguments: Any) -> Any:
        """Sends one request until it is answered or out of tries; a body is complete."""
        refreshed, tries = False, 0
        while True:
            tries += 1
            try:
                reply = await super()._call_s3(method, *positional, **arguments)
                if method == "get_object":
                    reply["Body"] = Body(await _complete_body(reply))
                if method == "delete_objects":
                    _refuse_undeleted(reply)
                self._budget.succeeded()
                return reply
            except Exception as error:
                failure = _Failure(error, method, arguments)
                wait = self._budget.wait(tries) if failure.retryable(refreshed) else None
                if wait is None:
                    translated = failure.translated(self._budget.exhausted(tries))
                    if translated is error:
                        raise
                    raise translated from error
            if failure.expired:
                # Their source may have renewed the credentials: they are loaded again, once.
                refreshed = True
                await self.set_session(refresh=True)
            await asyncio.sleep(wait)

    call_s3 = sync_wrapper(_call_s3)


async def _complete_body(reply: dict[str, Any]) -> bytes:
    """The body of a reply.

    Raises:
        ConnectionError: the body is shorter than its announced length.
    """
    try:
        data = bytes(await reply["Body"].read())
    finally:
        reply["Body"].close()
    if (announced := reply.get("ContentLength")) is not None and len(data) != announced:
        raise ConnectionError(f"body of {len(data)} bytes, {announced} announced")
    return data


def _refuse_undeleted(reply: dict[str, Any]) -> None:
    """Refuses a reply that lists undeleted keys: S3 answers 200, and s3fs ignores the list.

    Raises:
        ClientError: of the first such key, as if it had been deleted alone.
    """
    for failed in reply.get("Errors", []):
        code = str(failed.get("Code", ""))
        status = 403 if code in DENIED else 500
        meta = {"HTTPStatusCode": status}
        raise ClientError({"Error": {"Code": code}, "ResponseMetadata": meta}, "DeleteObjects")


class _Failure:
    """One failed request: which kind of failure it is, and the error for the caller."""

    def __init__(self, error: Exception, method: str, arguments: dict[str, Any]) -> None:
        # s3fs translates botocore's errors into Python's, and keeps the original as the cause.
        cause = error.__cause__ if isinstance(error.__cause__, ClientError) else error
        self.error, self.cause, self.method = error, cause, method
        self.code, self.status, self.date = "", 0, ""
        if isinstance(cause, ClientError):
            meta = cause.response.get("ResponseMetadata", {})
            self.code = str(cause.response.get("Error", {}).get("Code", ""))
            self.status = int(meta.get("HTTPStatusCode", 0))
            self.date = meta.get("HTTPHeaders", {}).get("date", "")
        deleted = arguments.get("Delete", {}).get("Objects", [{}])[0].get("Key", "")
        key = str(arguments.get("Key", deleted))
        prefix = arguments.get("Prefix") or key.rpartition("/")[0]
        self.where = f"s3://{arguments.get('Bucket', '')}/{prefix}"

    @property
    def expired(self) -> bool:
        """Whether the session's credentials have expired."""
        return self.code in EXPIRED and (self.code != "400" or self.method.startswith("head_"))

    def retryable(self, refreshed: bool) -> bool:
        """Whether the same request may succeed later."""
        if self.expired:
            return not refreshed
        if isinstance(self.cause, ClientError):
            return self.code in RETRYABLE or (self.status >= 500 and self.status != 501)
        return isinstance(self.cause, NETWORK)

    def translated(self, exhausted: str) -> Exception:
        """The error for the caller, without the store's message, which may name credentials."""
        permission = PERMISSIONS.get(self.method) or f"s3:{_camel(self.method)}"
        if self.status in ANSWERS:
            return self.error
        if self.code in SKEWED:
            what = f"{permission} refused ({self.code}): {self._skew()}"
            do = "set this machine's clock, then run the same command again"
        elif self.expired:
            what = f"{permission} refused ({self.code}): the credentials have expired"
            do = "renew the credentials, then run the same command again"
        elif self.code in DENIED or self.status in (401, 403):
            what = f"{permission} refused ({self.code}): access denied"
            do = f"grant this role {permission} there, or correct the credentials"
            if permission == "s3:GetObject":
                do += "; without s3:ListBucket a missing key is refused in the same way"
        elif self.retryable(False):
            name = self.code or type(self.cause).__name__
            what = f"{exhausted} of {_camel(self.method)}: {name}"
            do = "the same command resumes when the store answers again"
            return NightrankError("E_STORE_RETRY", what, self.where, do)
        elif isinstance(self.cause, ClientError):
            what = f"the store refuses {_camel(self.method)}: {self.code} ({self.status})"
            do = "check that this store implements the S3 API with conditional writes"
            return NightrankError("E_STORE_UNFIT", what, self.where, do)
        elif isinstance(self.cause, BotoCoreError):
            name = type(self.cause).__name__
            if "Credential" not in name and "Token" not in name:
                return self.error
            what, do = f"no usable credentials: {name}", "set up the AWS credentials chain"
        else:
            return self.error
        return NightrankError("E_AUTH", what, self.where, do)

    def _skew(self) -> str:
        """The difference of this machine's clock from the date of the store's answer."""
        sent = email.utils.parsedate_to_datetime(self.date) if self.date else None
        if sent is None:
            return "this machine's clock is off"
        skew = (datetime.datetime.now(datetime.UTC) - sent).total_seconds()
        direction = "ahead of" if skew > 0 else "behind"
        return f"this machine's clock is {abs(skew):.0f} s {direction} the store's"


def _camel(method: str) -> str:
    return "".join(part.title() for part in method.split("_"))
