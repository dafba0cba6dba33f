from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from tiny import BOS_TOKEN, CATALOGUE, EOS_TOKEN, GRAMMAR, PAIRS, tiny_template, tiny_tokenizer
from tiny_export import TinyOnnx, sign

from edgedsl.catalogue import Catalogue, bind
from edgedsl.config import Config
from edgedsl.data.pairs import Pair
from edgedsl.errors import BundleError, GenerationError, PromptTooLong, RequestError
from edgedsl.evaluation.torch_decoder import TorchDecoder
from edgedsl.grammar import Grammar, Matcher
from edgedsl.prompt import PromptTemplate
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion
from edgedsl.training.batches import encode

TOKENIZER = tiny_tokenizer()
EOS, BOS = TOKENIZER.token_id(EOS_TOKEN), TOKENIZER.token_id(BOS_TOKEN)
LANGUAGE = Grammar(bind(GRAMMAR, Catalogue.from_lists(CATALOGUE)))
SPEECH = Grammar('start: "say \\"" TEXT "\\""\nTEXT: /[^"\\n]+/')


class ScriptedDecoder:
    """Favours the tokens of a script, one after the other; the last one for ever. ``calls`` holds what it was fed."""

    execution_provider = "cpu"
    prefix_token_ids = ()

    def __init__(self, script: Sequence[int], *, context_length: int = 128, width: int = TOKENIZER.vocab_size) -> None:
        self.info = SimpleNamespace(context_length=context_length)
        self.script = list(script)
        self.width = width
        self.calls: list[list[int]] = []
        self.broken_at = -1

    def reset(self) -> None:
        self.calls = []

    def rows(self, token_ids: Sequence[int], num_logits: int) -> np.ndarray:
        return self.forward(token_ids)[None]

    def forward(self, token_ids: Sequence[int]) -> np.ndarray:
        self.calls.append(list(token_ids))
        assert sum(len(call) for call in self.calls) <= self.info.context_length
        step = len(self.calls) - 1
        logits = np.zeros(self.width, np.float32)
        logits[self.script[min(step, len(self.script) - 1)]] = 9.0
        if step == self.broken_at:
            logits[5] = np.nan
        return logits


class RandomDecoder(ScriptedDecoder):
    """Random logits, with a liking for the end."""

    def __init__(self, seed: int) -> None:
        super().__init__([EOS], context_length=512)
        self.rng = np.random.default_rng(seed)

    def forward(self, token_ids: Sequence[int]) -> np.ndarray:
        super().forward(token_ids)
        logits = self.rng.normal(0, 3, self.width).astype(np.float32)
        logits[[EOS, *TOKENIZER.encode_plain('"; )]')]] += 6
        return logits


def engine(decoder: Any, grammar: Grammar = LANGUAGE, template: PromptTemplate | None = None) -> Engine:
    return Engine(
        name="test", tokenizer=TOKENIZER, template=template or tiny_template(), grammar=grammar, decoder=decoder
    )


def spelled(program: str, *after: int) -> list[int]:
    return [*TOKENIZER.encode_plain(program), *after]


PROGRAM = "off kitchen; set hall 5"
NUM_TOKENS = len(spelled(PROGRAM))
NUM_PROMPT = len(TOKENIZER.encode_prompt(tiny_template(), "x"))


# How an answer ends


def test_a_program_ends_at_its_end_token() -> None:
    decoder = ScriptedDecoder(spelled(PROGRAM, EOS))
    completion = engine(decoder)("x")
    assert str(completion) == completion.text == PROGRAM
    assert completion.finish_reason == "stop"
    assert completion.token_ids == tuple(spelled(PROGRAM))
    assert (completion.prompt_tokens, completion.completion_tokens) == (NUM_PROMPT, NUM_TOKENS)
    prompt = TOKENIZER.encode_prompt(tiny_template(), "x")
    assert decoder.calls == [prompt, *([token_id] for token_id in spelled(PROGRAM))]


@pytest.mark.parametrize("end", [EOS, BOS])
def test_any_of_several_end_tokens_ends_it(end: int) -> None:
    template = replace(tiny_template(), end=(EOS_TOKEN, BOS_TOKEN))
    completion = engine(ScriptedDecoder(spelled(PROGRAM, end)), template=template)("x")
    assert (completion.text, completion.finish_reason) == (PROGRAM, "stop")


def test_a_token_that_is_no_end_of_the_template_does_not_end_it() -> None:
    completion = engine(ScriptedDecoder(spelled("off hall", BOS)))("x", max_tokens=12)
    assert completion.token_ids[: len(spelled("off hall"))] == tuple(spelled("off hall"))
    assert BOS not in completion.token_ids


def test_a_program_that_nothing_can_follow_needs_no_end_token() -> None:
    decoder = ScriptedDecoder(spelled("stop"))
    completion = engine(decoder, Grammar('start: "stop"'))("x")
    assert (completion.text, completion.finish_reason) == ("stop", "stop")
    assert len(decoder.calls) == completion.completion_tokens, "no step after the last token"


@pytest.mark.parametrize("budget", range(len(spelled("off hall")), NUM_TOKENS))
def test_max_tokens_steers_to_a_whole_program(budget: int) -> None:
    decoder = ScriptedDecoder(spelled(PROGRAM, EOS))
    completion = engine(decoder)("x", max_tokens=budget)
    assert completion.finish_reason == "length"
    assert completion.completion_tokens <= budget
    assert LANGUAGE.accepts(completion.text)


def test_a_budget_that_no_program_fits_into_is_refused_before_any_compute() -> None:
    decoder = ScriptedDecoder(spelled(PROGRAM, EOS))
    with pytest.raises(RequestError, match=r"max_tokens is 5, the shortest program of .* has 6 tokens"):
        engine(decoder)("x", max_tokens=5)
    assert decoder.calls == []


def test_max_tokens_that_just_fit_let_the_program_end() -> None:
    completion = engine(ScriptedDecoder(spelled(PROGRAM, EOS)))("x", max_tokens=NUM_TOKENS)
    assert (completion.text, completion.finish_reason) == (PROGRAM, "stop")


def test_a_whole_program_that_would_go_on_ends_at_max_tokens() -> None:
    decoder = ScriptedDecoder(spelled("set hall 500", EOS))
    completion = engine(decoder)("x", max_tokens=len(spelled("set hall 50")))
    assert (completion.text, completion.finish_reason) == ("set hall 50", "length")


@pytest.mark.parametrize("room", [len("off hall"), NUM_TOKENS - 1, NUM_TOKENS])
def test_the_context_bounds_the_program(room: int) -> None:
    decoder = ScriptedDecoder(spelled(PROGRAM, EOS), context_length=NUM_PROMPT + room)
    completion = engine(decoder)("x", max_tokens=1000)
    assert completion.finish_reason == ("stop" if room == NUM_TOKENS else "length")
    assert completion.completion_tokens <= room
    assert LANGUAGE.accepts(completion.text)


def test_an_empty_program_of_a_grammar_that_has_one() -> None:
    completion = engine(ScriptedDecoder([EOS]), Grammar('start: "a"*'))("x")
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == ("", "stop", 0)
    assert completion.timings.tpot_ms == 0


def test_cancelled_between_tokens() -> None:
    pieces: list[str] = []
    completion = engine(ScriptedDecoder(spelled(PROGRAM, EOS))).generate(
        "x", SamplingParams(), on_text=pieces.append, is_cancelled=lambda: len(pieces) == 3
    )
    assert completion.finish_reason == "cancelled"
    assert completion.completion_tokens == 3
    assert "".join(pieces) == completion.text


def test_an_engine_can_be_used_again_after_a_cancelled_request() -> None:
    subject = engine(ScriptedDecoder(spelled(PROGRAM, EOS)))
    subject.generate("x", SamplingParams(), is_cancelled=lambda: True)
    assert subject("x").text == PROGRAM


def test_timings_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[float] = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    completion = engine(ScriptedDecoder(spelled("off hall", EOS)))("x")
    n = completion.completion_tokens
    assert completion.timings.ttft_ms == 1000
    assert completion.timings.tpot_ms == 1000, "n tokens have n - 1 gaps"
    assert completion.timings.e2el_ms == 1000 * (n + 1)
    assert json.loads(json.dumps(completion.to_dict())) == {
        "program": "off hall",
        "finish_reason": "stop",
        "prompt_tokens": NUM_PROMPT,
        "completion_tokens": n,
        "model_calls": n + 1,
        "timings": {"ttft_ms": 1000.0, "tpot_ms": 1000.0, "e2el_ms": 1000.0 * (n + 1)},
    }


# Streaming


SPOKEN = 'say "née 漢字 🙂 e\u0301"'


def test_streaming_equals_whole_with_characters_of_many_bytes() -> None:
    subject = engine(ScriptedDecoder(spelled(SPOKEN, EOS)), SPEECH)
    assert max(len(text.encode()) for text in SPOKEN) == 4
    pieces = list(subject.stream("x"))
    assert "".join(pieces) == SPOKEN == subject("x").text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > len(SPOKEN) // 2


@pytest.mark.parametrize("budget", range(len('say ""') + 1, len(spelled(SPOKEN)) + 1))
def test_streaming_equals_whole_wherever_it_is_cut(budget: int) -> None:
    """The cut may fall into the middle of a character."""
    subject = engine(ScriptedDecoder(spelled(SPOKEN, EOS)), SPEECH)
    pieces: list[str] = []
    completion = subject.generate("x", SamplingParams(max_tokens=budget), on_text=pieces.append)
    assert "".join(pieces) == completion.text
    assert "".join(subject.stream("x", max_tokens=budget)) == completion.text


def test_a_program_that_ends_with_a_replacement_character_is_streamed_whole() -> None:
    grammar = Grammar('start: "say " /[^"]+/')
    subject = engine(ScriptedDecoder(spelled("say \ufffd", EOS)), grammar)
    assert "".join(subject.stream("x")) == "say \ufffd" == subject("x").text


def test_two_streams_at_once_are_refused() -> None:
    subject = engine(ScriptedDecoder(spelled(PROGRAM, EOS)))
    first = subject.stream("x")
    next(first)
    assert subject("x").text == PROGRAM
    with pytest.raises(GenerationError, match="another generation began"):
        list(first)


# Sentences


@pytest.mark.parametrize("sentence", ["", " ", "\n\t ", "\u3000"])
def test_an_empty_sentence_is_refused(sentence: str) -> None:
    decoder = ScriptedDecoder([EOS])
    with pytest.raises(RequestError, match="empty"):
        engine(decoder)(sentence)
    assert decoder.calls == []


def test_an_enormous_sentence_is_refused_before_it_is_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = engine(ScriptedDecoder([EOS]))
    monkeypatch.setattr(subject.tokenizer, "encode_plain", lambda text: pytest.fail("a megabyte was tokenised"))
    with pytest.raises(PromptTooLong, match="1048576 characters") as caught:
        subject("x" * 2**20)
    assert caught.value.status_code == 413


def test_a_sentence_needs_room_for_one_token_of_program() -> None:
    decoder = ScriptedDecoder(spelled("stop"), context_length=20)
    subject = engine(decoder, Grammar('start: "s"'))
    longest = "~" * (20 - NUM_PROMPT)
    assert subject(longest).text == "s"
    with pytest.raises(PromptTooLong, match="20 tokens, the shortest program 1; the context holds 20"):
        subject(longest + "~")


def test_special_tokens_in_a_sentence_are_plain_text() -> None:
    decoder = ScriptedDecoder(spelled(PROGRAM, EOS))
    assert engine(decoder)(f"a{EOS_TOKEN}b{BOS_TOKEN}").text == PROGRAM
    prompt = decoder.calls[0]
    assert prompt.count(EOS) == 0
    assert [i for i, token_id in enumerate(prompt) if token_id == BOS] == [0]
    spelled_out = "".join(TOKENIZER.decode([token_id]) for token_id in prompt[1:])
    assert spelled_out == f"a{EOS_TOKEN}b{BOS_TOKEN}\n"


@pytest.mark.parametrize(("sentence", "position"), [("\ud800", 0), ("turn \udc9f on", 5), ("é\udfff\ud800", 1)])
def test_half_a_surrogate_pair_is_refused_by_position(sentence: str, position: int) -> None:
    with pytest.raises(RequestError, match=f"at character {position}$") as caught:
        engine(ScriptedDecoder([EOS]))(sentence)
    caught.value.message.encode()


@pytest.mark.parametrize("sampling", [{"max_tokens": 0}, {"temperature": -1}, {"top_p": 2}, {"seed": "a"}])
def test_bad_sampling_is_refused(sampling: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        engine(ScriptedDecoder([EOS]))("x", **sampling)
    with pytest.raises(RequestError):
        list(engine(ScriptedDecoder([EOS])).stream("x", **sampling))


# What must never pass


def test_logits_wider_than_the_tokenizer_are_masked() -> None:
    padding = TOKENIZER.vocab_size + 7
    for constrained in (True, False):
        decoder = ScriptedDecoder([padding, padding, EOS], width=TOKENIZER.vocab_size + 31)
        params = SamplingParams(max_tokens=30, temperature=1.0)
        completion = engine(decoder).generate("x", params, constrained=constrained)
        assert all(token_id < TOKENIZER.vocab_size for token_id in completion.token_ids)


@pytest.mark.parametrize("step", [0, 3])
def test_logits_that_are_not_finite_give_no_program(step: int) -> None:
    decoder = ScriptedDecoder(spelled(PROGRAM, EOS))
    decoder.broken_at = step
    subject = engine(decoder)
    with pytest.raises(GenerationError, match="not finite"):
        subject("x")
    with pytest.raises(GenerationError, match="not finite"):
        list(subject.stream("x"))
    decoder.broken_at = -1
    assert subject("x").text == PROGRAM


def test_a_model_with_a_broken_weight_gives_no_program(tiny_onnx: TinyOnnx, tmp_path: Path) -> None:
    decoder = tiny_onnx.shared()
    graph = onnx.load(decoder.session._model_path)
    head = next(node for node in graph.graph.node if node.name == "/lm_head/MatMul")
    weight = next(w for w in graph.graph.initializer if w.name == head.input[1])
    broken = numpy_helper.to_array(weight).copy()
    broken[3, 7] = np.nan
    weight.CopyFrom(numpy_helper.from_array(broken, weight.name))
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(GenerationError, match="not finite"):
        engine(Decoder(tmp_path / "model.onnx", decoder.info, num_threads=1))("off hall")


def test_engines_that_disagree_give_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = engine(ScriptedDecoder(spelled(PROGRAM, EOS)))
    seen: list[str] = []
    monkeypatch.setattr(subject.grammar, "accepts", lambda text: bool(seen.append(text)))
    with pytest.raises(GenerationError, match="two grammar engines disagree") as caught:
        subject("x")
    with pytest.raises(GenerationError, match="two grammar engines disagree"):
        list(subject.stream("x"))
    assert seen == [PROGRAM, PROGRAM]
    assert PROGRAM not in caught.value.message, "programs may be private"


def test_a_failing_grammar_engine_gives_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Matcher) -> None:
        raise GenerationError("the grammar engine failed")

    monkeypatch.setattr(Matcher, "catch_up", fail)
    with pytest.raises(GenerationError, match="grammar engine failed"):
        engine(ScriptedDecoder(spelled(PROGRAM, EOS)))("x")


def test_without_the_grammar_nothing_is_checked() -> None:
    decoder = ScriptedDecoder(spelled("no program", EOS))
    completion = engine(decoder).generate("x", SamplingParams(), constrained=False)
    assert (completion.text, completion.finish_reason) == ("no program", "stop")


# Random logits under many grammars


def shipped(name: str) -> Grammar:
    folder = files("edgedsl.grammars")
    return Grammar.from_files(Path(str(folder / f"{name}.lark")), Path(str(folder / f"{name}.catalogue.json")))


GRAMMARS: dict[str, Callable[[], Grammar]] = {
    "tiny": lambda: LANGUAGE,
    "speech": lambda: SPEECH,
    "empty": lambda: Grammar('start: "a"*'),
    "nested": lambda: Grammar('start: item\nitem: "(" item* ")" | "[" item "]" | "é"'),
    "spaces": lambda: Grammar('start: WORD (":" WORD)*\nWORD: /[a-z]{1,3}/\nWS: /[ \\t]+/\n%ignore WS'),
    "flow": lambda: shipped("flow"),
    "thingtalk": lambda: shipped("thingtalk"),
}


@pytest.fixture(scope="module", params=GRAMMARS)
def random_engine(request: pytest.FixtureRequest) -> Engine:
    return engine(RandomDecoder(0), GRAMMARS[request.param]())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 1.0, 5.0]), st.integers(0, 120))
def test_random_logits_parse_at_every_budget(random_engine: Engine, seed: int, temperature: float, spare: int) -> None:
    random_engine.decoder = RandomDecoder(seed)  # type: ignore[assignment]
    pieces: list[str] = []
    budget = max(1, random_engine.compiled.planner.min_tokens) + spare
    params = SamplingParams(max_tokens=budget, temperature=temperature, seed=seed)
    completion = random_engine.generate("x", params, on_text=pieces.append)
    assert "".join(pieces) == completion.text
    random_engine.grammar.parse(completion.text)
    assert completion.finish_reason in {"stop", "length"}
    assert completion.completion_tokens <= budget


def test_random_logits_end_both_ways(random_engine: Engine) -> None:
    """Otherwise the property above would say little."""
    reasons = []
    for seed in range(12):
        random_engine.decoder = RandomDecoder(seed)  # type: ignore[assignment]
        reasons.append(random_engine("x", max_tokens=200).finish_reason)
    assert reasons.count("stop") >= 1


@pytest.fixture(scope="module")
def real(tiny_bundle: Path) -> Engine:
    return Engine.from_bundle(tiny_bundle, num_threads=1)


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1, max_size=20).filter(str.strip), st.sampled_from([0.0, 0.7, 3.0]), st.integers(0, 99))
def test_real_logits_parse_inside_the_budget(real: Engine, sentence: str, temperature: float, seed: int) -> None:
    completion = real(sentence, max_tokens=20, temperature=temperature, seed=seed)
    real.grammar.parse(completion.text)
    assert completion.completion_tokens <= 20


def test_the_same_seed_gives_the_same_program(real: Engine) -> None:
    def answer(seed: int) -> Completion:
        return real("set the hall", max_tokens=20, temperature=4.0, seed=seed)

    assert answer(3).token_ids == answer(3).token_ids
    assert len({answer(seed).token_ids for seed in range(5)}) > 1


def test_an_answer_does_not_depend_on_the_one_before(real: Engine) -> None:
    first = real("kitchen off", max_tokens=20)
    real("a longer sentence about the café and the hall", max_tokens=20)
    assert real("kitchen off", max_tokens=20).token_ids == first.token_ids


def test_torch_and_onnx_write_the_same_programs(tiny_onnx: TinyOnnx) -> None:
    sentences = [pair[0] for pair in PAIRS]
    compiled = LANGUAGE.compile(TOKENIZER, [EOS])
    expected = TorchDecoder(tiny_onnx.model, TOKENIZER, tiny_template(), compiled, "cpu").decode(sentences, 20)
    for maker in (tiny_onnx.shared, tiny_onnx.growing):
        subject = engine(maker())
        answers = [subject(sentence, max_tokens=20) for sentence in sentences]
        assert [list(answer.token_ids) for answer in answers] == [row.token_ids for row in expected]
        assert [answer.finish_reason for answer in answers] == [row.finish_reason for row in expected]


# The same bytes everywhere


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip))
def test_training_evaluation_and_generation_see_the_same_tokens(sentence: str) -> None:
    decoder = ScriptedDecoder([EOS], context_length=512)
    engine(decoder, Grammar('start: "a"*'))(sentence)
    pair = Pair("1", sentence, PROGRAM, "", "here:1")
    example = encode([pair], TOKENIZER, tiny_template())[0]
    row = TorchDecoder(SimpleNamespace(), TOKENIZER, tiny_template())._row(0, sentence)
    assert decoder.calls[0] == list(example.prompt) == row.prompt
    assert example.target == (*spelled(PROGRAM), EOS)
    assert TOKENIZER.decode(decoder.calls[0]) == sentence + "\n"


@pytest.mark.parametrize("content", ["", "{}}", "[1]", "[{}]", '[{"prompt": 5}]', '[{"prompt": null}]', "5"])
def test_dev_pairs_that_are_malformed_are_a_bundle_error(project: Config, content: str) -> None:
    path = project.path("bundle/eval/dev.json")
    path.write_text(content, encoding="utf-8")
    sign(project.path("bundle"))
    with pytest.raises(BundleError, match=r"dev\.json' is malformed"):
        Engine.from_bundle(project.path("bundle"))


def test_what_fails_while_warming_up_is_not_blamed_on_the_dev_pairs(
    real: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(error: Exception) -> None:
        def generate(self: Engine, sentence: str, params: SamplingParams) -> None:
            raise error

        monkeypatch.setattr(Engine, "generate", generate)

    fail(TypeError("a mistake of ours"))
    with pytest.raises(TypeError, match="a mistake of ours"):
        real.warm_up()
    fail(GenerationError("no program"))
    real.warm_up()
    assert "the warm-up failed: no program" in caplog.text
