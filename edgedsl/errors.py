"""Everything edgedsl raises on purpose.

EdgeDSLError                 exit  status
├── ConfigError                 2     400   project file, flags
├── BundleError                 3     500   a bundle that is missing, changed or not a bundle
├── GrammarError                4     500   grammar or catalogue
├── DataError                   5     400   pairs
├── ModelError                  6     500   base models and adapters
├── TrainingError               7     500
├── ExportError                 8     500
│   └── GateError               9     500   exported, but not good enough
├── ProviderError              10     500   the execution provider asked for cannot run
├── RequestError               11     400   one request
│   ├── PromptTooLong          11     413
│   └── QueueFull              11     503   retryable
└── GenerationError            12     500   one generation failed; never a program
    ├── LogitsError            12     500   the model's numbers are not finite
    ├── MatcherError           12     500   the grammar engine failed, or refused a token
    │   └── EngineLimitError   12     500   the grammar engine met a limit
    ├── NoTokenError           12     500   no token may follow
    └── DisagreementError      12     500   the two grammar engines disagree

Exit code 1 is a bug of ours (with a traceback), 130 is Ctrl-C.
"""

from __future__ import annotations


class EdgeDSLError(Exception):
    """Base of the tree: what was wrong, which value, what was expected; ``hint`` says what to do."""

    exit_code = 1
    status_code = 500
    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(EdgeDSLError):
    """The project file or a flag is wrong."""

    exit_code = 2
    status_code = 400


class BundleError(EdgeDSLError):
    """A bundle is missing, incomplete, changed, or written by something else."""

    exit_code = 3


class GrammarError(EdgeDSLError):
    """A grammar or catalogue does not compile, or a program does not parse under it."""

    exit_code = 4


class DataError(EdgeDSLError):
    """A file of pairs, or rows in it, cannot be used."""

    exit_code = 5
    status_code = 400


class ModelError(EdgeDSLError):
    """A base model or adapter is missing, incomplete or of another kind."""

    exit_code = 6


class TrainingError(EdgeDSLError):
    """Fine-tuning could not start, go on or be resumed."""

    exit_code = 7


class ExportError(EdgeDSLError):
    """No bundle was written."""

    exit_code = 8


class GateError(ExportError):
    """The exported model lost more quality than the gate allows."""

    exit_code = 9


class ProviderError(EdgeDSLError):
    """The execution provider asked for cannot run on this machine."""

    exit_code = 10


class RequestError(EdgeDSLError):
    """One request is wrong; others go on."""

    exit_code = 11
    status_code = 400


class PromptTooLong(RequestError):  # noqa: N818 - the name of the field
    """The sentence does not fit into the model's context."""

    status_code = 413


class QueueFull(RequestError):  # noqa: N818 - the name of the field
    """The server holds as many requests as it was told to; try again later."""

    status_code = 503
    retryable = True


class GenerationError(EdgeDSLError):
    """One generation failed; there is no program, and other requests go on."""

    exit_code = 12


class LogitsError(GenerationError):
    """The model's logits are not finite."""


class MatcherError(GenerationError):
    """The grammar engine failed, or refused a token that it had allowed."""


class EngineLimitError(MatcherError):
    """The grammar engine met one of its limits."""


class NoTokenError(GenerationError):
    """No token may follow: the grammar, the budget and the model leave none."""


class DisagreementError(GenerationError):
    """A finished program does not parse: the two grammar engines disagree. ``count`` says how often they did."""

    count = 0


def first_line(exc: BaseException) -> str:
    """The first line of a foreign exception's text, or its class where it has none: for messages of ours."""
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)[:300]
