"""Whether an expression can hold of any device at all: what excludes itself is refused, and said.

Not a proof: an expression that passes may still hold of nobody. What is found is what people write:
one fact that is to be two things, limits that cross, something and its opposite.
"""

from __future__ import annotations

from controller.domain import facts
from controller.domain.facts import PLAIN
from controller.domain.selection import Every, Part, Some, Test

SEVERAL = frozenset({"release", "variant", "understands"})
"""Facts of which a device may have more than one."""
_LOWER, _UPPER = (">", ">="), ("<", "<=")


def found(part: Part) -> str:
    """What excludes what, in words; empty: nothing that was found."""
    if isinstance(part, Test):
        return ""
    if isinstance(part, Some):
        said = [found(one) for one in part.parts]
        return said[0] if said and all(said) else ""
    return _of_every(part)


def _of_every(part: Every) -> str:
    flat = _flat(part)
    tests = [one for one in flat if isinstance(one, Test)]
    by_fact: dict[str, list[Test]] = {}
    for test in tests:
        by_fact.setdefault(test.fact, []).append(test)
    for fact, about in by_fact.items():
        said = "" if fact in SEVERAL else _of_fact(fact, about)
        if said:
            return said
    for one in flat:
        if isinstance(one, Some):
            branches = [_of_every(Every(parts=(*tests, branch))) for branch in one.parts]
            if branches and all(branches):
                return branches[0]
    return ""


def _flat(part: Every) -> list[Part]:
    inner = [_flat(one) if isinstance(one, Every) else [one] for one in part.parts]
    return [one for some in inner for one in some]


def _of_fact(fact: str, tests: list[Test]) -> str:
    """What is wrong with several tests of one fact that has at most one value."""
    wanted = next((t for t in tests if t.op == "==" and not t.negated), None)
    if wanted is None and fact in PLAIN and any(t.op == "held" for t in tests):
        wanted = next(t for t in tests if t.op == "held")
        values: tuple[facts.Value, ...] = (not wanted.negated,)
    elif wanted is not None:
        values = wanted.values
    else:
        return _crossing(fact, tests) or _opposed(fact, tests)
    left = [v for v in values if all(_allows(t, v) for t in tests)]
    if left:
        return ""
    other = next((t for t in tests if not any(_allows(t, v) for v in values)), tests[-1])
    return f"{fact} cannot be {_or(values)} and {_words(other)} at once"


def _allows(test: Test, value: facts.Value) -> bool:
    return any(facts.compare(value, test.op, v) for v in test.values) is not test.negated


def _crossing(fact: str, tests: list[Test]) -> str:
    lower = [t for t in tests if t.op in _LOWER and not t.negated]
    upper = [t for t in tests if t.op in _UPPER and not t.negated]
    for low in lower:
        for high in upper:
            strict = ">" if ">" in (low.op, high.op.replace("<", ">")) else ">="
            if not facts.compare(high.values[0], strict, low.values[0]):
                return f"{fact} cannot be {_words(low)} and {_words(high)} at once"
    return ""


def _opposed(fact: str, tests: list[Test]) -> str:
    said = {(t.op, t.values, t.negated) for t in tests}
    for op, values, negated in sorted(said, key=str):
        if not negated and (op, values, True) in said:
            return f"{fact} is asked for, and its opposite, at once"
    return ""


def _or(values: tuple[facts.Value, ...]) -> str:
    return " or ".join(facts.shown(value) for value in values)


def _words(test: Test) -> str:
    if test.op == "held":
        return facts.shown(not test.negated)
    sign = "" if test.op == "==" else f"{test.op} "
    return f"{'not ' * test.negated}{sign}{_or(test.values)}"
