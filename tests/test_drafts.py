"""Where drafts come from, and that they are legal; the measurement of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import scripted_engine
from tiny import tiny_template, tiny_tokenizer

from edgedsl.bench import drafts as bench
from edgedsl.bench.table import read_result
from edgedsl.data.pairs import Pair
from edgedsl.errors import BundleError, ConfigError, DataError
from edgedsl.exporters.neighbours import write_neighbours
from edgedsl.exporters.ngrams import write_ngrams
from edgedsl.grammar import CompiledGrammar, Grammar, Matcher
from edgedsl.runtime.drafts import SOURCES, Acceptance, Draft, Drafter, DraftSources, Source
from edgedsl.runtime.neighbours import Neighbour
from edgedsl.runtime.ngrams import NgramIndex
from edgedsl.runtime.retrieved import Retrieved

TOKENIZER = tiny_tokenizer()
END = TOKENIZER.end_token_ids(tiny_template())[0]
GRAMMAR = r"""
start: command (";" command)*
command: "set" WS ("kitchen" | "hall") WS LEVEL | "say" WS STRING
LEVEL: /[0-9]{1,3}/
STRING: /"[a-z ]*"/
WS: " "
"""
PAIRS = (
    ("kitchen to twenty", "set kitchen 20"),
    ("hall to five", "set hall 5"),
    ("the hall at five", "set hall 5"),
    ("greet the world", 'say "hello world"'),
)


@cache
def compiled() -> CompiledGrammar:
    return Grammar(GRAMMAR).compile(TOKENIZER, [END])


def encode(text: str) -> list[int]:
    return TOKENIZER.encode_plain(text)


def decode(draft: Draft) -> str:
    return TOKENIZER.decode(draft.token_ids)


def matcher_after(text: str) -> Matcher:
    matcher = compiled().matcher()
    for token_id in encode(text):
        matcher.consume(token_id)
    return matcher


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> DraftSources:
    folder = tmp_path_factory.mktemp("bundle")
    rows = [(encode(sentence), encode(program)) for sentence, program in PAIRS]
    size = TOKENIZER.vocab_size
    write_ngrams(folder / "drafts.ngrams", [program for _, program in rows], vocab_size=size, end_token_id=END)
    write_neighbours(folder / "drafts.neighbours", rows, vocab_size=size)
    return DraftSources.from_bundle(folder, TOKENIZER, [END])


def propose(sources: DraftSources, sentence: str, program: str, max_tokens: int = 40) -> Draft:
    return sources.start(sentence).propose(encode(program), matcher_after(program), max_tokens)


def bitmask(matcher: Matcher) -> bytes:
    words = np.zeros(compiled().bitmask_size, np.int32)
    matcher.fill_bitmask(words)
    return words.tobytes()


TEXTS = st.text('abcdehilnostk "0125;', max_size=12)


@given(st.sampled_from([program for _, program in PAIRS]), st.integers(0, 20), TEXTS, st.integers(0, 12))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_drafts_are_legal_and_leave_the_matcher_where_it_is(
    sources: DraftSources, program: str, length: int, sentence: str, max_tokens: int
) -> None:
    program = program[:length]
    matcher = matcher_after(program)
    before = bitmask(matcher)
    draft = sources.start(sentence).propose(encode(program), matcher, max_tokens)
    assert matcher.count_accepted(draft.token_ids) == len(draft.token_ids) <= max_tokens
    assert len(draft.probabilities) == len(draft.sources) == len(draft.token_ids)
    assert all(0 < probability < 1 for probability in draft.probabilities)
    assert END not in draft.token_ids
    assert bitmask(matcher) == before


def test_the_grammar_forces_what_it_leaves_no_choice_about(sources: DraftSources) -> None:
    draft = propose(sources.only(["forced"]), "x", "set ki")
    assert draft.token_ids
    assert "tchen ".startswith(decode(draft))
    assert set(draft.sources) == {"forced"}
    assert propose(sources.only(["forced"]), "x", "set ").token_ids == []
    assert propose(sources.only(["forced"]), "x", "set ki", max_tokens=2).token_ids == draft.token_ids[:2]


def test_after_a_forced_string_other_sources_go_on(sources: DraftSources) -> None:
    draft = propose(sources.only(["forced", "ngrams"]), "x", 'say "x";set ki')
    assert decode(draft) == "tchen 20"
    assert draft.sources[-1] == "ngrams"


def test_ngrams_follow_the_training_programs(sources: DraftSources) -> None:
    ngrams = sources.only(["ngrams"])
    assert decode(propose(ngrams, "x", "")) == "set hall 5"  # two of three
    assert decode(propose(ngrams, "x", "set k")) == "itchen 20"
    assert propose(ngrams, "x", "set hall 5").token_ids == []  # the end follows


def test_neighbours_are_those_of_the_sentence(sources: DraftSources) -> None:
    neighbours = sources.only(["neighbours"])
    assert decode(propose(neighbours, "hall to five", "")) == "set hall 5"
    assert decode(propose(neighbours, "greet the world", "")) == 'say "hello world"'
    assert decode(propose(neighbours, "twenty for the kitchen", "")) == "set kitchen 20"
    assert decode(propose(sources, "greet the world", "")) == 'say "hello world"'  # against what the n-grams say


def test_neighbours_speak_in_the_words_of_the_sentence(sources: DraftSources) -> None:
    neighbours = sources.only(["neighbours"])
    assert decode(propose(neighbours, "greet the moon", "")) == 'say "hello moon"'
    assert decode(propose(neighbours, "hall to seven", "")) == "set hall 5", "its program has a number, no word"


def test_neighbours_are_followed_where_the_program_left_them(sources: DraftSources) -> None:
    neighbours = sources.only(["neighbours"])
    assert decode(propose(neighbours, "twenty for the kitchen", 'say "x";set')) == " kitchen 20"


def test_ngrams_that_know_a_longer_context_are_believed(tmp_path: Path) -> None:
    rows = [[0, 1, 2, 3], [4, 1, 2, 5], [4, 1, 2, 5]]
    write_ngrams(tmp_path / "x", rows, vocab_size=TOKENIZER.vocab_size, end_token_id=END)
    sources = DraftSources(TOKENIZER, [END], ngrams=NgramIndex.from_file(tmp_path / "x", TOKENIZER.vocab_size))
    drafter = Drafter(sources, Retrieved([Neighbour([6, 2, 7], 9.0)], END), None)
    assert drafter.propose([0, 1, 2], None, 1).token_ids == [3]  # three tokens against one
    assert drafter.propose([8, 2], None, 1).token_ids == [7]  # one against one


def test_a_likelier_source_is_not_overruled_by_a_copy(sources: DraftSources) -> None:
    draft = propose(sources.only(["ngrams", "copies"]), "a hz", "set h")
    assert decode(draft).startswith("all")
    assert draft.sources[0] == "ngrams"


def test_neighbours_are_found_again_after_a_token_that_none_of_them_has() -> None:
    retrieved = Retrieved([Neighbour([1, 2, 3, 4], 1.0), Neighbour([1, 2, 5], 0.5)], end_token_id=9)
    retrieved.seek([])
    assert retrieved.guess() == (1, pytest.approx(1.5 / 2.5), 1)
    retrieved.advance(7)
    assert retrieved.guess() is None
    retrieved.advance(2)
    assert retrieved.guess() == (3, pytest.approx(1.0 / 2.5), 1)
    retrieved.advance(3)
    retrieved.advance(4)
    assert retrieved.guess() == (9, pytest.approx(1 / (1 + 1 / 9)), 3)


@pytest.mark.parametrize(
    ("program", "expected"), [('say "no', "dded at alice"), ('say "al', "ice"), ('say "at a', "lice")]
)
def test_words_of_the_sentence_are_copied(sources: DraftSources, program: str, expected: str) -> None:
    draft = propose(sources.only(["copies"]), "nodded at alice", program, max_tokens=len(expected))
    assert decode(draft) == expected


def test_nothing_is_copied_that_the_sentence_does_not_begin(sources: DraftSources) -> None:
    assert propose(sources.only(["copies"]), "nodded at alice", 'say "z').token_ids == []


def test_a_word_is_copied_in_the_tokens_that_it_has_without_its_space() -> None:
    tokenizer = tiny_tokenizer((" lamp", "lamp", "lampshade", " lampshade"))
    sources = DraftSources(tokenizer, [END], enabled=["copies"])
    for sentence in ("the lampshade lamp off", "lampshade lamp off"):
        for program in ('"lampshade', '" lampshade'):
            draft = sources.start(sentence).propose(tokenizer.encode_plain(program), None, 5)
            assert tokenizer.decode(draft.token_ids) == " lamp off"
    assert len(tokenizer.encode_plain("lampshade")) == 1


def test_the_words_behind_it_are_copied_with_their_spaces() -> None:
    tokenizer = tiny_tokenizer((" lamp", "lamp", " shade", "shade"))
    sources = DraftSources(tokenizer, [END], enabled=["copies"])
    for program in ('"lamp', '" lamp'):
        draft = sources.start("dim the lamp shade").propose(tokenizer.encode_plain(program), None, 5)
        assert draft.token_ids == [tokenizer.token_id("\u0120shade")]


def test_illegal_tokens_are_cut_off(sources: DraftSources) -> None:
    copies = sources.only(["copies"])
    program = encode('say "no')
    free = copies.start("nodTWICE").propose(program, None, 40)
    legal = copies.start("nodTWICE").propose(program, matcher_after('say "no'), 40)
    assert decode(free) == "dTWICE"
    assert decode(legal) == "d"
    assert legal.probabilities == free.probabilities[: len(legal.token_ids)]


@pytest.mark.parametrize(
    ("source", "rows", "program", "expected"),
    [
        ("neighbours", ["set hall 5x", "set hall 5;set hall 7"], "set hall ", "5;set hall 7"),  # the second best
        ("neighbours", [*["set hall 5x"] * 3, *["set hall 5y"] * 2, "set hall 5;say"], "set hall ", "5;say"),
        ("ngrams", ["set hall 5x", "set hall 5x", *["say 5;set hall 7"] * 2], "set hall ", "5;set hall 7"),
        ("copies", ["x"], "set kitchen 1;set hall 1", "2"),
        ("neighbours", ['a"', 'a"', 'b"hello"'], 'say "', 'hello"'),  # most end there, which this one cannot
    ],
)
def test_where_a_guess_is_not_legal_another_one_follows(
    tmp_path: Path, source: Source, rows: list[str], program: str, expected: str
) -> None:
    pairs = [(encode("the hall"), encode(row)) for row in rows]
    size = TOKENIZER.vocab_size
    write_ngrams(tmp_path / "drafts.ngrams", [row for _, row in pairs], vocab_size=size, end_token_id=END)
    write_neighbours(tmp_path / "drafts.neighbours", pairs, vocab_size=size)
    sources = DraftSources.from_bundle(tmp_path, TOKENIZER, [END]).only([source])
    draft = propose(sources, "the hall 1x 12", program)
    assert decode(draft) == expected
    assert len(draft.token_ids) == len(draft.probabilities) == len(draft.sources)


def test_a_draft_that_stays_illegal_is_cut_off() -> None:
    """Each other guess is the next neighbour's; the fifth would be legal."""
    neighbours = [Neighbour(encode(f"set hall 5{sign}"), 9.0 - n) for n, sign in enumerate("abcd;")]
    drafter = Drafter(DraftSources(TOKENIZER, [END]), Retrieved(neighbours, END), None)
    assert decode(drafter.propose(encode("set hall "), matcher_after("set hall "), 9)) == "5"


def test_a_switched_off_source_is_not_asked(sources: DraftSources) -> None:
    for source in SOURCES:
        draft = propose(sources.only([source]), "greet the world", "set h")
        assert set(draft.sources) <= {source}
    assert propose(sources.only([]), "greet the world", "set h").token_ids == []


def test_a_draft_is_shortened_to_its_beginning() -> None:
    draft = Draft([1, 2, 3], [0.5, 0.6, 0.7], ["copies", "ngrams", "forced"])
    assert draft.shortened(2) == Draft([1, 2], [0.5, 0.6], ["copies", "ngrams"])
    assert draft.shortened(3) == draft.shortened(9) == draft


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_probabilities_come_to_be_what_is_accepted(share: float) -> None:
    acceptance = Acceptance()
    assert acceptance.corrected(0.7) == pytest.approx(0.7)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(2000):
        means.append(acceptance.corrected(0.7))
        acceptance.learn(means[-1], bool(rng.random() < share))
    assert np.mean(means[500:]) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("is_accepted", [True, False])
def test_the_correction_is_bounded(is_accepted: bool) -> None:
    acceptance = Acceptance()
    for _ in range(5000):
        acceptance.learn(acceptance.corrected(0.5), is_accepted)
    assert 0.04 < acceptance.corrected(0.5) < 0.96
    for _ in range(5000):
        acceptance.learn(acceptance.corrected(0.5), not is_accepted)
    assert (acceptance.corrected(0.5) > 0.5) is not is_accepted


def test_learning_stops_at_the_first_refused_token(sources: DraftSources) -> None:
    def corrected(num_accepted: int) -> float:
        fresh = sources.only(SOURCES)
        fresh.start("x").learn(Draft([1, 2, 3], [0.5, 0.5, 0.5], ["ngrams"] * 3), num_accepted)
        assert fresh.acceptance["copies"].corrected(0.5) == 0.5
        return fresh.acceptance["ngrams"].corrected(0.5)

    assert corrected(0) < corrected(1) < corrected(2) < corrected(3)
    one = sources.only(SOURCES)
    one.start("x").learn(Draft([1], [0.5], ["ngrams"]), 0)
    assert corrected(0) == one.acceptance["ngrams"].corrected(0.5)


def test_what_was_learned_is_the_same_for_the_next_request(sources: DraftSources) -> None:
    fresh = sources.only(["ngrams"])
    before = propose(fresh, "x", "set k").probabilities[0]
    draft = propose(fresh, "y", "set k")
    fresh.start("y").learn(draft, 0)
    assert propose(fresh, "z", "set k").probabilities[0] < before


def test_a_bundle_without_indices_drafts_from_grammar_and_sentence(tmp_path: Path) -> None:
    sources = DraftSources.from_bundle(tmp_path, TOKENIZER, [END])
    assert decode(propose(sources, "x", "set ki")).startswith("tchen")
    assert decode(propose(sources, "nodded", 'say "no', max_tokens=4)) == "dded"


@pytest.mark.parametrize("name", ["drafts.ngrams", "drafts.neighbours"])
def test_a_malformed_index_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(BundleError, match=name):
        DraftSources.from_bundle(tmp_path, TOKENIZER, [END])


def targets(programs: Sequence[str]) -> list[bench.Target]:
    return [bench.Target("kitchen to twenty", [*encode(program), END], is_unseen=False) for program in programs]


def test_without_drafts_each_call_yields_one_token(sources: DraftSources) -> None:
    found = bench.replay(sources.only([]), compiled(), targets(["set hall 5"]), 8)
    assert (found.tokens_per_call, found.drafted) == (1.0, 0)
    assert found.tokens == len(encode("set hall 5")) + 1


def test_a_program_that_is_drafted_whole_takes_the_fewest_calls(sources: DraftSources) -> None:
    [target] = targets(["set kitchen 20"])
    for most in (2, 4, 100):
        found = bench.replay(sources.only(["neighbours"]), compiled(), [target], most)
        assert found.calls == -(-len(target.token_ids) // (most + 1))
        assert found.tokens == len(target.token_ids)
    assert bench.Replay().tokens_per_call is None


def test_targets_that_are_no_programs_are_left_out() -> None:
    pairs = [Pair("1", "a", "set hall 5", "", "f:1"), Pair("2", "b", "no program", "", "f:2")]
    [target] = bench.targets_of(pairs, pairs[1:], compiled(), TOKENIZER)
    assert (target.sentence, target.is_unseen) == ("a", True)
    [target] = bench.targets_of(pairs, pairs, compiled(), TOKENIZER)
    assert not target.is_unseen
    with pytest.raises(DataError):
        bench.targets_of(pairs[1:], pairs, compiled(), TOKENIZER)


def test_command_writes_a_result_that_the_table_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = {"a": "set kitchen 20; off hall", "b": "off kitchen; set hall 5; off café"}
    monkeypatch.setattr(bench.Engine, "from_bundle", lambda *_, **__: scripted_engine(programs))
    (tmp_path / "manifest.json").write_text("{}")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"prompt": p, "target": t}) + "\n" for p, t in programs.items()))
    output = tmp_path / "drafts-tiny_box_202611.json"
    options = {"--bundle": tmp_path, "--train": pairs, "--dev": pairs, "--output": output}
    arguments = [str(part) for option in options.items() for part in option]
    assert bench.main(arguments) == 0
    rows = read_result(output)["rows"]
    assert len(rows) == 25
    found = {(row["sources"], row["k"]): row["tokens_per_call"] for row in rows}
    assert 1 <= found["copies", 8] < found["all", 8] <= 9
    assert found["all", 2] < found["all", 4] < found["all", 12]
    capsys.readouterr()
    arguments[3] = str(tmp_path / "missing.jsonl")
    assert bench.main(arguments) == DataError.exit_code


def test_a_language_without_a_model_is_measured_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "grammar.lark").write_text(GRAMMAR, encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(TOKENIZER.json_text, encoding="utf-8")
    pairs, output = tmp_path / "pairs.jsonl", tmp_path / "drafts-tiny_box_202611.json"
    pairs.write_text("".join(json.dumps({"prompt": p, "target": t}) + "\n" for p, t in PAIRS), encoding="utf-8")
    arguments = ["--train", str(pairs), "--dev", str(pairs), "--output", str(output)]
    language = ["--grammar", str(tmp_path / "grammar.lark"), "--tokenizer", str(tmp_path / "tokenizer.json")]
    assert bench.main([*arguments, *language]) == 0
    assert read_result(output)["rows"][-1]["tokens_per_call"] > 3
    capsys.readouterr()
    assert bench.main([*arguments, *language[:2]]) == ConfigError.exit_code
    assert "give --bundle, or --grammar and --tokenizer" in capsys.readouterr().err
