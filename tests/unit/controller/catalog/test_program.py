"""Exported programs: plain ones load; what could run code is refused before torch sees it."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from controller.catalog import program
from controller.errors import WorkloadError

Change = Callable[[str, bytes], bytes | None]


class Net(nn.Module):
    """A convolution and a mean: a free batch, one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.norm(self.conv(images)).mean(dim=(2, 3))
        return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    example = (torch.zeros(2, 1, 6, 6),)
    made = torch.export.export(Net().eval(), example, dynamic_shapes=({0: batch},))
    torch.export.save(made, path)
    return path


def changed(source: Path, target: Path, change: Change) -> Path:
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(target, "w") as made:
        for name in given.namelist():
            content = change(name, given.read(name))
            if content is not None:
                made.writestr(name, content)
    return target


class Marks:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self._path, "run"))


def in_json(ending: str, **values: Any) -> Change:
    """Set keys wherever they stand in a JSON file."""

    def put(item: Any) -> Any:
        if isinstance(item, dict):
            return {k: values[k] if k in values else put(v) for k, v in item.items()}
        return [put(v) for v in item] if isinstance(item, list) else item

    return lambda name, content: (
        json.dumps(put(json.loads(content))).encode() if name.endswith(ending) else content
    )


def node(kind: str, context: str) -> str:
    """Arguments in a container of one kind, as torch writes them."""
    return json.dumps([1, {"type": kind, "context": context, "children_spec": []}])


DEFAULTDICT = node(
    "collections.defaultdict",
    '{"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": []}',
)
ENUM = node("builtins.dict", '[{"\\u005f_enum__": true, "fqn": "antigravity:x", "name": "y"}]')


def escaped_enum(name: str, content: bytes) -> bytes:
    """A key that no search of the bytes finds."""
    if not name.endswith("model.json"):
        return content
    return content.replace(b"{", b'{"\\u005f_enum__": true, ', 1)


def test_a_plain_program_answers_as_the_module_did(plain: Path) -> None:
    found = program.load(plain).module()(torch.ones(5, 1, 6, 6))
    direct = torch.export.load(str(plain)).module()(torch.ones(5, 1, 6, 6))
    assert np.array_equal(found.detach().numpy(), direct.detach().numpy())


def test_example_inputs_that_unpickle_more_are_not_unpickled(plain: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    bad = pickle.dumps(Marks(mark))

    def change(name: str, content: bytes) -> bytes:
        return bad if "sample_inputs" in name else content

    with pytest.raises(WorkloadError, match="example inputs"):
        program.load(changed(plain, tmp_path / "bad.pt2", change))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_json("weights_config.json", use_pickle=True), "pickled tensors"),
        (in_json("weights_config.json", path_name="custom_obj_0"), "the custom object"),
        (in_json("model.json", target="torch.hub.load"), "the operator 'torch.hub.load'"),
        (in_json("model.json", target="torch.ops.mine.run.default"), "the operator"),
        (in_json("model.json", expr_str="__import__('os').getpid()"), "the size '__import__"),
        (in_json("model.json", expr_str="s0.real"), "the size 's0.real'"),
        (in_json("model.json", in_spec=DEFAULTDICT), "the structure"),
        (in_json("model.json", out_spec=ENUM), "the structure"),
        (in_json("model.json", out_spec="no JSON"), "the structure 'no JSON'"),
        (escaped_enum, "a value of a Python class"),
    ],
)
def test_what_could_run_code_is_refused_by_name(
    plain: Path, tmp_path: Path, change: Change, words: str
) -> None:
    bad = changed(plain, tmp_path / "bad.pt2", change)
    with pytest.raises(WorkloadError, match="bad.pt2 is refused: loading .*could run code") as why:
        program.load(bad)
    assert words in str(why.value)
    assert "or give an ONNX file" in str(why.value)


def test_libraries_and_older_archives_are_refused(plain: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pt2"
    bad.write_bytes(plain.read_bytes())
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr("net/data/aotinductor/model/model.so", b"\x7fELF")
    with pytest.raises(WorkloadError, match="data/aotinductor/model/model.so"):
        program.load(bad)


def test_guards_are_text_that_is_not_run(plain: Path) -> None:
    with zipfile.ZipFile(program.cleaned(plain)) as archive:
        (name,) = (n for n in archive.namelist() if "/models/" in n)
        assert json.loads(archive.read(name)).get("guards_code", []) == []


@pytest.mark.parametrize("content", [b"", b"not a zip", pickle.dumps({"a": 1})])
def test_what_is_no_archive_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(WorkloadError, match="net.pt2 is no exported program"):
        program.load(tmp_path / "net.pt2")


def test_an_empty_archive_is_said(tmp_path: Path) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w"):
        pass
    (tmp_path / "net.pt2").write_bytes(held.getvalue())
    with pytest.raises(WorkloadError, match="net.pt2 cannot be loaded"):
        program.load(tmp_path / "net.pt2")
