"""The loop: optimizer steps, evaluations, checkpoints."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from edgedsl.config import TrainSection
from edgedsl.errors import TrainingError
from edgedsl.training.batches import Batch, BatchPlan, Example, collate
from edgedsl.training.checkpoint import CheckpointStore, TrainState, rng_state, set_rng_state
from edgedsl.training.evaluate import Evaluation, Evaluator
from edgedsl.training.lora import TargetHead, adapter_tensors, load_adapter_tensors, target_loss
from edgedsl.training.progress import TrainingProgress

_LOG_ENTRIES = 200
_EVALUATIONS = 4


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; a checkpoint was written at the step it names."""


class Trainer:
    """Fine-tunes a PEFT model. Each optimizer step depends only on the configuration and the steps before."""

    def __init__(
        self,
        model: Any,
        examples: Sequence[Example],
        section: TrainSection,
        accelerator: Accelerator,
        evaluator: Evaluator,
        store: CheckpointStore,
        dtype: torch.dtype,
    ) -> None:
        self.model = model
        self.state = TrainState()
        self._examples = examples
        self._section = section
        self._accelerator = accelerator
        self._evaluator = evaluator
        self._store = store
        self._dtype = dtype
        self._head = TargetHead(model)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=section.learning_rate, weight_decay=section.weight_decay, fused=True
        )
        self._wrapped = accelerator.prepare_model(model)
        processes = accelerator.num_processes
        lengths = [example.num_tokens for example in examples]
        self._plan = BatchPlan(
            lengths,
            section.batch_size,
            section.gradient_accumulation * processes,
            section.seed,
            full_steps=processes > 1,
        )
        self.total_steps = section.max_steps or max(1, math.ceil(section.num_epochs * self._plan.steps_per_epoch))
        self._eval_every = section.eval_every or max(1, math.ceil(self.total_steps / _EVALUATIONS))
        self._log_every = max(1, self.total_steps // _LOG_ENTRIES)

    def restore(self, state: TrainState) -> None:
        """Go on from a checkpoint."""
        adapter, rng = self._store.load_tensors(state.step, self._optimizer)
        load_adapter_tensors(self.model, adapter)
        rank = f"{self._accelerator.process_index}."
        set_rng_state({name.removeprefix(rank): tensor for name, tensor in rng.items() if name.startswith(rank)})
        self.state = state

    def run(self) -> None:
        """Train to the end, or until patience runs out.

        Raises:
            TrainingError: the loss is no number any more.
            Interrupted: Ctrl-C; a checkpoint was written.
        """
        self.model.train()
        is_main = self._accelerator.is_main_process
        with TrainingProgress(self.total_steps, self.state.step, is_main=is_main) as progress, _stop_signals() as stop:
            while self.state.step < self.total_steps and not self.state.is_stopped_early:
                started = time.perf_counter()
                loss, is_stopping = self._step(stop)
                self._count_time(time.perf_counter() - started)
                progress.step(self.state.step, loss, self._speed())
                self._after_step(progress, is_stopping=is_stopping)

    def best_adapter(self) -> dict[str, torch.Tensor]:
        """LoRA weights of the best evaluation."""
        return self._store.adapter(self.state.best_step)

    def _step(self, stop: threading.Event) -> tuple[float, bool]:
        batches = [collate([self._examples[row] for row in rows]) for rows in self._plan.step(self.state.step)]
        num_targets = sum(len(batch.labels) for batch in batches)
        processes = self._accelerator.num_processes
        mine = batches[self._accelerator.process_index :: processes]
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(self.state.step)
        total = 0.0
        for i, batch in enumerate(mine):
            sync = nullcontext() if i == len(mine) - 1 else self._accelerator.no_sync(self._wrapped)
            with sync:
                loss = target_loss(self._wrapped, self._head, batch.to(self._accelerator.device), self._dtype)
                # DDP averages over the processes; the loss is a mean over all of their targets.
                (loss * (processes / num_targets)).backward()
            total += loss.item()
        is_stopping = stop.is_set()
        if processes > 1:
            # All processes must agree on the step they stop at.
            parts = gather_object([(total, is_stopping)])
            total, is_stopping = sum(part[0] for part in parts), any(part[1] for part in parts)
        self._update(total / num_targets)
        self._count(batches, total, num_targets)
        return total / num_targets, is_stopping

    def _update(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {self.state.step + 1}",
                hint="lower [train] learning_rate and start again with --force",
            )
        if self._section.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._section.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine to zero."""
        warmup = math.ceil(self._section.warmup_ratio * self.total_steps)
        if step < warmup:
            return self._section.learning_rate * (step + 1) / warmup
        share = (step - warmup) / max(1, self.total_steps - warmup)
        return self._section.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))

    def _count(self, batches: Sequence[Batch], loss: float, num_targets: int) -> None:
        tokens = sum(batch.num_tokens for batch in batches)
        self.state.step += 1
        self.state.tokens += tokens
        self.state.padding_tokens += sum(batch.input_ids.numel() for batch in batches) - tokens
        for name, value in (("loss", loss), ("targets", num_targets), ("tokens", tokens)):
            self.state.pending[name] += value

    def _count_time(self, seconds: float) -> None:
        self.state.elapsed_s += seconds
        self.state.pending["elapsed_s"] += seconds

    def _speed(self) -> float:
        return self.state.pending["tokens"] / max(self.state.pending["elapsed_s"], 1e-9)

    def _after_step(self, progress: TrainingProgress, *, is_stopping: bool) -> None:
        step = self.state.step
        is_last = step == self.total_steps
        is_eval = step % self._eval_every == 0 or is_last
        if is_eval:
            started = time.perf_counter()
            evaluation = self._evaluator.evaluate(self.model, self._head, self._dtype)
            self.state.elapsed_s += time.perf_counter() - started
            self._log(evaluation)
            self._judge(evaluation)
            progress.evaluation(self.state.history[-1], self.total_steps)
        elif step % self._log_every == 0:
            self._log(None)
        if is_eval or step % self._section.save_every == 0 or is_stopping:
            self._save()
        if is_stopping:
            raise Interrupted(str(step))

    def _log(self, evaluation: Evaluation | None) -> None:
        pending = self.state.pending
        self.state.history.append({
            "step": self.state.step,
            "tokens": self.state.tokens,
            "loss": pending["loss"] / pending["targets"],
            "lr": self._learning_rate(self.state.step - 1),
            "eval_loss": evaluation.loss if evaluation else None,
            "exact_match": evaluation.exact_match if evaluation else None,
            "tokens_per_s": self._speed(),
            "elapsed_s": self.state.elapsed_s,
        })  # fmt: skip
        self.state.pending = dict.fromkeys(pending, 0.0)

    def _judge(self, evaluation: Evaluation) -> None:
        best = self.state.best
        if best is None or evaluation.beats(best["exact_match"], best["eval_loss"]):
            self.state.best = {
                "step": self.state.step,
                "exact_match": evaluation.exact_match,
                "eval_loss": evaluation.loss,
            }
            self.state.evals_without_best = 0
        else:
            self.state.evals_without_best += 1
        patience = self._section.patience
        self.state.is_stopped_early = 0 < patience <= self.state.evals_without_best

    def _save(self) -> None:
        accelerator = self._accelerator
        states = [{f"{accelerator.process_index}.{name}": state for name, state in rng_state().items()}]
        if accelerator.num_processes > 1:
            states = gather_object(states)
        if accelerator.is_main_process:
            rng = {name: tensor for part in states for name, tensor in part.items()}
            try:
                self._store.save(self.state, adapter_tensors(self.model), self._optimizer, rng)
            except OSError as exc:
                raise TrainingError(
                    f"the checkpoint of step {self.state.step} cannot be written: {exc.strerror or exc}",
                    hint="make room, then go on with --resume",
                ) from exc


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second one acts as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: Any) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, stop)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
