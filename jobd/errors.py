"""The errors that a caller may see: each class is a stable code, an HTTP status and one sentence that says what to do.

Foreign errors are translated into these once, at the border where they enter. docs/faults.md lists them all. An
AssertionError is none of these: it is our own bug, answered 500 and logged with its traceback.
"""

from typing import Any, ClassVar


class JobdError(Exception):
    """The root. `detail` is added to the class's sentence; `fields` go into the problem document as they are."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    sentence: ClassVar[str] = "jobd has failed at this; the operators find the reason in its log."

    def __init__(self, detail: str = "", *, retry_after_s: float | None = None, **fields: Any) -> None:
        super().__init__(f"{self.sentence} {detail}".strip())
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.fields = fields


class Unauthorized(JobdError):
    """No credentials, or wrong ones."""

    code, status = "unauthorized", 401
    sentence = "Send the service token as 'Authorization: Bearer ...'."


class Forbidden(JobdError):
    """Known, but this is not theirs to do."""

    code, status = "forbidden", 403
    sentence = "These credentials do not allow this."


class NotFound(JobdError):
    """No such resource."""

    code, status = "not_found", 404
    sentence = "There is nothing at this address."


class NoFrame(JobdError):
    """The view has no such frame (yet)."""

    code, status = "no_frame", 404
    sentence = "This frame does not exist (yet)."


class FileMissing(JobdError):
    """No such file in the run directory."""

    code, status = "file_not_found", 404
    sentence = "The run has no such file."


class Invalid(JobdError):
    """The request's content is refused; `field` names where."""

    code, status = "invalid", 422
    sentence = "The request was refused; 'field' names the part at fault."


class TooLarge(JobdError):
    """The body is larger than its limit."""

    code, status = "too_large", 413
    sentence = "The body is larger than jobd takes here."


class RangeNotSatisfiable(JobdError):
    """The range begins beyond the end."""

    code, status = "range", 416
    sentence = "The range begins beyond the end of the file."


class RunActive(JobdError):
    """Another run of this job, with other inputs, is active."""

    code, status = "run_active", 409
    sentence = "The job has an active run with other inputs; cancel it, or send 'supersede'."


class StaleSerial(JobdError):
    """The serial named is not one of the job's runs, or no longer there."""

    code, status = "stale_serial", 409
    sentence = "The job has no run with this serial any more."


class NoRun(JobdError):
    """The job never ran, or was purged."""

    code, status = "no_run", 404
    sentence = "This job has no run."


class Canceled(JobdError):
    """The request was ended by a cancel; the cause says whose."""

    code, status = "canceled", 409
    sentence = "This request was canceled."


class QueueFull(JobdError):
    """A bounded queue is full; `limit` names it."""

    code, status = "queue_full", 429
    sentence = "Too much is waiting already; try again later."


class QuotaReached(JobdError):
    """The user has as much as the tier, or the site, allows; `limit` says how much."""

    code, status = "quota", 429
    sentence = "The user has as much of this as is allowed; delete some first, or ask the operators for more."

    def __init__(self, detail: str, *, limit: int) -> None:
        super().__init__(detail, retry_after_s=60.0, limit=limit)


class TornUpload(JobdError):
    """The client was gone before its body was complete."""

    code, status = "torn_upload", 400
    sentence = "The body ended before it was complete; nothing was stored."


class DeadlineExceeded(JobdError):
    """The request's own deadline passed while it waited; `situation` says for what."""

    code, status = "deadline", 504
    sentence = "The answer did not come in time; try again."


class AgentUnavailable(JobdError):
    """The agent cannot be started or reached; `age_s` says how old our knowledge is."""

    code, status = "agent_unavailable", 503
    sentence = "The agent that holds this cannot be reached now; try again later."


class LoginNeeded(JobdError):
    """What is asked for is on a cluster, where the user is not logged in (any more)."""

    code, status = "login_needed", 503
    sentence = "Log in to the cluster first."


class LoginActive(JobdError):
    """One attempt at a time, and a pause after one that failed."""

    code, status = "login_active", 429
    sentence = "This login cannot be tried now."


class LoginRefused(JobdError):
    """The cluster did not let the user in; `reason` says why: wrong_credentials, expired_code, locked."""

    code, status = "login_refused", 403
    sentence = "The cluster did not let the user in."


class LoginFailed(JobdError):
    """The cluster could not be reached, or the agent not be started there; `reason` says why."""

    code, status = "login_failed", 502
    sentence = "The login could not be completed."


class AnalysisFailed(JobdError):
    """The code's analysis worker crashed, hung, or refused the question."""

    code, status = "analysis_failed", 502
    sentence = "The code's analysis program did not answer this question."


class StoreUnavailable(JobdError):
    """The store cannot commit (disk full, broken): nothing is accepted that could be lost."""

    code, status = "store_unavailable", 503
    sentence = "jobd cannot write its state now and accepts nothing; try again later."


class ShuttingDown(JobdError):
    """jobd is stopping; its next start answers."""

    code, status = "shutting_down", 503
    sentence = "jobd is restarting; try again in a moment."
