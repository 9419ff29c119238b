"""What the supervisor's process leaves out, and that whoever asks gets it all the same."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from agent import thin

LEFT_OUT = (
    "google.protobuf.internal.python_message", "google.protobuf.text_format", "inspect",
    "http.client", "urllib.request",
)  # fmt: skip
SCRIPT = f"""
import json, sys
import agent.__main__
agent.thin.prepare()
import agent.cli, agent.loop, agent.build, agent.transport.mqtt
left = [name for name in {LEFT_OUT} if name in sys.modules]
import dataclasses, inspect, linecache
from google.protobuf.internal import python_message
@dataclasses.dataclass
class Plain:
    number: int
print(json.dumps([left, Plain.__doc__, inspect.ismodule(inspect), python_message.__name__,
    linecache.getline(agent.thin.__file__, 1)[:3]]))
"""


def test_a_supervisor_imports_what_it_uses() -> None:
    said = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path = {sys.path!r}\n{SCRIPT}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert json.loads(said) == [[], "Plain(number: int)", True, LEFT_OUT[0], '"""']


def test_what_is_there_already_stays() -> None:
    found = thin.load("dataclasses", without="inspect")
    assert found is sys.modules["dataclasses"]
    assert not isinstance(sys.modules["inspect"], thin.Later)


def test_the_answers_are_those_of_the_class_itself() -> None:
    @dataclass
    class Base:
        """One."""

        one: int

    class Other(Base):
        two = 2

    assert thin._annotations(Base) == {"one": "int"}
    assert thin._annotations(Other) == {}
