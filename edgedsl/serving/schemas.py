"""The part of OpenAI's chat completions that a bundle can honour. Anything else is refused by name, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from edgedsl.grammar.subset import Subset
from edgedsl.runtime.sampling import SamplingParams

# Fields of OpenAI's that a bundle cannot honour: the answer says "unsupported" and not "unknown".
UNSUPPORTED = frozenset({
    "audio", "function_call", "functions", "logit_bias", "metadata", "modalities", "moderation", "parallel_tool_calls",
    "prediction", "prompt_cache_key", "reasoning_effort", "safety_identifier", "service_tier", "tool_choice", "tools",
    "top_logprobs", "verbosity", "web_search_options",
    "grammar", "guided_choice", "guided_grammar", "guided_json", "guided_regex", "json_schema", "structured_outputs",
})  # fmt: skip


def _unsupported(message: str) -> PydanticCustomError:
    return PydanticCustomError("unsupported", "{reason}", {"reason": message})


def _only(*neutral: Any) -> BeforeValidator:
    """Accept a field only with the values that change nothing."""

    def check(value: Any) -> Any:
        if value is not None and not any(type(value) is type(item) and value == item for item in neutral):
            raise _unsupported(
                "only the value that changes nothing is accepted: " + " or ".join(f"{item!r}" for item in neutral)
            )
        return value

    return BeforeValidator(check)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class UserMessage(_Strict):
    """The one message of a request: its content is the sentence."""

    role: Literal["user"]
    content: str

    @field_validator("role", mode="before")
    @classmethod
    def _only_user(cls, role: Any) -> Any:
        if role in ("system", "developer", "assistant", "tool", "function"):
            raise _unsupported(
                f"a message of role '{role}' has no effect on a tuned model; send one user message with the sentence"
            )
        return role

    @field_validator("content", mode="before")
    @classmethod
    def _one_text_part(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        match content:
            case [{"type": "text", "text": str(text), **rest}] if not rest:
                return text
        raise _unsupported("content has to be a string, or a list with one text part")

    @field_validator("content")
    @classmethod
    def _is_sentence(cls, content: str) -> str:
        if not content.strip():
            raise PydanticCustomError("invalid_value", "content is empty, expected a sentence")
        if any("\ud800" <= character <= "\udfff" for character in content):
            raise PydanticCustomError("invalid_value", "content holds half of a surrogate pair, expected Unicode text")
        return content


class StreamOptions(_Strict):
    """``include_usage`` adds a last chunk with token counts."""

    include_usage: bool | None = None


Name = Annotated[str, Field(min_length=1, max_length=512)]


class CatalogueSubset(_Strict):
    """Names of the catalogue that a request may use, and names that it may not."""

    allow: Annotated[list[Name] | None, Field(min_length=1, max_length=10_000)] = None
    deny: Annotated[list[Name], Field(max_length=10_000)] = []


class ChatRequest(_Strict):
    """Body of POST /v1/chat/completions. null means absent.

    Accepted and without effect: ``user``. Accepted with their neutral value only: ``n``, ``store``, ``stop``,
    ``logprobs``, ``presence_penalty``, ``frequency_penalty``, ``response_format``.

    Additions of ours: ``top_k``; ``catalogue``, a part of the server's catalogue (a list is what is allowed);
    ``spans``, terminals whose texts have to be words of the sentence in a row.
    """

    model: str
    messages: Annotated[list[UserMessage], Field(min_length=1)]
    max_tokens: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, le=1_000_000)] = None
    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    catalogue: CatalogueSubset | None = None
    spans: Annotated[list[Name] | None, Field(max_length=100)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str | None, Field(max_length=512)] = None
    n: Annotated[int | None, _only(1)] = None
    store: Annotated[bool | None, _only(False)] = None
    stop: Annotated[list[str] | None, _only([])] = None
    logprobs: Annotated[bool | None, _only(False)] = None
    presence_penalty: Annotated[float | None, _only(0, 0.0)] = None
    frequency_penalty: Annotated[float | None, _only(0, 0.0)] = None
    response_format: Annotated[dict[str, Any] | None, _only({"type": "text"})] = None

    @field_validator("messages", mode="before")
    @classmethod
    def _one_message(cls, messages: Any) -> Any:
        if isinstance(messages, list) and len(messages) > 1 and all(_is_user(item) for item in messages):
            raise _unsupported("one request is one sentence: send exactly one user message, and no earlier turns")
        return messages

    @field_validator("catalogue", mode="before")
    @classmethod
    def _list_is_allowed(cls, catalogue: Any) -> Any:
        return {"allow": catalogue} if isinstance(catalogue, list) else catalogue

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise PydanticCustomError("invalid_value", "max_tokens and max_completion_tokens differ; send one of them")
        if self.stream_options and not self.stream:
            raise PydanticCustomError("invalid_value", "stream_options needs stream: true")
        return self

    @property
    def sentence(self) -> str:
        """The text of the one user message."""
        return self.messages[0].content

    def sampling_params(self, defaults: SamplingParams) -> SamplingParams:
        """What the request asks for; the server's ``[generate]`` section fills in the rest."""

        def pick(given: Any, default: Any) -> Any:
            return default if given is None else given

        # What the server leaves of the catalogue a request can only narrow.
        subsets = defaults.subsets
        if self.catalogue:
            subsets += Subset.from_lists(self.catalogue.allow, self.catalogue.deny)
        return SamplingParams(
            subsets=subsets,
            spans=tuple(dict.fromkeys([*defaults.spans, *(self.spans or ())])),
            max_tokens=pick(self.max_tokens or self.max_completion_tokens, defaults.max_tokens),
            temperature=pick(self.temperature, defaults.temperature),
            top_k=pick(self.top_k, defaults.top_k),
            top_p=pick(self.top_p, defaults.top_p),
            seed=pick(self.seed, defaults.seed),
        )


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Timings(BaseModel):
    """Milliseconds, an addition of ours: the wait for the engine, then the engine's own times."""

    queue_ms: float
    ttft_ms: float
    tpot_ms: float
    e2el_ms: float


class AnswerMessage(BaseModel):
    """The program."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The one answer."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """Answer of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    timings: Timings


class ErrorDetail(BaseModel):
    """What was wrong; ``param`` names the field, ``code`` is for programs, ``hint`` says what to do."""

    message: str
    type: str
    param: str | None = None
    code: str
    hint: str | None = None


class ErrorBody(BaseModel):
    """Body of every answer that is not a success."""

    error: ErrorDetail


class ModelCard(BaseModel):
    """The bundle that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "edgedsl"


class ModelList(BaseModel):
    """Answer of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def _is_user(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "user"
