"""The language that chooses devices: ``label.site == "lab" and runtime.onnx >= "1.20"``.

`lark` parses it (LALR: time grows with the length of the text alone); what it can say is a fixed
set of facts, comparisons with constants, and `and`, `or`, `not`. There are no functions, no
arithmetic and no loops, so an expression ends, and runs nothing. `facts` says what can be asked.
``last_seen < 2h ago`` is of the moment at which somebody asks: `at` writes that moment in.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from controller.domain import facts
from controller.domain.facts import Value
from controller.domain.fleet import Device
from controller.errors import UserError

LONGEST: Final = 1000
"""Characters of an expression."""
DEEPEST: Final = 24
"""How far parts may be inside each other."""
EXAMPLE: Final = 'label.site == "lab" and profile ~ "jetson-*" and runtime.onnx >= "1.20"'

GRAMMAR: Final = r"""
?start: either
?either: both ("or" both)*
?both: one ("and" one)*
?one: "not" one -> negated
    | "(" either ")"
    | fact OP literal -> compared
    | fact "in" list -> within
    | fact "not" "in" list -> without
    | fact -> held
fact: NAME ("." NAME)* ("[" TEXT "]")?
list: "[" literal ("," literal)* "]"
literal: TEXT | NUMBER | TRUE | FALSE | AGO
OP: "==" | "!=" | "<=" | ">=" | "<" | ">" | "!~" | "~"
TRUE.2: /true\b/
FALSE.2: /false\b/
NAME: /[A-Za-z_][A-Za-z0-9_-]*/
AGO.3: /[0-9]{1,9}[smhdw] +ago\b/
NUMBER: /-?[0-9]+(\.[0-9]+)?/
TEXT: /"(\\.|[^"\\])*"/ | /'(\\.|[^'\\])*'/
%ignore /[ \t\r\n]+/
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """One fact against constants; ``op`` is ``in``, ``held`` or a sign of comparison."""

    fact: str
    op: str
    values: tuple[Value, ...]
    negated: bool
    of: Callable[[Device], Sequence[Value]]

    def holds(self, device: Device) -> bool:
        found = self.of(device)
        said = any(facts.compare(one, self.op, value) for one in found for value in self.values)
        return said is not self.negated

    def why_not(self, device: Device) -> str:
        found = self.of(device)
        shown = " and ".join(facts.shown(one) for one in found)
        return f"{self.fact} is {shown}" if found else f"it has no {self.fact}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """All parts hold."""

    parts: tuple[Part, ...]

    def holds(self, device: Device) -> bool:
        return all(part.holds(device) for part in self.parts)

    def why_not(self, device: Device) -> str:
        return next((p.why_not(device) for p in self.parts if not p.holds(device)), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Some:
    """At least one part holds."""

    parts: tuple[Part, ...]

    def holds(self, device: Device) -> bool:
        return any(part.holds(device) for part in self.parts)

    def why_not(self, device: Device) -> str:
        return ", ".join(dict.fromkeys(part.why_not(device) for part in self.parts))


Part = Test | Every | Some


@functools.lru_cache(maxsize=256)
def parse(text: str) -> Part:
    """Read an expression of which every moment is written in; an empty one takes every device.

    Raises:
        UserError: it is none, asks for a fact that there is not, or is too long; it says where.
    """
    if len(text) > LONGEST:
        raise UserError(f"an expression has at most {LONGEST} characters, not {len(text)}")
    if not text.strip():
        return Every(parts=())
    return _part(_tree(text), negated=False, depth=0)


def _tree(text: str) -> Any:
    import lark

    try:
        return _parser().parse(text)
    except lark.exceptions.UnexpectedInput as error:
        ended = getattr(getattr(error, "token", None), "type", "") == "$END"
        raise UserError(_unreadable(text, -1 if ended else error.column)) from error


def at(text: str, now: float) -> str:
    """The expression with moments in place of ``2h ago`` (s, m, h, d or w).

    Raises:
        UserError: it is none.
    """
    if "ago" not in text or len(text) > LONGEST:
        return text  # which is also said of one that is too long, by `parse`
    found = list(_tree(text).scan_values(lambda t: t.type == "AGO"))
    for token in sorted(found, key=lambda t: -t.start_pos):
        count = str(token).split()[0]  # "2h"; `facts.moment` ends at 1970
        moment = facts.moment(now - int(count[:-1]) * UNITS_S[count[-1]])
        text = f'{text[: token.start_pos]}"{moment}"{text[token.end_pos :]}'
    return text


UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def selects(text: str, device: Device) -> bool:
    """Whether an expression takes a device."""
    return parse(text).holds(device)


def joined(*texts: str) -> str:
    """One expression that holds where all of these do; empty ones say nothing."""
    given = [text.strip() for text in texts if text.strip()]
    return given[0] if len(given) == 1 else " and ".join(f"({text})" for text in given)


@functools.cache
def _parser() -> Any:
    import lark

    return lark.Lark(GRAMMAR, parser="lalr")


def _unreadable(text: str, column: int) -> str:
    at = column - 1 if column > 0 else len(text)
    rest = text[at : at + 20]
    where = f"at '{rest}'" if rest else "at its end"
    hint = "; compare with '=='" if rest.startswith("=") else ""
    return f"cannot read the expression '{text}' {where}{hint}; for example: {EXAMPLE}"


def _part(tree: Any, *, negated: bool, depth: int) -> Part:
    """A part of the tree, with every `not` moved to the tests."""
    if depth > DEEPEST:
        raise UserError(f"the expression is nested more than {DEEPEST} deep; write it flatter")
    kind, inner = str(tree.data), tree.children
    if kind == "negated":
        return _part(inner[0], negated=not negated, depth=depth + 1)
    if kind in ("either", "both"):
        parts = tuple(_part(one, negated=negated, depth=depth + 1) for one in inner)
        # De Morgan: where no part may hold, each must fail.
        return Some(parts=parts) if (kind == "either") is not negated else Every(parts=parts)
    return _test(kind, inner, negated=negated)


def _test(kind: str, inner: Sequence[Any], *, negated: bool) -> Test:
    path = [_unquoted(str(t)) if t.type == "TEXT" else str(t) for t in inner[0].children]
    of, name = facts.reader(path), ".".join(path)
    if kind == "held":
        return Test(fact=name, op="held", values=(True,), negated=negated, of=of)
    if kind == "compared":
        sign, value = str(inner[1]), _literal(inner[2])
        # '!=' is not '==': so it also holds where the fact is not known
        positive = {"!=": "==", "!~": "~"}.get(sign, sign)
        turned = negated is not (positive != sign)
        if positive == "~" and not isinstance(value, str):
            raise UserError(f"'{name} {sign}' takes a pattern in quotes, such as \"jetson-*\"")
        return Test(fact=name, op=positive, values=(value,), negated=turned, of=of)
    values = tuple(_literal(one) for one in inner[-1].children)
    return Test(
        fact=name, op="==", values=values, negated=negated is not (kind == "without"), of=of
    )


def _literal(tree: Any) -> Value:
    token = tree.children[0]
    if token.type == "TEXT":
        return _unquoted(str(token))
    if token.type == "AGO":
        raise UserError(f"'{token}' is of no moment here: write the time, such as \"2026-11-25\"")
    if token.type == "NUMBER":
        return float(token)
    return bool(token.type == "TRUE")


def _unquoted(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError) as error:
        raise UserError(f'{text} is no text: only \\" \\\\ \\n and the like follow a \\') from error
