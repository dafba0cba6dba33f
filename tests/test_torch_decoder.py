from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import EOS_TOKEN, tiny_llama, tiny_template, tiny_tokenizer, write_language
from transformers import AutoModelForCausalLM

from edgedsl.basemodels.load import without_old_names
from edgedsl.errors import GenerationError, RequestError
from edgedsl.evaluation.torch_decoder import Decoded, TorchDecoder
from edgedsl.grammar import BudgetGuard, CompiledGrammar, Grammar, Matcher

SENTENCES = ["off", "set the kitchen to 20 please", "café", "hall off and kitchen at 7, then café at 100"]
TOKENIZER = tiny_tokenizer()
TEMPLATE = tiny_template()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Random weights, with a wider spread than usual so that the likeliest token depends on what stands before."""
    torch.set_num_threads(1)
    loaded = AutoModelForCausalLM.from_pretrained(tiny_llama(tmp_path_factory.mktemp("base"), seed=3)).eval()
    with torch.no_grad():
        for parameter in loaded.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return loaded


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> CompiledGrammar:
    folder = write_language(tmp_path_factory.mktemp("language"))
    grammar = Grammar.from_files(folder / "grammar.lark", folder / "catalogue.json")
    return grammar.compile(TOKENIZER, TOKENIZER.end_token_ids(TEMPLATE))


def decoder(model: Any, compiled: CompiledGrammar | None) -> TorchDecoder:
    return TorchDecoder(model, TOKENIZER, TEMPLATE, compiled)


@torch.no_grad()
def naive(model: Any, sentence: str, compiled: CompiledGrammar | None, max_tokens: int) -> list[int]:
    """One row, no cache, no padding: every token asks the matcher and the budget."""
    matcher = compiled.matcher() if compiled else None
    guard = BudgetGuard(compiled, matcher) if compiled and matcher else None

    def may_come(token_id: int) -> bool:
        left = max_tokens - len(token_ids) - 1
        return matcher is None or guard is None or (matcher.allows(token_id) and guard.permits(token_id, left))

    end = TOKENIZER.end_token_ids(TEMPLATE)
    prompt = TOKENIZER.encode_prompt(TEMPLATE, sentence)
    token_ids: list[int] = []
    while len(token_ids) < max_tokens:
        logits = model(input_ids=torch.tensor([prompt + token_ids])).logits[0, -1]
        order = logits.argsort(descending=True).tolist()
        token_id = next(t for t in order if may_come(t))
        if token_id in end:
            break
        if matcher is not None and guard is not None:
            guard.consume(token_id)
        token_ids.append(token_id)
    return token_ids


def test_batch_of_four_equals_four_of_one(model: Any, compiled: CompiledGrammar) -> None:
    for grammar in (compiled, None):
        together = decoder(model, grammar).decode(SENTENCES, 24, batch_size=4)
        alone = [decoder(model, grammar).decode([sentence], 24)[0] for sentence in SENTENCES]
        assert together == alone
        assert len({answer.text for answer in alone}) > 1


def test_equals_decoding_without_cache(model: Any, compiled: CompiledGrammar) -> None:
    for grammar in (compiled, None):
        answers = decoder(model, grammar).decode(SENTENCES, 16)
        expected = [naive(model, s, grammar, 16) for s in SENTENCES]
        assert [answer.token_ids for answer in answers] == expected


def test_finished_programs_parse_under_lark(model: Any, compiled: CompiledGrammar) -> None:
    answers = decoder(model, compiled).decode([f"{s} {n}" for s in SENTENCES for n in range(8)], 200)
    finished = [answer for answer in answers if answer.finish_reason == "stop"]
    assert len(finished) > 4
    assert all(compiled.grammar.accepts(answer.text) for answer in finished)
    assert not any(compiled.grammar.accepts(text) for text in decoder(model, None).generate(SENTENCES, 24))


@pytest.mark.parametrize("budget", range(6, 20))
def test_steered_to_a_whole_program_at_max_tokens(model: Any, compiled: CompiledGrammar, budget: int) -> None:
    answers = decoder(model, compiled).decode(SENTENCES, budget)
    assert all(compiled.grammar.accepts(answer.text) and len(answer.token_ids) <= budget for answer in answers)
    assert "length" in {answer.finish_reason for answer in answers}


def test_without_a_grammar_cut_off_at_max_tokens(model: Any) -> None:
    answers = decoder(model, None).decode(SENTENCES, 2)
    assert [(answer.finish_reason, len(answer.token_ids)) for answer in answers] == [("length", 2)] * 4


def test_a_budget_that_no_program_fits_into(model: Any, compiled: CompiledGrammar) -> None:
    with pytest.raises(RequestError, match=r"max_tokens is 5, the shortest program of 'grammar\.lark' has 6 tokens"):
        decoder(model, compiled).decode(SENTENCES, 5)


def test_order_is_that_of_the_sentences(model: Any, compiled: CompiledGrammar) -> None:
    forwards = decoder(model, compiled).generate(SENTENCES, 24, batch_size=3)
    backwards = decoder(model, compiled).generate(SENTENCES[::-1], 24, batch_size=2)
    assert forwards == backwards[::-1]
    assert decoder(model, compiled).generate([], 24) == []


def test_adapter_is_decoded_too_and_training_mode_comes_back(model: Any, compiled: CompiledGrammar) -> None:
    import copy

    with without_old_names():
        peft_model = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules="all-linear", r=2))
    peft_model.train()
    assert decoder(peft_model, compiled).generate(SENTENCES, 24) == decoder(model, compiled).generate(SENTENCES, 24)
    assert peft_model.get_base_model().training


def test_end_token_is_no_text(model: Any) -> None:
    class EndsAtOnce:
        training = False

        def eval(self) -> None: ...

        def train(self, mode: bool) -> None: ...

        def __call__(self, *, input_ids: torch.Tensor, **_: object) -> Any:
            output = model(input_ids=input_ids)
            # Also a row wider than the tokenizer: ids beyond it must never be chosen.
            output.logits = torch.nn.functional.pad(output.logits, (0, 3), value=1e9)
            output.logits[..., TOKENIZER.token_id(EOS_TOKEN)] = 1e6
            return output

    answers = decoder(EndsAtOnce(), None).decode(SENTENCES, 5)
    assert answers == [Decoded("", [], "stop")] * 4


def test_numbers_that_are_not_finite_are_an_error(model: Any) -> None:
    import copy

    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    with pytest.raises(GenerationError, match="not finite"):
        decoder(broken, None).generate(SENTENCES, 5)


def test_engine_failure_costs_one_answer(
    model: Any, compiled: CompiledGrammar, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decoder(model, compiled).decode(SENTENCES, 24)
    fail_fourth_matcher(monkeypatch)
    answers = decoder(model, compiled).decode(SENTENCES, 24)
    assert [*answers[:3]] == expected[:3]
    assert answers[3] == Decoded("", [], "error")
    fail_fourth_matcher(monkeypatch)
    with pytest.raises(GenerationError, match="1 of 4 answers"):
        decoder(model, compiled).generate(SENTENCES, 24)


def fail_fourth_matcher(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Matcher] = []
    monkeypatch.undo()
    make, catch_up = CompiledGrammar.matcher, Matcher.catch_up

    def matcher(self: CompiledGrammar) -> Matcher:
        made.append(make(self))
        return made[-1]

    def failing(self: Matcher) -> None:
        if len(made) > 3 and self is made[3]:
            raise GenerationError("limit")
        catch_up(self)

    monkeypatch.setattr(CompiledGrammar, "matcher", matcher)
    monkeypatch.setattr(Matcher, "catch_up", failing)
