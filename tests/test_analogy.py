"""Programs of like sentences in the words of a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from edgedsl.runtime.analogy import Analogy

TOKENIZER = tiny_tokenizer()
TEXTS = st.text(alphabet="ab1 .:()\"'é", max_size=30)


@pytest.mark.parametrize(
    ("request_", "sentence", "program", "fitted"),
    [
        ("play folk in the hall", "play jazz in the kitchen", "play(jazz, kitchen)", "play(folk, hall)"),
        ("add board survey on saturday", "add budget review on monday", 'add("budget review", monday)', None),
        ("wake me at 7:45", "wake me at 19:15", "alarm(19:15)", "alarm(7:45)"),
        ("wake me at 7:45", "wake me at 19:15", "alarm(h=19, m=15)", "alarm(h=7, m=45)"),
        ("move b to c", "move a to b", "move(a, b)", "move(b, c)"),  # all at once, not one after the other
        ("set hall to 5", "set hall to 50", "set(150, 50, 501)", "set(150, 5, 501)"),
        ("set hall to 5", "put the hall on 50", "set(hall)", "set(hall)"),
        ("", "play jazz", "play(jazz)", "play(jazz)"),
        ("play folk", "", "play(jazz)", "play(jazz)"),
    ],
)
def test_what_differs_is_replaced(request_: str, sentence: str, program: str, fitted: str | None) -> None:
    expected = 'add("board survey", saturday)' if fitted is None else fitted
    assert Analogy(TOKENIZER, request_).fit_text(sentence, program) == expected


@given(TEXTS, TEXTS)
def test_the_same_sentence_leaves_its_program(sentence: str, program: str) -> None:
    assert Analogy(TOKENIZER, sentence).fit_text(sentence, program) == program


@given(TEXTS, TEXTS, TEXTS)
def test_any_text_is_fitted_to_any(request_: str, sentence: str, program: str) -> None:
    analogy = Analogy(TOKENIZER, request_)
    assert analogy.fit_text(sentence, program) == analogy.fit_text(sentence, program), "requests do not add up"


def test_tokens_are_those_of_the_text() -> None:
    analogy = Analogy(TOKENIZER, "set the hall to 5")
    sentence, program = TOKENIZER.encode_plain("set the kitchen to 20"), TOKENIZER.encode_plain("set kitchen 20")
    assert TOKENIZER.decode(analogy.fit(sentence, program)) == "set hall 5"
    other = TOKENIZER.encode_plain("off")
    assert analogy.fit(sentence, other) is other
