"""The tokens that some program of a grammar can hold: what a trimmed head must keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from lark.lexer import TerminalDef

from edgedsl.grammar.dfa import Dfa
from edgedsl.grammar.regex import Nfa
from edgedsl.grammar.vocabulary import Vocabulary

# Bytes of look-ahead by which states are told apart. A repeat of up to 100 characters has 100 states; all but the last
# few go on alike for as long as a token is. States that are merged in error only let a token more pass.
_LOOK_AHEAD = 12
_Moves = frozenset[tuple[int, int, frozenset[int]]]


def reachable_tokens(token_bytes: Sequence[bytes], terminals: Iterable[TerminalDef]) -> list[int]:
    """Token ids, ascending, of which each program of a grammar is made; a superset, close to the least one.

    A token is in it if a row of the grammar's terminals, in any order and with any entry of the catalogue, may hold it;
    so is each single byte, that names of a later catalogue can be spelt. No part of the catalogue and no spans of a
    sentence need another token, since both only forbid.

    Args:
        token_bytes: bytes of each token id; empty for those that never spell text.
        terminals: of the grammar, with the catalogue bound.

    Raises:
        GrammarError: a terminal that no finite automaton can match.
    """
    spelt: dict[bytes, list[int]] = {}
    for token_id, data in enumerate(token_bytes):
        if data:
            spelt.setdefault(data, []).append(token_id)
    texts = list(spelt)
    dfa, start = _rows_of(terminals)
    held = [texts[number] for number, _ in Vocabulary(texts).walk(start, partial(_step, dfa))]
    return sorted({token_id for data in [*held, *(t for t in texts if len(t) == 1)] for token_id in spelt[data]})


def _step(dfa: Dfa, state: int, byte: int) -> int | None:
    target = dfa.step(state, byte)
    return target if target >= 0 else None


def _rows_of(terminals: Iterable[TerminalDef]) -> tuple[Dfa, int]:
    """An automaton of all pieces of rows of terminals, and its start: a token may begin anywhere in a lexeme."""
    nfa = Nfa()
    starts = [nfa.add(terminal.pattern.to_regexp(), terminal.name) for terminal in terminals]
    for final in nfa.final:
        nfa.empty[final] += starts
    merged = _merged(nfa)
    dfa = Dfa(merged)
    return dfa, dfa.start(range(len(merged.owner)))


def _merged(nfa: Nfa) -> Nfa:
    """The automaton with one state for all that go on alike for some bytes; it takes all that the other one does."""
    active = [state for state, moves in enumerate(nfa.moves) if moves]
    targets = {target for state in active for _, _, target in nfa.moves[state]}
    known: dict[int, frozenset[int]] = {}
    behind = {target: _closure(nfa, target, known) for target in targets}
    distinct = list(set(behind.values()))
    number = {states: n for n, states in enumerate(distinct)}
    moves = {s: [(low, high, number[behind[t]]) for low, high, t in nfa.moves[s]] for s in active}
    classes = dict.fromkeys(active, 0)
    signatures: dict[int, _Moves] = {}
    for _ in range(_LOOK_AHEAD):
        sets = [frozenset(classes[state] for state in states) for states in distinct]
        signatures = {s: frozenset((low, high, sets[n]) for low, high, n in moves[s]) for s in active}
        numbers = {signature: n for n, signature in enumerate(dict.fromkeys(signatures.values()))}
        num_before = len(set(classes.values()))
        classes = {state: numbers[signature] for state, signature in signatures.items()}
        if len(numbers) == num_before:
            break
    return _quotient(classes, moves, distinct)


def _closure(nfa: Nfa, state: int, known: dict[int, frozenset[int]]) -> frozenset[int]:
    """The states with moves that are reached for free."""
    passed = {state}
    # The ends of a catalogue's entries all lead to one state, behind which any terminal may begin: looked at once.
    while not nfa.moves[state] and len(nfa.empty[state]) == 1 and nfa.empty[state][0] not in passed:
        state = nfa.empty[state][0]
        passed.add(state)
    if state not in known:
        seen, waiting = {state}, [state]
        while waiting:
            for target in nfa.empty[waiting.pop()]:
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        known[state] = frozenset(reached for reached in seen if nfa.moves[reached])
    return known[state]


def _quotient(
    classes: dict[int, int], moves: dict[int, list[tuple[int, int, int]]], distinct: list[frozenset[int]]
) -> Nfa:
    """One state a class, and behind them one a set of classes that a move leads to."""
    quotient = Nfa()
    num_classes = max(classes.values(), default=-1) + 1
    hubs: dict[frozenset[int], int] = {}
    hub_of = [hubs.setdefault(frozenset(classes[s] for s in states), num_classes + len(hubs)) for states in distinct]
    found: list[set[tuple[int, int, int]]] = [set() for _ in range(num_classes)]
    for state, number in classes.items():
        found[number].update((low, high, hub_of[n]) for low, high, n in moves[state])
    quotient.moves = [sorted(move) for move in found] + [[] for _ in hubs]
    quotient.empty = [[] for _ in found] + [sorted(members) for members in hubs]
    quotient.owner = [0] * (num_classes + len(hubs) + 1)
    quotient.moves.append([])
    quotient.empty.append([])
    quotient.final = [len(quotient.owner) - 1]  # nothing ends: a piece may be cut anywhere
    return quotient
