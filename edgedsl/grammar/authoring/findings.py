"""What a check of a grammar found."""

from __future__ import annotations

from dataclasses import asdict, dataclass

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Finding:
    """One thing to mend (``error``) or to know (``warning``).

    Attributes:
        level: ``error`` or ``warning``.
        what: the kind, in a few words; the same for all findings of a kind.
        detail: where, with names and an example.
        hint: what to do.
    """

    level: str
    what: str
    detail: str
    hint: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain data for JSON."""
        return asdict(self)
