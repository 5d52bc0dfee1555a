"""What a request can be answered instead of its result: a status, a code for programs and a message for people."""

from __future__ import annotations

from anycost.errors import AnycostError


class RequestError(AnycostError):
    """status: of HTTP. code: one word, stable. retry_after: whole seconds after which it may be sent again."""

    status = 400
    code = "invalid"

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, retry_after: int | None = None
    ):
        super().__init__(message)
        self.status = status or type(self).status
        self.code = code or type(self).code
        self.retry_after = retry_after


class NotFoundError(RequestError):
    """A network, model or address that this server does not have."""

    status, code = 404, "not_found"


class TooLargeError(RequestError):
    """A body or a picture beyond the limits."""

    status, code = 413, "too_large"


class WrongTypeError(RequestError):
    """A body of a type that is not read."""

    status, code = 415, "wrong_type"


class NothingFitsError(RequestError):
    """A budget that no engine of the bundle meets on this machine."""

    status, code = 422, "budget"


class TooManyError(RequestError):
    """More requests of one client at a time than allowed."""

    status, code = 429, "too_many"


class OverloadedError(RequestError):
    """The queue is full, even with the smallest sub-network that the request allows."""

    status, code = 503, "overloaded"


class DrainingError(RequestError):
    """The server is stopping and takes nothing new."""

    status, code = 503, "draining"


class DeadlineError(RequestError):
    """The result was not there in time."""

    status, code = 503, "deadline"


class WorkerLostError(RequestError):
    """The processes that ran a job ended twice before it was done."""

    status, code = 503, "worker_lost"


class FailedError(RequestError):
    """An engine, or this program, failed in a way that nobody foresaw; the log has the details."""

    status, code = 503, "failed"
