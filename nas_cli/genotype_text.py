"""The text form of DARTS' cells (arXiv:1806.09055, its repository), read without evaluating it.

    Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=...)

Each pair is an operation and the state it reads, two pairs a node; `..._concat` are the joined states.
"""

import ast
from dataclasses import dataclass, fields

from nas_cli.errors import GenotypeError

Pair = tuple[str, int]
LARGEST_STATE = 100


@dataclass(frozen=True, slots=True)
class CellsText:
    """What the text says, not yet held against a space."""

    normal: list[Pair]
    normal_concat: list[int]
    reduce: list[Pair]
    reduce_concat: list[int]


def read_cells_text(text: str) -> CellsText:
    """Read `Genotype(...)`, also after `NAME =` or in a log line. Raises GenotypeError with the reason."""
    arguments = _arguments(text)
    names = [field.name for field in fields(CellsText)]
    if missing := [name for name in names if name not in arguments]:
        raise GenotypeError(f"The genotype has no {missing[0]}=; DARTS' text form gives {', '.join(names)}.")
    if unknown := [name for name in arguments if name not in names]:
        raise GenotypeError(f"The genotype gives {unknown[0]}=; DARTS' text form gives {', '.join(names)}.")
    return CellsText(
        normal=_pairs("normal", arguments["normal"]),
        normal_concat=_states("normal_concat", arguments["normal_concat"]),
        reduce=_pairs("reduce", arguments["reduce"]),
        reduce_concat=_states("reduce_concat", arguments["reduce_concat"]),
    )


def _arguments(text: str) -> dict[str, ast.expr]:
    start = text.find("Genotype(")
    if start < 0:
        raise GenotypeError(
            f"{text[:80]!r} has no `Genotype(`, so it is not DARTS' text form. "
            "Name the space that it is of with space=."
        )
    try:
        call = ast.parse(text[start:].strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GenotypeError(
            f"The genotype's text cannot be read ({error}): give one `Genotype(...)`, complete."
        ) from error
    if not isinstance(call, ast.Call) or call.args:
        raise GenotypeError("The genotype's text must be one `Genotype(normal=..., reduce=...)` with names.")
    return {str(keyword.arg): keyword.value for keyword in call.keywords}


def _pairs(name: str, value: ast.expr) -> list[Pair]:
    pairs = _literal(name, value)
    if not isinstance(pairs, list | tuple):
        raise GenotypeError(f"{name}={ast.unparse(value)} must be a list of pairs ('operation', state).")
    return [_pair(name, pair) for pair in pairs]


def _pair(name: str, pair: object) -> Pair:
    match pair:
        case (str(operation), int(state)) if not isinstance(state, bool):
            return operation, state
    raise GenotypeError(f"{name} holds {pair!r}; it must hold pairs such as ('skip_connect', 0).")


def _states(name: str, value: ast.expr) -> list[int]:
    match value:
        case ast.Call(func=ast.Name(id="range"), args=[first, last], keywords=[]):
            return _joined_range(name, first, last)
        case ast.List() | ast.Tuple() if states := [_literal(name, state) for state in value.elts]:
            return [_state(name, state) for state in states]
    raise GenotypeError(
        f"{name}={ast.unparse(value)} must be a range or list of states, such as range(2, 6)."
    )


def _joined_range(name: str, first: ast.expr, last: ast.expr) -> list[int]:
    return list(range(_state(name, _literal(name, first)), _state(name, _literal(name, last))))


def _state(name: str, state: object) -> int:
    # The limit keeps a wrong range from filling the memory.
    if isinstance(state, int) and not isinstance(state, bool) and 0 <= state < LARGEST_STATE:
        return state
    raise GenotypeError(
        f"{name} names the state {state!r}; a state is a number from 0 to {LARGEST_STATE - 1}."
    )


def _literal(name: str, value: ast.expr) -> object:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise GenotypeError(f"{name}={ast.unparse(value)} is no plain value.") from error
