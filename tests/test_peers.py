"""edgedsl beside its peers: the driver with made-up contestants, the weights, and the GGUF file."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from tiny import CATALOGUE, GRAMMAR, PAIRS, tiny_llama, tiny_tokenizer, write_pairs

from edgedsl.bench.peers import __main__ as command_line
from edgedsl.bench.peers import environments, measure, models, specs
from edgedsl.bench.peers.contest import Answer, Entrant, Judge, Question, Standing, contest, contest_of_streams
from edgedsl.bench.peers.gguf_file import write_gguf
from edgedsl.bench.peers.process import WorkerProcess
from edgedsl.bench.peers.specs import PEERS, Peer, Spec
from edgedsl.bench.peers.table_rows import failures, ratios, rows
from edgedsl.bench.peers.weights import check_same, read_weights, write_weights
from edgedsl.bench.peers.worker import Worker, load
from edgedsl.bench.peers.worker import together as worker_together
from edgedsl.bench.table import read_result
from edgedsl.bundle.manifest import open_bundle
from edgedsl.catalogue import Catalogue, bind
from edgedsl.config import Config
from edgedsl.errors import ConfigError, ExportError, GenerationError, ModelError
from edgedsl.grammar import Grammar
from edgedsl.runtime.engine import Engine

TOKENIZER = tiny_tokenizer()
CONTESTANT = '''
import os, sys, time
from pathlib import Path

print("noise on standard output")

class Contestant:
    """Says what its script has for a prompt; `die`, `die once`, `hang` and `fail` are done instead, `wait` before."""

    def __init__(self, settings):
        if settings.get("cannot_open"):
            raise RuntimeError("no such model")
        self.versions = {"fake": "1"}
        self._settings = settings
        self._log = Path(settings["log"])
        if settings.get("slots"):
            self.generate_together = Slots(self)

    @staticmethod
    def build(settings):
        if settings["quantization"] == "q4_0":
            raise RuntimeError("cannot quantise")
        Path(settings["target"]).write_text(settings["quantization"])

    def tokens(self, text):
        return self._settings["tokens"][text]

    def generate(self, prompt, token_ids, max_tokens, on_token):
        with self._log.open("a") as file:
            file.write(f"{self._settings['name']} {prompt}\\n")
        times = self._log.read_text().count(f"{self._settings['name']} {prompt}\\n")
        deed = self._settings["deeds"].get(prompt)
        if deed and (deed != "die once" or times == 1):
            if deed.startswith("die"):
                os._exit(3)
            if deed == "hang":
                time.sleep(60)
            if deed == "fail":
                raise ValueError("made up")
            time.sleep(0.2)
        found = self._settings["script"].get(prompt, [])[:max_tokens]
        for _ in found:
            on_token()
        return found


class Slots:
    def __init__(self, contestant):
        self._one = contestant

    def __call__(self, requests, num_streams, clock):
        found = []
        for index, request in enumerate(requests):
            clock.start(index)
            found.append(self._one.generate(**request, on_token=lambda: clock.token(index)))
            clock.end(index)
        return found
'''


@pytest.fixture
def grammar() -> Grammar:
    catalogue = Catalogue.from_lists(CATALOGUE)
    return Grammar(bind(GRAMMAR, catalogue), catalogue=catalogue)


@pytest.fixture
def judge(grammar: Grammar) -> Judge:
    return Judge(grammar, TOKENIZER)


@pytest.fixture
def questions() -> list[Question]:
    return [Question(prompt, tuple(TOKENIZER.encode_plain(prompt)), target) for prompt, target in PAIRS]


@pytest.fixture
def entrant(tmp_path: Path) -> Iterator[Callable[..., Entrant]]:
    """Makes a made-up contestant; all of them are ended at the end."""
    module = tmp_path / "fake_peer.py"
    module.write_text(CONTESTANT)
    made: list[Entrant] = []

    def make(name: str, answers: dict[str, str] | None = None, timeout_s: float = 30.0, **settings: Any) -> Entrant:
        answers = dict(PAIRS) if answers is None else answers
        own = {
            "name": name,
            "log": str(tmp_path / "log"),
            "script": {prompt: TOKENIZER.encode_plain(text) for prompt, text in answers.items()},
            "tokens": {prompt: TOKENIZER.encode_plain(prompt) for prompt, _ in PAIRS},
            "deeds": {},
            **settings,
        }
        made.append(Entrant(name, partial(WorkerProcess, Path(sys.executable), module, 1), own, timeout_s))
        return made[-1]

    yield make
    for item in made:
        item.close()


def compete(entrants: list[Entrant], questions: list[Question], judge: Judge, num_warmup: int = 0) -> None:
    contest(entrants, questions, judge, max_tokens=64, num_warmup=num_warmup, pause_s=0.0)


def test_contestants_take_turns_question_by_question(
    entrant: Callable[..., Entrant], questions: list[Question], judge: Judge, tmp_path: Path
) -> None:
    entrants = [entrant("a"), entrant("b"), entrant("c")]
    compete(entrants, questions[:2], judge, num_warmup=1)
    first, second = questions[0].prompt, questions[1].prompt
    turns = [f"{name} {prompt}" for prompt in (first, first, second) for name in "abc"]
    assert (tmp_path / "log").read_text().splitlines() == turns
    assert [len(item.answers) for item in entrants] == [2, 2, 2]
    assert all(answer.is_exact and answer.parses for item in entrants for answer in item.answers)
    assert all(0 <= answer.first_ms <= answer.end_ms for item in entrants for answer in item.answers)


def compete_in_streams(entrants: list[Entrant], questions: list[Question], judge: Judge, **limits: float) -> None:
    contest_of_streams(entrants, questions, judge, max_tokens=64, num_streams=2, pause_s=0.0, **limits)


def test_streams_of_one_who_has_no_slots_wait_for_each_other(
    entrant: Callable[..., Entrant], questions: list[Question], judge: Judge, tmp_path: Path
) -> None:
    slow = entrant("slow", deeds={questions[0].prompt: "wait"})
    compete_in_streams([slow, entrant("other")], questions, judge)
    assert [answer.is_exact for answer in slow.answers] == [True] * 4
    first, second, third, _ = slow.answers
    assert first.end_ms >= 200
    assert second.end_ms >= 200, "the second stream asked when the first did"
    assert third.end_ms < first.end_ms, "the first stream asks again when it has its answer"
    assert slow.seconds >= 0.2
    asked = [line.split(" ", 1) for line in (tmp_path / "log").read_text().splitlines()]
    prompts = [question.prompt for question in questions]
    assert [name for name, _ in asked] == (["slow"] * 4 + ["other"] * 4) * 2, "a round to warm up, then one that counts"
    assert [prompt for _, prompt in asked] == prompts * 4


def test_slots_are_used_where_there_are_any(
    entrant: Callable[..., Entrant], questions: list[Question], judge: Judge
) -> None:
    able = entrant("able", slots=True)
    compete_in_streams([able], questions, judge)
    assert [answer.is_exact for answer in able.answers] == [True] * 4
    assert Standing(able).answers_per_s == pytest.approx(4 / able.seconds)
    assert [answer.end_ms >= answer.first_ms >= 0 for answer in able.answers] == [True] * 4


class Told:
    """A clock that keeps what it is told."""

    def __init__(self) -> None:
        self.starts_and_ends: list[tuple[str, int]] = []
        self.num_tokens = Counter[int]()

    def start(self, index: int) -> None:
        self.starts_and_ends.append(("start", index))

    def token(self, index: int) -> None:
        self.num_tokens[index] += 1

    def end(self, index: int) -> None:
        self.starts_and_ends.append(("end", index))


def own_contestant(bundle: Path, num_streams: int) -> Any:
    return load(measure.OWN)({"model": str(bundle), "num_threads": 1, "num_streams": num_streams})  # type: ignore[call-arg]


def asked(*budgets: int) -> list[dict[str, Any]]:
    return [{"prompt": PAIRS[n][0], "token_ids": [], "max_tokens": budget} for n, budget in enumerate(budgets)]


def test_edgedsl_has_a_slot_for_each_stream(tiny_bundle: Path) -> None:
    contestant, clock = own_contestant(tiny_bundle, 2), Told()
    requests = asked(24, 6, 24)
    found = contestant.generate_together(requests, 2, clock)
    # Its second stream asks again while the first one waits for its answer.
    assert clock.starts_and_ends[:4] == [("start", 0), ("start", 1), ("end", 1), ("start", 2)]
    assert sorted(clock.starts_and_ends[4:]) == [("end", 0), ("end", 2)]
    grammar = contestant._engine.grammar
    assert all(grammar.accepts(TOKENIZER.decode(token_ids)) for token_ids in found)
    assert all(len(ids) <= request["max_tokens"] for ids, request in zip(found, requests, strict=True))
    assert all(0 < clock.num_tokens[n] <= len(token_ids) for n, token_ids in enumerate(found))
    answers = worker_together(contestant, requests, 2)["answers"]
    assert [answer["token_ids"] for answer in answers] == found
    assert all(0 < answer["first_ms"] < answer["end_ms"] for answer in answers)


def test_edgedsl_in_slots_fails_as_one_of_all(tiny_bundle: Path) -> None:
    worker = Worker(lambda settings: own_contestant(tiny_bundle, 2))  # type: ignore[arg-type]
    worker.answer({"open": {}})
    requests = [*asked(24, 24), {"prompt": " ", "token_ids": [], "max_tokens": 24}]
    answer = worker.answer({"together": {"requests": requests, "num_streams": 2}})
    assert answer == {"error": "RequestError: the sentence is empty"}


@pytest.mark.parametrize(("num_streams", "has_slots"), [(1, True), (2, False)])
def test_edgedsl_answers_one_after_the_other_where_it_has_no_slots(
    num_streams: int, has_slots: bool, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_bundle, opened = Engine.from_bundle, []

    def from_bundle(*args: Any, **settings: Any) -> Engine:
        opened.append(settings["num_slots"])
        engine = open_bundle(*args, **settings)
        if not has_slots:  # as a graph whose cache grows says
            engine.decoder.info = replace(engine.decoder.info, kv_layout="growing")
        return engine

    monkeypatch.setattr(Engine, "from_bundle", from_bundle)
    contestant = own_contestant(tiny_bundle, num_streams)
    assert opened == [num_streams]
    assert not hasattr(contestant, "generate_together")


def test_a_failure_among_streams_is_one_of_all(
    entrant: Callable[..., Entrant], questions: list[Question], judge: Judge
) -> None:
    failing = entrant("failing", deeds={questions[3].prompt: "fail"})
    compete_in_streams([failing], questions, judge)
    assert [answer.error for answer in failing.answers] == ["ValueError: made up"] * 4
    assert Standing(failing).answers_per_s is None


def test_streams_end_in_time_with_a_round_that_counts(
    entrant: Callable[..., Entrant], questions: list[Question], judge: Judge
) -> None:
    entrants = [entrant("a"), entrant("b")]
    compete_in_streams(entrants, questions * 3, judge, max_seconds=0.0)
    assert [len(item.answers) for item in entrants] == [4, 4]


def test_nobody_is_asked_more_than_the_others_when_time_is_up(
    entrant: Callable[..., Entrant], questions: list[Question], judge: Judge
) -> None:
    entrants = [entrant("a"), entrant("b")]
    contest(entrants, questions, judge, max_tokens=64, num_warmup=0, pause_s=0.0, max_seconds=0.0)
    assert [len(item.answers) for item in entrants] == [1, 1]


def test_wrong_and_unparsed_answers_are_counted(
    entrant: Callable[..., Entrant], questions: list[Question], judge: Judge
) -> None:
    given = [PAIRS[0][1], "off kitchen", "off", "off cellar"]  # exact, wrong, cut off, a name that is not there
    fake = entrant("fake", {prompt: text for (prompt, _), text in zip(PAIRS, given, strict=True)})
    compete([fake], questions, judge)
    (row,) = rows([fake])
    assert (row["answers"], row["errors"], row["unparsed"], row["wrong"]) == (4, 0, 2, 1)
    assert row["exact_match"] == 0.25
    assert row["misplaced_names"] == 0


def test_a_name_of_another_owner_is_misplaced() -> None:
    scoped = 'start: FUNCTION "." FIELD\n%declare FUNCTION FIELD\n'
    catalogue = Catalogue.from_dict({"FUNCTION": {"lamp": {"FIELD": ["colour"]}, "heat": {"FIELD": ["level"]}}})
    judge = Judge(Grammar(bind(scoped, catalogue), catalogue=catalogue), TOKENIZER)
    texts = {"lamp.colour": (True, False), "lamp.level": (False, True), "lamp.size": (False, False)}
    for text, (parses, is_misplaced) in texts.items():
        reply = {"token_ids": TOKENIZER.encode_plain(text), "first_ms": 1.0, "end_ms": 2.0}
        answer = judge.answer(reply, "lamp.colour")
        assert (answer.parses, answer.is_misplaced) == (parses, is_misplaced), text


def test_errors_and_a_worker_that_dies_are_counted_and_others_go_on(
    entrant: Callable[..., Entrant], questions: list[Question], judge: Judge
) -> None:
    prompts = [question.prompt for question in questions]
    good = entrant("good")
    bad = entrant("bad", deeds={prompts[0]: "fail", prompts[1]: "die once"})
    compete([good, bad], questions, judge)
    assert [answer.error is None for answer in good.answers] == [True] * 4
    assert [answer.error for answer in bad.answers] == ["ValueError: made up", "the process ended with 3", None, None]
    assert all(answer.end_ms > 0 for answer in bad.answers)
    row = rows([good, bad])[1]
    assert (row["errors"], row["exact_match"]) == (2, 0.5)
    assert failures([good, bad]) == [
        "bad: 1 times ValueError: made up.",
        "bad: 1 times the process ended with 3.",
    ]


def test_a_worker_that_dies_again_and_again_is_given_up(
    entrant: Callable[..., Entrant], questions: list[Question], judge: Judge, tmp_path: Path
) -> None:
    bad = entrant("bad", deeds={question.prompt: "die" for question in questions})
    compete([bad], questions, judge)
    assert bad.answers[-1].error == "given up after 3 starts"
    assert len((tmp_path / "log").read_text().splitlines()) == 3
    row = rows([bad])[0]
    assert (row["errors"], row["answers_per_s"], row["ttft_ms_p50"], row["exact_match"]) == (4, None, None, 0.0)


def test_a_worker_that_hangs_is_ended(entrant: Callable[..., Entrant], questions: list[Question], judge: Judge) -> None:
    bad = entrant("bad", timeout_s=1.0, deeds={questions[0].prompt: "hang"})
    compete([bad], questions[:2], judge)
    assert [answer.error for answer in bad.answers] == ["no answer in 1 s", None]


def test_a_contestant_that_cannot_be_opened_is_all_errors(
    entrant: Callable[..., Entrant], questions: list[Question], judge: Judge
) -> None:
    bad = entrant("bad", cannot_open=True)
    bad.open()
    assert bad.failure == "RuntimeError: no such model"
    compete([bad], questions, judge)
    assert {answer.error for answer in bad.answers} == {"RuntimeError: no such model"}
    assert rows([bad])[0]["load_ms"] is None


def test_module_that_cannot_be_imported(tmp_path: Path) -> None:
    module = tmp_path / "bad_peer.py"
    module.write_text("import no_such_package_at_all\n")
    worker = WorkerProcess(Path(sys.executable), module, 1)
    with pytest.raises(GenerationError, match="no_such_package_at_all"):
        worker.ask({"open": {}}, 30)
    worker.close()


def standing(label: str, end_ms: float, exact: int, num: int = 10) -> Entrant:
    answers = [Answer(None, 5, end_ms / 4, end_ms, True, n < exact) for n in range(num)]
    return Entrant(label, lambda: pytest.fail("not to be started"), {}, answers=answers)


def test_ratios_are_of_the_first_contestant() -> None:
    entrants = [standing("ours", 100, 8), standing("slow", 400, 8), standing("quick but wrong", 200, 7)]
    ours, slow, quick = rows(entrants)
    assert (ours["answers_per_s"], ours["ttft_ms_p50"], ours["tpot_ms_p50"]) == (10.0, 25.0, 18.75)
    assert (ours["answers_ratio"], slow["answers_ratio"], slow["ttft_ratio"]) == (1.0, 4.0, 4.0)
    assert (slow["same_exact_match"], quick["same_exact_match"]) == ("yes", "no")
    found = ratios(entrants, ["edgedsl", "peer", "peer"])
    assert list(found["peers"]) == ["peer"]
    assert found["peers"]["peer"]["contestant"] == "slow"  # the quicker one does not answer as well
    assert found["exact_match"] == 0.8


def test_half_a_point_of_exact_match_is_the_same() -> None:
    entrants = [standing("ours", 100, 100, 200), standing("near", 100, 99, 200), standing("far", 100, 98, 200)]
    assert [row["same_exact_match"] for row in rows(entrants)] == ["yes", "yes", "no"]


def test_contestants_are_read_from_text() -> None:
    assert Spec.parse("llama-cpp") == Spec("llama-cpp", "q8_0")
    spec = Spec.parse("genai:int4+ngram+flat")
    assert (spec.label, spec.is_flat) == ("onnxruntime-genai int4 ngram flat", True)
    assert spec.settings() == {"speculative": {"ngram_size": 3, "max_draft_tokens": 4}}
    assert measure.parse_specs("genai, genai:int8") == [Spec("genai", "int8")]
    for text in ("vllm", "genai:q8_0", "llama-cpp:q8_0+ngram", "genai:int8+"):
        with pytest.raises(ConfigError):
            Spec.parse(text)
    with pytest.raises(ConfigError, match="no peer is named"):
        measure.parse_specs(",")


def test_llama_cpp_is_compiled_without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(specs.machine, "instruction_sets", lambda: ["avx2", "fma", "avx512f", "amx_tile", "amx_int8"])
    flags = specs.cmake_flags("cpu")
    assert {"-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_AVX512=ON", "-DGGML_AVX512_VNNI=OFF"} <= set(flags)
    assert {f"-DGGML_AMX_{kind}=OFF" for kind in ("TILE", "INT8", "BF16")} <= set(flags)
    assert specs.cmake_flags("cuda") == [*flags, "-DGGML_CUDA=ON"]


def test_peers_on_a_gpu_have_packages_and_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(PEERS[name], PEERS[f"{name}-cuda"]) for name in ("llama-cpp", "genai", "transformers")]
    assert [(on_cpu.device, on_gpu.device) for on_cpu, on_gpu in pairs] == [("cpu", "cuda")] * 3
    assert all(on_gpu.label == f"{on_cpu.label} CUDA" for on_cpu, on_gpu in pairs)
    assert {"onnxruntime-genai-cuda==0.18.0", "onnxruntime-gpu==1.31.1"} <= set(PEERS["genai-cuda"].packages)
    assert not {"onnxruntime-genai==0.18.0", "onnxruntime==1.31.1"} & set(PEERS["genai-cuda"].packages)
    assert environments._wanted(PEERS["llama-cpp-cuda"])["cmake_flags"][-1] == "-DGGML_CUDA=ON"
    built: list[dict[str, Any]] = []

    def record(spec: Spec, folder: Path, target: Path, settings: dict[str, Any], say: Any) -> Path:
        built.append({"target": str(target.relative_to(folder)), **settings})
        return target

    monkeypatch.setattr(models, "_built", record)
    merged = tiny_llama(tmp_path / "merged")
    build = partial(models.build, folder=tmp_path, merged=merged, weights=read_weights_of(merged), num_threads=1)
    for text in ("genai-cuda", "genai-cuda:int4+graphs", "genai:int8+ngram"):
        build(Spec.parse(text), say=lambda _: None)
    assert [(entry["device"], Path(entry["target"]).name) for entry in built] == [
        ("cuda", "fp16"), ("cuda", "int4-graphs"), ("cpu", "int8-drafted")
    ]  # fmt: skip
    assert [entry["target"].split("/")[0] for entry in built] == ["genai-cuda", "genai-cuda", "genai"]
    assert [sorted(entry["options"]) for entry in built] == [
        ["prune_lm_head"],
        ["accuracy_level", "block_size", "enable_cuda_graph", "prune_lm_head"],
        ["accuracy_level", "block_size"],
    ]
    assert build(Spec.parse("transformers-cuda:bf16"), say=lambda _: None) == merged


def plan_of(peers: str, execution_provider: str) -> measure.Plan:
    specs_of = measure.parse_specs(peers)
    return measure.Plan([], Path("m"), Path("p"), specs_of, Path("f"), execution_provider=execution_provider)


@pytest.mark.parametrize(
    ("peers", "execution_provider", "found"),
    [("genai", "cpu", []), ("genai", "cuda", ["H200"]), ("genai-cuda,genai", "cpu", ["H200"])],
)
def test_the_gpu_is_named_where_one_takes_part(peers: str, execution_provider: str, found: list[str]) -> None:
    assert measure.gpus_of(plan_of(peers, execution_provider), {"gpus": ["H200"]}) == found


def test_edgedsl_runs_where_it_is_told(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(tiny_bundle)
    entrant = measure._own_entrant(bundle, 1, plan_of("genai", "cuda"))
    assert entrant.settings["execution_provider"] == "cuda"
    monkeypatch.setattr(Engine, "from_bundle", lambda *_, **settings: pytest.fail(settings["execution_provider"]))
    with pytest.raises(pytest.fail.Exception, match="cuda"):
        load(measure.OWN)(entrant.settings)


def test_peers_of_the_device_are_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plans: list[measure.Plan] = []

    def record(plan: measure.Plan, command: str, say: Any) -> dict[str, Any]:
        plans.append(plan)
        assert command.endswith("--execution-provider cuda")
        return {"ratios": {}, "rows": []}

    monkeypatch.setattr(command_line, "measure", record)
    arguments = ["--bundle", "b", "--merged", "m", "--pairs", "p", "--folder", "f", "--output", str(tmp_path / "o")]
    assert command_line.main(["run", *arguments, "--execution-provider", "cuda"]) == 0
    assert [spec.peer for spec in plans[0].specs] == ["llama-cpp-cuda", "genai-cuda", "transformers-cuda"]
    assert plans[0].execution_provider == "cuda"


def test_environment_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], log: Path, variables: dict[str, str] | None = None) -> None:
        commands.append(command)
        if "venv" in command:
            python = specs.python_of("llama-cpp", tmp_path)
            python.parent.mkdir(parents=True)
            python.touch()

    monkeypatch.setattr(environments, "_run", run)
    with pytest.raises(ConfigError, match="has no environment"):
        environments.check("llama-cpp", tmp_path)
    environments.setup("llama-cpp", tmp_path)
    assert ["wheel" in command for command in commands] == [False, True, False]
    assert (tmp_path / ".gitignore").read_text() == "*\n"
    environments.check("llama-cpp", tmp_path)
    environments.setup("llama-cpp", tmp_path)
    assert len(commands) == 3
    monkeypatch.setattr(environments, "cmake_flags", lambda device: ["-DOTHER=ON"])
    with pytest.raises(ConfigError, match="has no environment"):
        environments.check("llama-cpp", tmp_path)


def test_what_cannot_be_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environments, "_wanted", lambda peer: {})
    script = "print('no wheel for this machine'); raise SystemExit(4)"
    with pytest.raises(ConfigError, match=r"ended with 4: .*no wheel for this machine") as caught:
        environments._run([sys.executable, "-c", script], tmp_path / "setup.log")
    assert "setup.log" in caught.value.hint


def test_weights_are_those_of_the_bundle(tiny_project: Config, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    weights = write_weights(tiny_project, folder, offline=True)
    check_same(weights, open_bundle(tiny_bundle).manifest)
    assert read_weights(folder) == weights
    assert (folder / "tokenizer.json").read_bytes() == (tiny_bundle / "tokenizer.json").read_bytes()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert write_weights(tiny_project, folder, offline=True) == weights
    assert (folder / "model.safetensors").stat().st_mtime_ns == written  # not merged again
    other = type(weights)(weights.base_model, weights.base_sha256, "0" * 64)
    with pytest.raises(ConfigError, match="another adapter"):
        check_same(other, open_bundle(tiny_bundle).manifest)
    with pytest.raises(ConfigError, match="holds no merged weights"):
        read_weights(tmp_path)


def test_gguf_file_holds_the_weights(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    folder = tiny_llama(tmp_path / "merged")
    write_gguf(folder, tmp_path / "f16.gguf")
    reader = GGUFReader(tmp_path / "f16.gguf")
    weights = load_file(folder / "model.safetensors")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert "output.weight" not in found  # the head is tied
    assert len(found) == len(weights)
    assert np.array_equal(found["blk.1.ffn_up.weight"], weights["model.layers.1.mlp.up_proj.weight"].astype(np.float16))
    assert found["blk.0.attn_norm.weight"].dtype == np.float32
    rows_of_heads = weights["model.layers.0.self_attn.k_proj.weight"].astype(np.float16).reshape(2, 16, 32)
    order = [row for pair in range(8) for row in (pair, pair + 8)]  # neighbours are rotated together
    assert np.array_equal(found["blk.0.attn_k.weight"].reshape(2, 16, 32), rows_of_heads[:, order])
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["tokenizer.ggml.tokens"] == [TOKENIZER._backend.id_to_token(i) for i in range(TOKENIZER.vocab_size)]
    assert fields["tokenizer.ggml.token_type"][-2:] == [3, 3]  # the special tokens
    assert (fields["llama.attention.head_count_kv"], fields["llama.rope.dimension_count"]) == (2, 16)
    assert (fields["tokenizer.ggml.pre"], fields["tokenizer.ggml.eos_token_id"]) == ("gpt-2", TOKENIZER.vocab_size - 1)


def test_gguf_is_refused_for_other_models(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "merged")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for change, message in (({"model_type": "mamba"}, "mamba"), ({"rope_scaling": {"type": "linear"}}, "rotary")):
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(ModelError, match=message):
            write_gguf(folder, tmp_path / "f16.gguf")
    path.write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="pre-tokenizers"):
        write_gguf(folder, tmp_path / "f16.gguf")


@pytest.fixture
def fake_peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The made-up contestant stands for llama.cpp; it needs no environment."""
    module = tmp_path / "fake_peer.py"
    module.write_text(CONTESTANT)
    answers = {
        "name": "fake",
        "log": str(tmp_path / "log"),
        "deeds": {},
        "script": {prompt: TOKENIZER.encode_plain(target) for prompt, target in PAIRS},
        "tokens": {prompt: [0] if n == 0 else TOKENIZER.encode_plain(prompt) for n, (prompt, _) in enumerate(PAIRS)},
    }
    peer = PEERS["llama-cpp"]
    fake = Peer(
        peer.label,
        peer.packages,
        str(module),
        peer.quantizations,
        peer.notation,
        peer.allows,
        {"x": answers},
        has_slots=True,
    )
    monkeypatch.setitem(PEERS, "llama-cpp", fake)
    for place in (measure, models):
        monkeypatch.setattr(place, "python_of", lambda peer, folder: Path(sys.executable))
    (tmp_path / "peers" / "llama-cpp").mkdir(parents=True)
    monkeypatch.setattr(environments, "check", lambda peer, folder: None)
    monkeypatch.setattr(environments, "setup", lambda peer, folder, say: None)


@pytest.mark.usefixtures("fake_peers")
def test_all_measures_one_stream_and_eight(project: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(project.path(project.data.dev))
    output = tmp_path / "peers-tiny_box_202611.json"
    arguments = [
        "all", "--project", str(project.root), "--peers", "llama-cpp:q8_0+x", "--folder", str(tmp_path / "peers"),
        "--output", str(output), "--num-warmup", "0", "--num-threads", "1", "--quick",
    ]  # fmt: skip
    assert command_line.main(arguments) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["first"] == found["8 streams"]["first"] == "edgedsl w8a8"
    assert found["8 streams"]["peers"]["llama-cpp"]["exact_match"] == 1.0
    assert read_result(output)["title"].endswith("one stream")
    together = read_result(tmp_path / "peers-8-streams-tiny_box_202611.json")
    assert together["title"].endswith("8 streams")
    assert [row["answers"] for row in together["rows"]] == [4, 4]
    assert together["caption"]["command"].endswith("--streams 8")
    assert [row["errors"] for row in together["rows"]] == [0, 0]
    opened = {
        path.name: read_result(path)["contestants"]["edgedsl w8a8"]["settings"] for path in tmp_path.glob("p*.json")
    }
    assert [opened[name]["num_streams"] for name in sorted(opened)] == [8, 1]
    assert any("edgedsl (from a fused graph) and llama.cpp have a slot" in line for line in together["caveats"])


@pytest.mark.usefixtures("fake_peers")
def test_command_measures_and_ends_with_the_ratios(
    tiny_project: Config, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_weights(tiny_project, tmp_path / "weights", offline=True)
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    output = tmp_path / "peers-tiny_box_202611.json"
    arguments = [
        "run", "--bundle", str(tiny_bundle), "--merged", str(tmp_path / "weights"), "--pairs", str(pairs),
        "--peers", "llama-cpp:q8_0+x,llama-cpp:q4_0+x", "--folder", str(tmp_path / "peers"), "--output", str(output),
        "--num-warmup", "0", "--num-threads", "1", "--quick",
    ]  # fmt: skip
    assert command_line.main(arguments) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["first"], list(found["peers"])) == ("edgedsl w8a8", ["llama-cpp"])
    assert found["peers"]["llama-cpp"]["contestant"] == "llama.cpp q8_0 x"
    record = read_result(output)
    ours, fake, failed = record["rows"]
    assert (ours["errors"], ours["unparsed"], ours["answers"]) == (0, 0, 4)
    assert (fake["exact_match"], failed["errors"]) == (1.0, 4)
    assert fake["answers_ratio"] < 1
    assert "llama.cpp q8_0 x: its tokenizer splits 1 of 4 sentences otherwise." in record["caveats"]
    assert any("cannot build q4_0: RuntimeError: cannot quantise" in caveat for caveat in record["caveats"])
    assert "gbnf_chars" in record["contestants"]["llama.cpp q8_0 x"]["settings"]
    assert str(tmp_path) not in json.dumps({**record, "contestants": None})
    (kept,) = (tmp_path / "peers" / "llama-cpp" / "models").glob("*/q8_0.gguf")
    assert kept.read_text() == "q8_0"


@pytest.mark.usefixtures("fake_peers")
def test_bundle_of_other_weights_is_refused(
    tiny_project: Config, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "weights"
    write_weights(tiny_project, folder, offline=True)
    identity = json.loads((folder / "weights.json").read_text())
    (folder / "weights.json").write_text(json.dumps({**identity, "adapter_sha256": "0" * 64}))
    arguments = [
        "run", "--bundle", str(tiny_bundle), "--merged", str(folder), "--pairs", str(write_pairs(tmp_path / "p.jsonl")),
        "--peers", "llama-cpp:q8_0+x", "--folder", str(tmp_path / "peers"), "--output", str(tmp_path / "out.json"),
    ]  # fmt: skip
    assert command_line.main(arguments) == ConfigError.exit_code
    assert "another adapter" in capsys.readouterr().err


def test_missing_environment_is_an_error_with_the_command(
    tiny_project: Config, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_weights(tiny_project, tmp_path / "weights", offline=True)
    arguments = [
        "run", "--bundle", str(tiny_bundle), "--merged", str(tmp_path / "weights"),
        "--pairs", str(write_pairs(tmp_path / "p.jsonl")), "--folder", str(tmp_path), "--output", str(tmp_path / "o"),
    ]  # fmt: skip
    assert command_line.main(arguments) == ConfigError.exit_code
    assert "edgedsl.bench.peers setup llama-cpp" in capsys.readouterr().err


def test_model_that_cannot_be_built(tmp_path: Path, fake_peers: None) -> None:
    merged = tiny_llama(tmp_path / "merged")
    weights = read_weights_of(merged)
    folder = tmp_path / "peers"
    build = partial(models.build, folder=folder, merged=merged, weights=weights, num_threads=1, say=lambda _: None)
    assert build(Spec("llama-cpp", "f16")).name == "f16.gguf"
    with pytest.raises(ExportError, match="cannot quantise"):
        build(Spec("llama-cpp", "q4_0"))
    assert [path.name for path in (folder / "llama-cpp" / "models").glob("*/*")] == ["f16.gguf"]
    assert build(Spec("transformers", "fp32")) == merged


def read_weights_of(merged: Path) -> Any:
    (merged / "weights.json").write_text(
        json.dumps({"base_model": "tiny", "base_sha256": "1" * 64, "adapter_sha256": "2" * 64})
    )
    return read_weights(merged)
