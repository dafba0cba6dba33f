import dataclasses
import fcntl
import html.parser
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from safetensors.torch import load_file
from tiny import PAIRS, tiny_llama, tiny_template, tiny_tokenizer, write_language, write_pairs
from transformers import AutoModelForCausalLM

from edgedsl.basemodels.load import without_old_names
from edgedsl.cli import group
from edgedsl.config import Config, TrainSection, load_config, override
from edgedsl.data.pairs import Pair
from edgedsl.errors import DataError, EdgeDSLError, ModelError, ProviderError, TrainingError
from edgedsl.training import hardware, lora, trainer
from edgedsl.training.batches import BatchPlan, Example, collate, encode
from edgedsl.training.evaluate import Evaluation, Evaluator
from edgedsl.training.run import train

CPU = torch.device("cpu")
SETTINGS = {
    "max_steps": 6,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "r": 4,
    "lora_dropout": 0.1,
    "learning_rate": 1e-2,
    "eval_every": 3,
    "eval_rows": 2,
    "eval_loss_rows": 4,
    "save_every": 1,
    "seed": 7,
    "num_threads": 1,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def config(base: Path, tmp_path: Path) -> Config:
    write_language(tmp_path)
    write_pairs(tmp_path / "data" / "train.jsonl", copies=5)
    write_pairs(tmp_path / "data" / "dev.jsonl")
    (tmp_path / "base").symlink_to(base)
    (tmp_path / "edgedsl.toml").write_text('[project]\nbase_model = "base"\n', encoding="utf-8")
    return override(load_config(tmp_path), "train", SETTINGS)


def changed(config: Config, **values: Any) -> Config:
    return override(config, "train", values)


def weights(config: Config) -> dict[str, torch.Tensor]:
    return dict(load_file(config.path(config.train.output) / "adapter_model.safetensors"))


def record(config: Config) -> dict[str, Any]:
    text = (config.path(config.train.output) / "run.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k not in {"tokens_per_s", "elapsed_s"}} for entry in history]


def step_that_dies(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    step = trainer.Trainer._step

    def dying(self: trainer.Trainer, stop: Any) -> Any:
        if self.state.step == after:
            raise SystemError("power cut")
        return step(self, stop)

    monkeypatch.setattr(trainer.Trainer, "_step", dying)


def die_after(config: Config, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    with monkeypatch.context() as patch:
        step_that_dies(patch, after)
        with pytest.raises(SystemError):
            train(config, resume=False)


def assert_same_tensors(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


# ---- batches


def example(prompt: int, target: int) -> Example:
    return Example(tuple(range(1, prompt + 1)), tuple(range(20, 20 + target)))


def test_examples_are_what_the_run_time_encodes() -> None:
    tokenizer, template = tiny_tokenizer(), tiny_template()
    (one,) = encode([Pair("1", "lamp <|im_end|>", "off hall", "", "")], tokenizer, template)
    assert list(one.prompt) == tokenizer.encode_prompt(template, "lamp <|im_end|>")
    assert list(one.target) == [*tokenizer.encode_plain("off hall"), tokenizer.token_id("<|im_end|>")]
    assert tokenizer.token_id("<|im_end|>") not in one.prompt


def test_collate_points_at_the_token_before_each_target() -> None:
    batch = collate([example(3, 2), example(2, 1)])
    assert batch.input_ids.tolist() == [[1, 2, 3, 20], [1, 2, 0, 0]]
    assert batch.positions.tolist() == [2, 3, 5]
    assert batch.labels.tolist() == [20, 21, 20]
    assert batch.num_tokens == 6


def test_each_epoch_sees_every_row_once_in_an_order_of_its_own() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 103).tolist()
    plan = BatchPlan(lengths, 4, 3, seed=1)
    assert plan.steps_per_epoch == 9
    epochs = [[plan.step(e * 9 + s) for s in range(9)] for e in range(2)]
    for epoch in epochs:
        assert sorted(row for step in epoch for batch in step for row in batch) == list(range(103))
    assert epochs[0] != epochs[1]
    assert BatchPlan(lengths, 4, 3, seed=1).step(11) == epochs[1][2]
    assert BatchPlan(lengths, 4, 3, seed=2).step(11) != epochs[1][2]


def test_batches_hold_rows_of_one_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 800).tolist()
    plan = BatchPlan(lengths, 8, 1, seed=0)
    batches = [plan.step(step)[0] for step in range(plan.steps_per_epoch)]
    padding = sum(
        max(lengths[row] for row in batch) * len(batch) - sum(lengths[row] for row in batch) for batch in batches
    )
    assert padding / sum(lengths) < 0.02
    short_first = [lengths[batch[0]] for batch in batches]
    assert short_first != sorted(short_first)


def test_processes_get_the_same_number_of_batches() -> None:
    plan = BatchPlan([9] * 10, 2, 4, seed=0, full_steps=True)
    assert [len(plan.step(s)) for s in range(plan.steps_per_epoch)] == [4, 4]
    assert Counter(row for s in range(2) for batch in plan.step(s) for row in batch).keys() == set(range(10))


# ---- loss


@pytest.fixture
def tuned(base: Path) -> Any:
    section = TrainSection(r=4)
    model = lora.add_lora(lora.load_base(base, section, torch.float32, CPU), section, "tiny")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return model


def test_loss_is_that_of_transformers_on_target_tokens_only(tuned: Any) -> None:
    examples = encode([Pair("", p, t, "", "") for p, t in PAIRS], tiny_tokenizer(), tiny_template())
    head = lora.TargetHead(tuned)
    together = lora.target_loss(tuned, head, collate(examples), torch.float32)
    expected = 0.0
    for one in examples:
        ids = torch.tensor([[*one.prompt, *one.target]])
        labels = torch.tensor([[-100] * len(one.prompt) + list(one.target)])
        expected += tuned(input_ids=ids, labels=labels).loss.item() * len(one.target)
    assert together.item() == pytest.approx(expected, rel=1e-5)


def test_the_head_sees_everything_again_afterwards(tuned: Any) -> None:
    ids = torch.tensor([[1, 2, 3]])
    before = tuned(input_ids=ids).logits
    head = lora.TargetHead(tuned)
    with head.only(torch.tensor([1])):
        assert torch.allclose(tuned(input_ids=ids).logits, before[:, 1:2], atol=1e-6)
    assert torch.equal(tuned(input_ids=ids).logits, before)


def test_accumulated_batches_teach_the_same_as_one(config: Config) -> None:
    plain = changed(config, lora_dropout=0.0, max_steps=2, num_epochs=2.0)
    runs = [
        changed(plain, batch_size=20, gradient_accumulation=1),
        changed(plain, batch_size=5, gradient_accumulation=4),
    ]
    found = []
    for run in runs:
        train(run, resume=False, force=True)
        found.append(weights(run))
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-4) for name in found[0])
    assert timeless(record(plain)["history"])[-1]["tokens"] == 2 * sum(
        e.num_tokens for e in encode([Pair("", p, t, "", "") for p, t in PAIRS * 5], tiny_tokenizer(), tiny_template())
    )


def test_gradient_checkpointing_changes_nothing(config: Config) -> None:
    found = []
    for is_on in (False, True):
        run = changed(config, lora_dropout=0.0, max_steps=2, gradient_checkpointing=is_on)
        train(run, resume=False, force=True)
        found.append(weights(run))
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-5) for name in found[0])


# ---- the whole run


def test_learns_and_writes_a_peft_adapter(config: Config, base: Path) -> None:
    # Random weights of the usual size cannot tell tokens apart: their logits hardly differ.
    model = AutoModelForCausalLM.from_pretrained(base)
    for parameter in model.parameters():
        parameter.data.mul_(20 if parameter.ndim == 2 else 1)
    config.path("base").unlink()
    base = tiny_llama(config.path("base"))
    model.save_pretrained(base)
    config = changed(config, max_steps=60, eval_every=20, learning_rate=3e-3, r=16, batch_size=4, eval_rows=4, seed=0)
    config = changed(config, lora_dropout=0.0, gradient_accumulation=1)
    output = train(config, resume=False)
    history = record(config)["history"]
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert max(entry["exact_match"] or 0.0 for entry in history) >= 0.5
    assert {path.name for path in output.iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "prompt.json",
        "grammar.lark", "catalogue.json", "run.json", "edgedsl.resolved.json", "rejected.jsonl", "report.html",
        "README.md",
    }  # fmt: skip
    with without_old_names():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), output)
    loaded = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    assert len(loaded) == len(weights(config)) > 0
    assert_same_tensors({n.replace(".default", ""): p.data for n, p in loaded.items()}, weights(config))


def test_output_names_no_folder_of_this_machine(config: Config, base: Path, tmp_path: Path) -> None:
    output = train(changed(config, max_steps=1), resume=False)
    texts = [path.read_text(encoding="utf-8") for path in output.iterdir() if path.suffix != ".safetensors"]
    assert not any(str(base) in text or str(tmp_path) in text for text in texts)


def test_record_names_everything_the_weights_came_from(config: Config, base: Path) -> None:
    import hashlib

    train(config, resume=False)
    run = record(config)
    assert run["base_model"]["sha256"] == hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    assert run["base_model"]["name"] == "base"
    train_file = config.path("data/train.jsonl").read_bytes()
    assert run["data"]["train"] == {
        "file": "train.jsonl", "sha256": hashlib.sha256(train_file).hexdigest(), "rows": 20, "used": 20,
    }  # fmt: skip
    assert run["config"]["train"]["r"] == 4
    assert run["seed"] == 7
    entry = run["history"][-1]
    assert list(entry) == ["step", "tokens", "loss", "lr", "eval_loss", "exact_match", "tokens_per_s", "elapsed_s"]
    assert [e["step"] for e in run["history"] if e["eval_loss"] is not None] == [3, 6]
    assert run["metrics"]["best_step"] in {3, 6}


def test_same_seed_same_weights(config: Config) -> None:
    found = []
    for seed in (1, 1, 2):
        train(changed(config, seed=seed), resume=False, force=True)
        found.append(weights(config))
    assert_same_tensors(found[0], found[1])
    assert any(not torch.equal(found[0][name], found[2][name]) for name in found[0])


@pytest.mark.parametrize(("after", "save_every"), [(3, 100), (4, 2), (5, 3)])
def test_killed_and_resumed_is_straight_to_the_bit(
    config: Config, monkeypatch: pytest.MonkeyPatch, after: int, save_every: int
) -> None:
    straight = changed(config, output="straight", save_every=save_every)
    train(straight, resume=False)
    broken = changed(config, output="broken", save_every=save_every)
    die_after(broken, monkeypatch, after)
    assert not (broken.path("broken") / "run.json").exists()
    train(broken, resume=True)
    assert_same_tensors(weights(straight), weights(broken))
    assert timeless(record(straight)["history"]) == timeless(record(broken)["history"])
    assert record(straight)["metrics"]["tokens"] == record(broken)["metrics"]["tokens"]


def test_killed_while_a_checkpoint_is_written(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = changed(config, output="straight")
    train(straight, resume=False)
    die_after(config, monkeypatch, 4)
    folder = config.path("adapter/checkpoints")
    (folder / ".step-000005.new-x").mkdir()
    (folder / ".step-000005.new-x" / "adapter_model.safetensors").write_bytes(b"half")
    (folder.parents[1] / ".adapter.new-x").mkdir()
    output = train(config, resume=True)
    assert_same_tensors(weights(straight), weights(config))
    assert not list(output.parent.glob(".adapter.*"))


def test_resume_starts_where_nothing_was_saved(config: Config) -> None:
    train(changed(config, output="straight"), resume=False)
    train(config, resume=True)
    assert_same_tensors(weights(changed(config, output="straight")), weights(config))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_signal_saves_and_says_how_to_go_on(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    straight, handler = changed(config, output="straight"), signal.getsignal(number)
    train(straight, resume=False)
    config = changed(config, save_every=100)
    step = trainer.Trainer._step

    def signalled(self: trainer.Trainer, stop: Any) -> Any:
        if self.state.step == 1:
            os.kill(os.getpid(), number)
        return step(self, stop)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", signalled)
        with pytest.raises(KeyboardInterrupt):
            train(config, resume=False)
    assert "stopped after step 2; go on with 'edgedsl train --resume'" in capsys.readouterr().err
    assert signal.getsignal(number) is handler
    train(config, resume=True)
    assert_same_tensors(weights(straight), weights(config))


def test_resume_refuses_what_differs_and_names_it(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    die_after(config, monkeypatch, 3)
    with pytest.raises(TrainingError, match=r"\[train\] learning_rate: 0.01 then, 0.02 now") as caught:
        train(changed(config, learning_rate=0.02), resume=True)
    assert "seed" not in caught.value.message
    assert "--force" in caught.value.hint
    write_pairs(config.path("data/train.jsonl"), copies=4)
    with pytest.raises(TrainingError, match="training pairs sha256") as caught:
        train(config, resume=True)
    assert "learning_rate" not in caught.value.message


def test_threads_and_checkpoint_interval_may_change(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    die_after(config, monkeypatch, 3)
    train(changed(config, save_every=4, num_threads=1), resume=True)
    assert record(config)["metrics"]["steps"] == 6


def test_output_is_never_overwritten_unasked(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    die_after(config, monkeypatch, 2)
    with pytest.raises(TrainingError, match="unfinished run") as caught:
        train(config, resume=False)
    assert "--resume" in caught.value.hint
    train(config, resume=False, force=True)
    before = (config.path("adapter") / "run.json").read_bytes()
    with pytest.raises(TrainingError, match="finished adapter") as caught:
        train(config, resume=False)
    assert "--force" in caught.value.hint
    train(config, resume=True)
    assert (config.path("adapter") / "run.json").read_bytes() == before
    with pytest.raises(TrainingError, match="exclude each other"):
        train(config, resume=True, force=True)


def test_folder_of_someone_else_is_left_alone(config: Config) -> None:
    with pytest.raises(TrainingError, match="not an adapter"):
        train(changed(config, output="data"), resume=False, force=True)
    assert config.path("data/train.jsonl").exists()


def test_two_processes_do_not_train_into_one_folder(config: Config) -> None:
    folder = config.path("adapter/checkpoints")
    folder.mkdir(parents=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="another process"):
            train(config, resume=False)
    finally:
        os.close(descriptor)


def test_checkpoints_are_few_and_hold_no_pickle(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    results = iter([Evaluation(1.0, 0.5, 16), Evaluation(2.0, 0.0, 16)])
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_: next(results))
    die_after(changed(config, eval_every=2), monkeypatch, 5)
    folder = config.path("adapter/checkpoints")
    assert sorted(path.name for path in folder.iterdir()) == ["step-000002", "step-000004", "step-000005"]
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert files == {"adapter_model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"}


@pytest.mark.parametrize(
    ("results", "best_step"),
    [
        ([(2.0, 0.2), (3.0, 0.6), (4.0, 0.9)], 6),
        ([(1.0, 0.9), (3.0, 0.1), (2.0, 0.2)], 2),
        ([(2.0, 0.5), (1.0, 0.5), (3.0, 0.5)], 4),
        ([(2.0, 0.5), (1.0, 0.45), (3.0, 0.55)], 4),  # one row of 16 is noise: the loss decides
        ([(2.0, None), (3.0, None), (1.0, None)], 6),
    ],
)
def test_best_evaluation_becomes_the_adapter(
    config: Config, monkeypatch: pytest.MonkeyPatch, results: list[tuple[float, float | None]], best_step: int
) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}
    scripted = iter(results)

    def evaluate(self: Evaluator, model: Any, *_: object) -> Evaluation:
        seen[2 * len(seen) + 2] = {name: t.clone() for name, t in lora.adapter_tensors(model).items()}
        return Evaluation(*next(scripted), rows=16)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    train(changed(config, eval_every=2, save_every=1), resume=False)
    assert_same_tensors(weights(config), seen[best_step])
    assert record(config)["metrics"]["best_step"] == best_step


def test_patience_stops_early(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    results = iter(
        [Evaluation(1.0, 0.5, 16), Evaluation(1.5, 0.4, 16), Evaluation(2.0, 0.4, 16), Evaluation(9.0, 0.9, 16)]
    )
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_: next(results))
    train(changed(config, eval_every=1, patience=2), resume=False)
    metrics = record(config)["metrics"]
    assert (metrics["steps"], metrics["best_step"], metrics["stopped_early"]) == (3, 1, True)


def test_bad_rows_are_refused_or_dropped_but_never_silently(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    path = config.path("data/train.jsonl")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"prompt": "x", "target": "off cellar"}\n')
    with pytest.raises(DataError, match=r"train.jsonl:21: grammar"):
        train(config, resume=False)
    output = train(override(config, "data", {"on_bad_row": "drop"}), resume=False)
    (line,) = (output / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["reason"] == "grammar"
    assert record(config)["dropped"] == [json.loads(line)]
    assert record(config)["data"]["train"]["used"] == 20
    assert "dropped 1 rows" in capsys.readouterr().err


def test_lines_are_plain_where_there_is_no_terminal(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    train(config, resume=False)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == [
        "step 3/6",
        "step 6/6",
        "adapter written to '" + str(config.path("adapter")) + "'; next",
    ]
    assert "\x1b" not in err


def test_report_draws_and_loads_nothing(config: Config) -> None:
    output = train(config, resume=False)
    text = (output / "report.html").read_text(encoding="utf-8")
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Reader().feed(text)
    assert sum(tag == "polyline" for tag, _ in tags) >= 4
    assert not any(tag in {"script", "link", "img"} or "src" in attrs or "href" in attrs for tag, attrs in tags)


def test_model_card_is_readable_for_the_hub(config: Config) -> None:
    card = (train(config, resume=False) / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: ")
    assert "\nbase_model: base\nlibrary_name: peft\n" in card
    assert "| Training pairs | 20 of 20 in `train.jsonl` |" in card


def test_command_line(config: Config) -> None:
    flags = [part for name, value in SETTINGS.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = ["train", "--project", str(config.root), "--offline", *flags]
    result = CliRunner().invoke(group, command)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert record(config)["config"]["train"] == dataclasses.asdict(config.train)
    assert isinstance(CliRunner().invoke(group, command).exception, EdgeDSLError)


# ---- going on from an adapter


def test_training_goes_on_from_the_weights_of_an_adapter(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    train(changed(config, output="first"), resume=False)
    second = changed(config, output="second", init_adapter="first", learning_rate=0.0, max_steps=1)
    train(second, resume=False)
    assert_same_tensors(weights(changed(config, output="first")), weights(second))
    broken, straight = (changed(config, output=name, init_adapter="first") for name in ("broken", "straight"))
    train(straight, resume=False)
    die_after(broken, monkeypatch, 4)
    train(changed(config, output="first", seed=1), resume=False, force=True)
    with pytest.raises(TrainingError, match="first adapter sha256"):
        train(broken, resume=True)
    train(changed(config, output="first"), resume=False, force=True)
    train(broken, resume=True)
    assert_same_tensors(weights(straight), weights(broken))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 8}, r"\[train\] r = 4, the project has 8"),
        ({"lora_alpha": 3.0}, r"lora_alpha = 64.0, the project has 3.0"),
        ({"target_modules": "q_proj"}, "another adapter"),
        ({"init_adapter": "nowhere"}, "not a finished adapter"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(config: Config, settings: dict[str, Any], message: str) -> None:
    train(changed(config, output="first", max_steps=1), resume=False)
    with pytest.raises(EdgeDSLError, match=message):
        train(changed(config, **{"init_adapter": "first", **settings}), resume=False)


def test_an_adapter_of_another_base_is_refused(config: Config) -> None:
    train(changed(config, output="first", max_steps=1), resume=False)
    document = record(changed(config, output="first"))
    document["base_model"]["sha256"] = "0" * 64
    config.path("first/run.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ModelError, match="the base model 'base' is another"):
        train(changed(config, init_adapter="first"), resume=False)


def test_a_damaged_adapter_is_refused(config: Config) -> None:
    train(changed(config, output="first", max_steps=1), resume=False)
    config.path("first/adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(TrainingError, match="is damaged"):
        train(changed(config, init_adapter="first"), resume=False)


# ---- what cannot work


def test_adapting_layers_that_are_not_there(config: Config) -> None:
    with pytest.raises(TrainingError, match="target_modules = 'nothing'"):
        train(changed(config, target_modules="nothing"), resume=False)
    train(changed(config, target_modules="q_proj, v_proj", max_steps=1), resume=False)
    assert {name.split(".")[-3] for name in weights(config)} == {"q_proj", "v_proj"}


def test_loss_that_is_no_number(config: Config) -> None:
    with pytest.raises(TrainingError, match="the loss is") as caught:
        train(changed(config, learning_rate=1e30, max_grad_norm=0.0, eval_every=100, warmup_ratio=0.0), resume=False)
    assert "learning_rate" in caught.value.hint


def test_pairs_longer_than_the_context(config: Config) -> None:
    row = {"prompt": "off " * 300, "target": "off hall"}
    config.path("data/train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(DataError, match="the model's context 256"):
        train(override(config, "data", {"max_tokens": 2000}), resume=False)


def test_weights_that_are_no_model(config: Config) -> None:
    path = config.path("base")
    path.unlink()
    tiny_llama(path)
    settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps({**settings, "model_type": "nonsense"}), encoding="utf-8")
    with pytest.raises(ModelError):
        train(config, resume=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_4bit_needs_cuda(config: Config) -> None:
    with pytest.raises(ProviderError, match="CUDA") as caught:
        train(changed(config, quantization="4bit"), resume=False)
    assert 'quantization = "none"' in caught.value.hint


@pytest.mark.parametrize(
    ("flags", "precision", "expected"),
    [
        ("fpu avx2 avx512_bf16", "auto", torch.bfloat16),
        ("amx_bf16 amx_tile", "auto", torch.bfloat16),
        ("fpu avx2 avx512f", "auto", torch.float32),
        ("fpu avx2", "bf16", torch.bfloat16),
        ("amx_bf16", "fp32", torch.float32),
    ],
)
def test_auto_takes_bf16_only_where_the_cpu_computes_it(
    tmp_path: Path, flags: str, precision: str, expected: torch.dtype
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n", encoding="utf-8")
    assert hardware.choose_dtype(precision, CPU, cpuinfo) == expected
    assert hardware.choose_dtype("auto", CPU, tmp_path / "none") == torch.float32


def test_bf16_trains_and_keeps_the_adapter_in_fp32(config: Config) -> None:
    train(changed(config, precision="bf16", max_steps=2), resume=False)
    assert {tensor.dtype for tensor in weights(config).values()} == {torch.float32}
    assert record(config)["precision"] == "bfloat16"


def test_two_processes_train_as_one_does(config: Config) -> None:
    # Clips some steps and not others: Adam alone would hide gradients of a wrong size.
    config = changed(config, lora_dropout=0.0, max_grad_norm=3.1)
    single = changed(config, output="single")
    train(single, resume=False)
    double = changed(config, output="double", gradient_accumulation=1)
    names = (*SETTINGS, "output", "max_grad_norm")
    lines = [f"{name} = {json.dumps(getattr(double.train, name))}\n" for name in names]
    with (config.root / "edgedsl.toml").open("a", encoding="utf-8") as file:
        file.writelines(["[train]\n", *lines])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "edgedsl"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*launcher, "train", "--project", str(config.root), "--offline"]
    done = subprocess.run(command, check=True, timeout=240, env=environment, capture_output=True, text=True)
    assert "2 x cpu" in done.stderr
    assert done.stderr.count("adapter written") == 1
    found, expected = weights(double), weights(single)
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)
    metrics = [record(run)["metrics"] for run in (double, single)]
    assert metrics[0]["eval_loss"] == pytest.approx(metrics[1]["eval_loss"], rel=1e-4)
    assert metrics[0]["tokens"] == metrics[1]["tokens"]
