"""The tagger, on networks of which it is known what they see."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdtune.choices.captioners import WD
from sdtune.core.captioners import Picture, load
from sdtune.errors import ConfigError, ModelError
from sdtune.tables import Memory

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CPU = Memory(device="cpu")
SIDE = 8
TAGS = {"general": 9, "explicit": 9, "blue_sky": 0, "^_^": 0, "red": 0, "hatsune_miku": 4}


def network(folder: Path, weight: np.ndarray, bias: np.ndarray, batch: int | str = "n", tags: Any = TAGS) -> Path:
    """A folder with sigmoid(pixels . weight + bias), [SIDE, SIDE, 3] -> a probability a tag."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["sums"]),
        helper.make_node("Sigmoid", ["sums"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [batch, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [batch, len(bias)])],
        [
            numpy_helper.from_array(weight.reshape(SIDE * SIDE * 3, -1).astype(np.float32), "weight"),
            numpy_helper.from_array(bias.astype(np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    rows = [f"{i},{name},{category},1" for i, (name, category) in enumerate(tags.items())]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]) + "\n")
    return folder


def saying(folder: Path, *probabilities: float, **more: Any) -> Path:
    """A network that says these probabilities of everything."""
    p = np.array(probabilities)
    return network(folder, np.zeros((SIDE, SIDE, 3, len(p))), np.log(p / (1 - p)), **more)


def seeing(folder: Path, places: list[tuple[int, int, int]], bias: float = 0.0) -> Path:
    """A network whose probability of tag i is sigmoid((value at row, column, channel i + bias) / 100)."""
    weight = np.zeros((SIDE, SIDE, 3, len(places)))
    for i, place in enumerate(places):
        weight[(*place, i)] = 0.01
    return network(folder, weight, np.full(len(places), bias / 100), tags={f"tag{i}": 0 for i in range(len(places))})


def values(folder: Path, image: Image.Image, count: int, bias: float = 0.0) -> list[int]:
    told = load(WD(model=str(folder), general=0), CPU).describe([Picture(Path("a.png"), image)])[0]
    scores = {one.text: one.score for one in told}
    found = [scores[f"tag{i}"] for i in range(count)]
    return [round(100 * float(np.log(p / (1 - p))) - bias) for p in found]


def test_pixels_come_in_blue_green_red_from_0_to_255(tmp_path: Path) -> None:
    folder = seeing(tmp_path, [(0, 0, 0), (0, 0, 1), (0, 0, 2)], bias=-100)
    assert values(folder, Image.new("RGB", (30, 30), (250, 120, 10)), 3, bias=-100) == [10, 120, 250]


def test_a_wide_image_stands_in_the_middle_of_a_white_square(tmp_path: Path) -> None:
    folder = seeing(tmp_path, [(0, 4, 1), (4, 4, 1), (7, 4, 1), (4, 0, 1), (4, 7, 1)], bias=-100)
    assert values(folder, Image.new("RGB", (64, 32)), 5, bias=-100) == [255, 0, 255, 0, 0]
    assert values(folder, Image.new("RGB", (32, 64)), 5, bias=-100) == [0, 0, 0, 255, 255]


def test_scaling_is_bicubic(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))[3, 5, 0]
    assert values(seeing(tmp_path, [(3, 5, 2)], bias=-100), image, 1, bias=-100) == [expected]


def told(folder: Path, **settings: Any) -> list[tuple[str, float]]:
    picture = Picture(Path("a.png"), Image.new("RGB", (10, 10)))
    (tags,) = load(WD(model=str(folder), **settings), CPU).describe([picture])
    return [(tag.text, round(tag.score, 3)) for tag in tags]


def test_tags_are_taken_by_the_threshold_of_their_category(tmp_path: Path) -> None:
    folder = saying(tmp_path, 0.9, 0.2, 0.4, 0.36, 0.34, 0.84)
    assert told(folder) == [("blue sky", 0.4), ("^_^", 0.36)]
    assert told(folder, character=0.8) == [("hatsune miku", 0.84), ("blue sky", 0.4), ("^_^", 0.36)]
    assert told(folder, general=0.5, rating=True) == [("general", 0.9)]
    assert told(folder, general=0.3, underscores=True) == [("blue_sky", 0.4), ("^_^", 0.36), ("red", 0.34)]


def test_faces_keep_their_underscores(tmp_path: Path) -> None:
    faces = ["0_0", "(o)_(o)", "+_-", "._.", "<|>_<|>", "=_=", ">_<", "3_3", ">_o", "@_@", "u_u", "x_x", "||_||", "o_o"]
    words = {"long_hair": "long hair", "1girl": "1girl", "on_bed": "on bed", "no_shirt": "no shirt", "4_arms": "4 arms"}
    tags = dict.fromkeys([*faces, *words], 0)
    found = told(saying(tmp_path, *[0.9] * len(tags), tags=tags))
    assert {name for name, _ in found} == {*faces, *words.values()}


def test_a_network_for_one_image_at_a_time_takes_three(tmp_path: Path) -> None:
    colours = ["black", "white", "red"]
    pictures = [Picture(Path(f"{one}.png"), Image.new("RGB", (9, 9), one)) for one in colours]
    weight = np.zeros((SIDE, SIDE, 3, 2))
    weight[0, 0, 2, 0] = weight[0, 0, 0, 1] = 0.1
    tags = {"reddish": 0, "bluish": 0}
    for batch in (1, "n"):
        folder = network(tmp_path / str(batch), weight, np.full(2, -5.0), batch, tags)
        found = load(WD(model=str(folder)), CPU).describe(pictures)
        assert [{tag.text for tag in one} for one in found] == [set(), {"reddish", "bluish"}, {"reddish"}]


def graph_of(
    folder: Path, inputs: dict[str, list[Any]], nodes: list[Any], outputs: list[str], *, kind: Any = None
) -> Path:
    """A network with these inputs and outputs, and a table of two tags."""
    helper, of = onnx.helper, kind or onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info(name, of, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.full((2, 2), 0.9, np.float32), "two")],
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    (folder / "selected_tags.csv").write_text("tag_id,name,category\n0,a,0\n1,b,0\n")
    return folder


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (["n", 8, 4, 3], "not images [n, side, side, 3]"),
        ([0, 8, 8, 3], "not images"),
        ([10**6, 8, 8, 3], "not images"),
        (["n", 0, 0, 3], "not images"),
        (["n", 10**6, 10**6, 3], "side up to 2048"),
        (["n", "side", "side", 3], "not images"),
        (["n", 8, 8], "not images"),
    ],
)
def test_a_network_that_takes_no_images_is_told_when_it_is_loaded(shape: list[Any], words: str, tmp_path: Path) -> None:
    folder = graph_of(tmp_path, {"x": shape}, [onnx.helper.make_node("Flatten", ["x"], ["y"])], ["y"])
    with pytest.raises(ModelError) as error:
        load(WD(model=str(folder)), CPU)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_other_networks_are_told_in_one_line(tmp_path: Path) -> None:
    node, images = onnx.helper.make_node, {"x": ["n", SIDE, SIDE, 3]}
    flat = node("Flatten", ["x"], ["y"])
    beyond = [
        node("ReduceSum", ["x"], ["black"], keepdims=0),
        node("ReduceSum", ["two"], ["three"], keepdims=0),
        node("Add", ["black", "three"], ["sum"]),
        node("Cast", ["sum"], ["row"], to=7),
        node("Gather", ["two", "row"], ["z"]),
    ]
    odd = {
        "takes 0 inputs": graph_of(tmp_path / "none", {}, [node("Identity", ["two"], ["y"])], ["y"]),
        "takes 2 inputs": graph_of(
            tmp_path / "two", {**images, "z": ["n"]}, [flat, node("Identity", ["z"], ["w"])], ["y", "w"]
        ),
        "tensor(double)": graph_of(
            tmp_path / "double", images, [node("Cast", ["x"], ["y"], to=1)], ["y"], kind=onnx.TensorProto.DOUBLE
        ),
        "gives [] for 1 images": graph_of(
            tmp_path / "scalar", images, [node("ReduceMean", ["x"], ["y"], keepdims=0)], ["y"]
        ),
        "gives [2, 2] for 1 images": graph_of(tmp_path / "rows", images, [node("Identity", ["two"], ["y"])], ["y"]),
        "cannot be run": graph_of(tmp_path / "fails", images, beyond, ["z"]),
    }
    for words, folder in odd.items():
        with pytest.raises(ModelError) as error:
            told(folder)
        assert words in str(error.value)
        assert "\n" not in str(error.value)


def test_a_network_for_four_images_at_a_time_takes_three(tmp_path: Path) -> None:
    folder = saying(tmp_path, *[0.9] * 6, batch=4)
    found = load(WD(model=str(folder)), CPU).describe([Picture(Path("a.png"), Image.new("RGB", (9, 9)))] * 3)
    assert [len(one) for one in found] == [4] * 3


def test_what_is_missing_or_broken_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = saying(tmp_path / "whole", *[0.5] * 6)
    fewer = saying(tmp_path / "fewer", *[0.5] * 5)
    (tmp_path / "empty").mkdir()
    noise = saying(tmp_path / "noise", *[0.5] * 6)
    (noise / "model.onnx").write_bytes(b"no network")
    table = saying(tmp_path / "table", *[0.5] * 6)
    (table / "selected_tags.csv").write_text("a,b\n1,2\n")
    for folder, words in {
        tmp_path / "empty": "no model.onnx",
        tmp_path / "nowhere": "no such folder",
        fewer: "5 probabilities for the 6 tags",
        noise: "cannot be loaded",
        table: "not a table with name and category",
    }.items():
        with pytest.raises(ModelError, match=words) as error:
            told(folder)
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="pip install onnxruntime"):
        told(whole)
