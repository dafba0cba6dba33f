"""The project file ``edgedsl.toml`` and what every command reads from it."""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgedsl.errors import ConfigError

PROJECT_FILE = "edgedsl.toml"


def _field(default: Any, help_text: str, choices: tuple[str, ...] = (), minimum: float | None = None) -> Any:
    return field(default=default, metadata={"help": help_text, "choices": choices, "minimum": minimum})


@dataclass(frozen=True)
class ProjectSection:
    """What the project is made of."""

    name: str = _field("edgedsl-project", "Name of the project; goes into the bundle.")
    base_model: str = _field("smollm2-135m", "Alias, Hugging Face id or local folder of the base model.")
    grammar: str = _field("grammar.lark", "Lark grammar of the language (LALR, start rule `start`).")
    catalogue: str = _field("catalogue.json", "Names the grammar may use; empty when it declares none.")
    prompt: str = _field("", "Prompt template (prompt.json); empty takes the built-in one.")


@dataclass(frozen=True)
class DataSection:
    """The pairs of sentence and program."""

    train: str = _field("data/train.jsonl", "Pairs to learn from.")
    dev: str = _field("data/dev.jsonl", "Pairs that steer training and the export gate.")
    test: str = _field("data/test.jsonl", "Pairs that are only measured.")
    on_bad_row: str = _field("refuse", "What to do with rows that cannot be used: refuse or drop.", ("refuse", "drop"))
    max_tokens: int = _field(512, "Longest prompt plus program, in tokens.", minimum=8)


@dataclass(frozen=True)
class TrainSection:
    """Fine-tuning."""

    output: str = _field("adapter", "Folder of the adapter.")
    init_adapter: str = _field("", "Adapter to go on from, of the same base model and shape; empty starts a new one.")
    r: int = _field(32, "Rank of the LoRA matrices.", minimum=1)
    lora_alpha: float = _field(64.0, "LoRA scale; the update is multiplied by lora_alpha / r.", minimum=0)
    lora_dropout: float = _field(0.0, "Dropout before the LoRA matrices.", minimum=0)
    target_modules: str = _field("all-linear", "Layers to adapt: all-linear, or names separated by commas.")
    learning_rate: float = _field(2e-3, "Peak learning rate (AdamW, linear warm-up, cosine decay).", minimum=0)
    num_epochs: float = _field(2.0, "Passes over the training pairs.", minimum=0)
    max_steps: int = _field(0, "Stop after so many optimizer steps; 0 goes by epochs.", minimum=0)
    batch_size: int = _field(8, "Pairs in one forward pass.", minimum=1)
    gradient_accumulation: int = _field(1, "Forward passes in one optimizer step.", minimum=1)
    gradient_checkpointing: bool = _field(False, "Recompute activations to save memory.")
    warmup_ratio: float = _field(0.05, "Share of the steps with a rising learning rate.", minimum=0)
    weight_decay: float = _field(0.0, "AdamW weight decay.", minimum=0)
    max_grad_norm: float = _field(1.0, "Gradient clipping.", minimum=0)
    precision: str = _field("auto", "auto takes bf16 where the hardware computes it.", ("auto", "fp32", "bf16"))
    quantization: str = _field("none", "4bit trains on a 4-bit base (QLoRA, CUDA only).", ("none", "4bit"))
    eval_every: int = _field(0, "Optimizer steps between evaluations; 0 makes it four times a run.", minimum=0)
    eval_rows: int = _field(32, "Dev pairs decoded under the grammar at each evaluation.", minimum=0)
    eval_loss_rows: int = _field(200, "Dev pairs whose loss is taken at each evaluation.", minimum=1)
    save_every: int = _field(100, "Optimizer steps between checkpoints.", minimum=1)
    patience: int = _field(0, "Evaluations without a new best before stopping; 0 never stops early.", minimum=0)
    seed: int = _field(0, "Seed of shuffling and initialisation.", minimum=0)
    num_threads: int = _field(0, "CPU threads; 0 takes all cores.", minimum=0)


@dataclass(frozen=True)
class ExportSection:
    """From adapter to bundle."""

    output: str = _field("bundle", "Folder of the bundle.")
    adapter: str = _field("", "Adapter to export; empty takes the one of [train].")
    graph: str = _field(
        "auto",
        "fused (our own graph), optimum (traced; any architecture), or auto: fused where it covers the model.",
        ("auto", "fused", "optimum"),
    )
    quantize: str = _field(
        "w8a8",
        "What the bundle serves. On the CPU: w4a8 (4-bit weights, 8-bit activations; needs Linux and AVX2, and is the "
        "fastest there), w8a8 (8-bit weights and activations), int8 or a form of int4 (weights "
        "only), none (fp32). On CUDA: fp16, bf16 (where fp16's range is too small), int4-fp16 (4-bit weights, for GPUs "
        "with little memory or bandwidth). auto measures those of the execution provider and takes the fastest inside "
        "the gate.",
        (
            "auto", "w4a8", "w8a8", "int8", "int4", "int4-kquant", "int4-hqq", "int4-rtn", "int4-mixed", "int4-128",
            "none", "fp16", "bf16", "int4-fp16",
        ),
    )  # fmt: skip
    trim_head: str = _field(
        "auto",
        "Leave out of the head the tokens that no program can hold: always, never, or auto: where they are a fifth or "
        "more. The programs stay the same; another grammar (an output type of Outlines) may then be refused.",
        ("auto", "always", "never"),
    )
    gate: float = _field(0.97, "Least exact match of the quantised model as a share of the fp32 one.", minimum=0)
    eval_rows: int = _field(100, "Dev pairs decoded for the quality of each hop.", minimum=1)
    context_length: int = _field(512, "Longest prompt plus program the bundle takes, in tokens.", minimum=16)
    drafts: bool = _field(True, "Add the training pairs as a source of drafts: fewer calls of the model per answer.")
    drafts_gate: float = _field(
        0.005, "Most answers, as a share, that drafts may change; above it the bundle decodes without.", minimum=0
    )
    smoke: bool = _field(False, "Run everything on a random 2-layer model of the same architecture.")


@dataclass(frozen=True)
class GenerateSection:
    """Decoding defaults."""

    max_tokens: int = _field(128, "Most tokens of a program.", minimum=1)
    temperature: float = _field(0.0, "0 is greedy.", minimum=0)
    top_k: int = _field(0, "Sample from the k likeliest tokens; 0 is off.", minimum=0)
    top_p: float = _field(1.0, "Sample from the likeliest tokens that hold this mass.", minimum=0)
    seed: int = _field(0, "Seed of sampling.", minimum=0)
    allow: str = _field("", "Names of the catalogue that may be used, separated by commas; empty allows all.")
    deny: str = _field("", "Names of the catalogue that may not be used, separated by commas.")
    spans: str = _field("", "Terminals, separated by commas, whose texts have to be words of the sentence in a row.")


@dataclass(frozen=True)
class RuntimeSection:
    """Where generation runs."""

    execution_provider: str = _field("cpu", "cpu or cuda; the one asked for runs, or it is an error.", ("cpu", "cuda"))
    num_threads: int = _field(0, "Threads of a model call; 0 takes every core.", minimum=0)
    exact: bool = _field(
        False,
        "Decode token by token, without drafts. Export says how many answers differ (usually none; w4a8: never, and it "
        "keeps its drafts).",
    )
    cuda_graphs: bool = _field(True, "On CUDA, replay calls of a few tokens as CUDA graphs; off is slower.")


@dataclass(frozen=True)
class ServeSection:
    """The HTTP server."""

    host: str = _field("127.0.0.1", "Address to listen on.")
    port: int = _field(8010, "Port; 0 takes a free one.", minimum=0)
    max_queue: int = _field(64, "Requests that may wait; more are answered 503.", minimum=0)
    streams: int = _field(
        1,
        "Requests that run at a time. From 2 on they share calls of the model where that is quicker than drafts; an "
        "answer can then differ where two programs are nearly as likely.",
        minimum=1,
    )
    api_key_file: str = _field("", "File with one API key a line; needed off the loopback address.")
    drain_s: float = _field(30.0, "Seconds that running requests get after SIGTERM.", minimum=0)
    keep_disagreements: str = _field(
        "", "Folder for programs on which the two grammar engines disagree (no sentences); empty keeps none."
    )


@dataclass(frozen=True)
class BenchSection:
    """Measurements."""

    num_prompts: int = _field(50, "Sentences to measure.", minimum=1)
    num_warmup: int = _field(3, "Sentences before measuring.", minimum=0)
    output: str = _field("", "Folder for result.json and report.html; empty writes none.")


@dataclass(frozen=True)
class Config:
    """The whole project file. ``root`` is the folder that relative paths start from."""

    root: Path = Path()
    project: ProjectSection = ProjectSection()
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    export: ExportSection = ExportSection()
    generate: GenerateSection = GenerateSection()
    runtime: RuntimeSection = RuntimeSection()
    serve: ServeSection = ServeSection()
    bench: BenchSection = BenchSection()

    def path(self, name: str) -> Path:
        """A path of the project file as seen from here."""
        return self.root / Path(name).expanduser()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without ``root``: a resolved configuration holds no machine path."""
        sections = asdict(self)
        del sections["root"]
        return sections


SECTIONS: dict[str, type] = {f.name: typing.get_type_hints(Config)[f.name] for f in fields(Config) if f.name != "root"}


def load_config(path: Path | None = None) -> Config:
    """Read a project file; without ``path`` the one in the current folder, or the defaults where there is none.

    Raises:
        ConfigError: missing or malformed file, unknown key, value of a wrong type or out of range.
    """
    if path is None and not Path(PROJECT_FILE).exists():
        return Config(root=Path())
    path = path or Path(PROJECT_FILE)
    if path.is_dir():
        path = path / PROJECT_FILE
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ConfigError(f"project file '{path}' does not exist", hint="run 'edgedsl init NAME' to write one") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"project file '{path}' is not TOML: {exc}", hint="mend the line named above") from exc
    except OSError as exc:
        raise ConfigError(f"project file '{path}' cannot be read: {exc.strerror}") from exc
    return from_document(document, root=path.parent, source=str(path))


def from_document(document: Mapping[str, Any], *, root: Path, source: str) -> Config:
    """Build a :class:`Config` from parsed TOML."""
    _check_names(document, SECTIONS, f"{source}: section")
    config = Config(root=root)
    for name, values in document.items():
        if not isinstance(values, Mapping):
            raise ConfigError(f"{source}: '{name}' is {values!r}, expected a section [{name}]")
        config = replace(config, **{name: _section(SECTIONS[name], values, f"{source}: [{name}]")})
    return config


def override(config: Config, section: str, values: Mapping[str, Any]) -> Config:
    """The configuration with the given values of one section; ``None`` leaves a value as it is."""
    given = {name: value for name, value in values.items() if value is not None}
    current = asdict(getattr(config, section))
    return replace(config, **{section: _section(SECTIONS[section], {**current, **given}, f"[{section}]")})


def _section(kind: type, values: Mapping[str, Any], source: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    _check_names(values, known, f"{source}: key")
    types = typing.get_type_hints(kind)
    return kind(
        **{
            name: _checked(value, types[name], known[name].metadata, f"{source} {name}")
            for name, value in values.items()
        }
    )


def _check_names(given: Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{what} '{name}' is not known", hint=hint)


def _checked(value: Any, kind: type, metadata: Mapping[str, Any], what: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{what} is {value!r}, expected {kind.__name__}")
    if metadata["choices"] and value not in metadata["choices"]:
        raise ConfigError(f"{what} is {value!r}, expected one of {', '.join(metadata['choices'])}")
    if metadata["minimum"] is not None and not metadata["minimum"] <= typing.cast(float, value) < float("inf"):
        raise ConfigError(f"{what} is {value!r}, expected at least {metadata['minimum']:g}")
    return value
