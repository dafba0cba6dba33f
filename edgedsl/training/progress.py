"""What a person sees of a run: a bar on a terminal, else one plain line per evaluation. Always on stderr."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TrainingProgress:
    """A context manager; silent when ``is_main`` is false."""

    def __init__(self, total_steps: int, first_step: int, *, is_main: bool) -> None:
        self._console = Console(stderr=True, quiet=not is_main, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("{task.fields[speed]:.0f} tokens/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (is_main and self._console.is_terminal),
        )
        self._task = self._bar.add_task(
            "training", total=total_steps, completed=first_step, loss=float("nan"), speed=0.0
        )

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, step: int, loss: float, tokens_per_s: float) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step, loss=loss, speed=tokens_per_s)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, markup=False)

    def evaluation(self, entry: dict[str, Any], total_steps: int) -> None:
        """The line of one evaluation."""
        match = "" if entry["exact_match"] is None else f", exact match {entry['exact_match']:.1%}"
        self.say(
            f"step {entry['step']}/{total_steps}: loss {entry['loss']:.4f}, dev loss {entry['eval_loss']:.4f}{match}, "
            f"{entry['tokens_per_s']:.0f} tokens/s, {entry['elapsed_s']:.0f} s"
        )
