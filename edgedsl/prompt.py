"""The prompt as data: the same bytes in train, eval, generate and serve. No template language."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgedsl.errors import ConfigError

SegmentKind = Literal["text", "special", "slot"]


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt.

    ``special`` names one special token; ``slot`` is filled by the request, always as plain text.
    """

    kind: SegmentKind
    value: str


@dataclass(frozen=True)
class PromptTemplate:
    """Segments around the sentence, and the special tokens that end a program; training teaches the first one."""

    segments: tuple[Segment, ...]
    end: tuple[str, ...]

    @classmethod
    def default(cls, *, bos_token: str | None, eos_token: str) -> PromptTemplate:
        """Beginning-of-text token where the model has one, the sentence, a line break.

        Short on purpose: a tuned model needs no instructions, and each prompt token costs time in every request.
        """
        head = (Segment("special", bos_token),) if bos_token else ()
        return cls((*head, Segment("slot", "sentence"), Segment("text", "\n")), (eos_token,))

    @classmethod
    def from_file(cls, path: Path) -> PromptTemplate:
        """Read prompt.json.

        Raises:
            ConfigError: missing or malformed file.
        """
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as exc:
            raise ConfigError(
                f"prompt template '{path}' does not exist", hint="set [project] prompt, or leave it empty"
            ) from exc
        except (OSError, ValueError) as exc:
            raise ConfigError(f"prompt template '{path}' cannot be read: {exc}") from exc

    @classmethod
    def from_dict(cls, document: Any) -> PromptTemplate:
        """The inverse of :meth:`to_dict`.

        Raises:
            ConfigError: other keys or types than the format has, or not exactly one slot ``sentence``.
        """
        if (
            not isinstance(document, Mapping)
            or set(document) != {"version", "segments", "end"}
            or document["version"] != 1
        ):
            raise ConfigError("prompt template needs exactly the keys version (1), segments and end")
        if not isinstance(document["segments"], list):
            raise ConfigError(f"prompt template: segments is {document['segments']!r}, expected a list")
        segments = tuple(_segment(item) for item in document["segments"])
        end = document["end"]
        if not isinstance(end, list) or not end or not all(isinstance(item, str) and item for item in end):
            raise ConfigError(f"prompt template: end is {end!r}, expected a list of special tokens")
        if [s.value for s in segments if s.kind == "slot"] != ["sentence"]:
            raise ConfigError('prompt template needs the segment {"slot": "sentence"} exactly once')
        return cls(segments, tuple(end))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for prompt.json."""
        return {"version": 1, "segments": [{s.kind: s.value} for s in self.segments], "end": list(self.end)}

    def render(self, sentence: str) -> tuple[Segment, ...]:
        """The segments with the sentence in its slot (still marked ``slot``: it must be encoded as plain text)."""
        return tuple(Segment("slot", sentence) if s.kind == "slot" else s for s in self.segments)


def _segment(item: Any) -> Segment:
    if isinstance(item, Mapping) and len(item) == 1:
        kind, value = next(iter(item.items()))
        if kind in {"text", "special", "slot"} and isinstance(value, str) and value:
            return Segment(kind, value)
    raise ConfigError(
        f'prompt template: segment {item!r} is not one of {{"text": ...}}, {{"special": ...}}, {{"slot": "sentence"}}'
    )
