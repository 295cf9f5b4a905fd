"""What Ray and the actors behind it say when something fails, in one line and without Ray's trace."""

from __future__ import annotations

from mlora_ray.errors import MloraError


def cause_of(error: BaseException) -> BaseException:
    """The exception an actor's method raised; the error itself where Ray, not a method, has failed."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def one_line(error: BaseException) -> str:
    """An error of ours as it is, Ray's by its first line, any other with its type before it."""
    from ray.exceptions import RayError

    cause = cause_of(error)
    if isinstance(cause, MloraError):
        return str(cause)
    return first_line(cause) if isinstance(cause, RayError) else f"{type(cause).__name__}: {first_line(cause)}"


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
