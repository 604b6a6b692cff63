"""LoRAs that prompts name are found where people keep them, each read once; what is not there is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdtune.core import lora_file
from sdtune.core.applied import read
from sdtune.core.lora import Lora, LoraModule
from sdtune.core.run_folder import RunFolder
from sdtune.core.sampling.grammar import LoraTag, without_loras
from sdtune.core.sampling.named_loras import NamedLoras, together
from sdtune.errors import ConfigError

QUERY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def lora_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("lora") / "a.safetensors"
    lora_file.write(file, Lora({QUERY: LoraModule(torch.ones(1, 8), torch.ones(8, 1), 1.0)}, "sd1"))
    return file.read_bytes()


Put = Callable[[str], Path]


@pytest.fixture
def put(lora_bytes: bytes) -> Put:
    def write(name: str) -> Path:
        path = Path(f"{name}.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lora_bytes)
        return path

    return write


def tag(name: str, strength: str = "1", blocks: str | None = None) -> LoraTag:
    return LoraTag(name, strength, blocks, 3)


def found(name: str, folder: Path | None = None, known: tuple[str, ...] = ()) -> Path:
    return NamedLoras(folder, [read(text) for text in known]).find(tag(name), "here").path


def run(name: str, put: Put, lora: str) -> Path:
    made = RunFolder(Path("runs") / name, lora).create(f'model = "mini"\n[data]\nfolder = "sets/{lora}"\n')
    return put(f"{made.path}/{lora}")


def test_names_lead_to_files_and_runs_in_a_few_folders(put: Put) -> None:
    here, kept, below = put("here"), put("loras/kept"), put("loras/people/anna")
    trained = run("cats-1", put, "cats")
    put("elsewhere/hidden")
    for name, path in {
        "here": here,
        "here.safetensors": here,
        " here ": here,
        "kept": kept,
        "loras/kept": kept,
        "anna": below,
        "people/anna": below,
        "cats-1": trained,
        "runs/cats-1": trained,
        "cats": trained,
        "HERE": here,
        "Anna": below,
        "CATS-1": trained,
    }.items():
        assert found(name).resolve() == path.resolve(), name
    with pytest.raises(ConfigError, match="there is no LoRA of this name"):
        found("hidden")
    assert found("elsewhere/hidden") == Path("elsewhere/hidden.safetensors")


def test_a_folder_that_is_told_is_the_only_one(put: Put) -> None:
    put("here")
    mine = put("mine/sub/cats")
    assert found("cats", Path("mine")) == mine
    with pytest.raises(ConfigError, match=r"<lora:here>: there is no LoRA of this name \(mine/\); check its name"):
        found("here", Path("mine"))
    with pytest.raises(ConfigError, match="--lora-folder nowhere: no such folder"):
        NamedLoras(Path("nowhere"), [])


def test_one_of_those_for_every_prompt_is_that_one_at_the_strength_of_the_tag(put: Put) -> None:
    given, other = read(f"{put('far/away/cats')}:0.3"), read(f"{put('far/dogs')}:0.4")
    put("loras/cats")
    named = NamedLoras(None, [given, other]).find(tag("cats", "0.8"), "here")
    assert (named.path, named.strength.usual) == (given.path, 0.8)
    assert named.lora is given.lora
    assert together([given, other], [named]) == (named, other)
    fresh = NamedLoras(None, []).find(tag("far/dogs"), "here")
    assert together([given, other], [fresh, named]) == (named, fresh)
    assert found("CATS", None, ("far/away/cats.safetensors",)) == given.path


def test_strengths_are_read_as_those_of_the_command(put: Put) -> None:
    put("cats")
    named = NamedLoras(None, [])
    one = named.find(tag("cats", "-0.5", "mid_block=0.2"), "here")
    assert (one.strength.usual, one.strength.blocks) == (-0.5, {"mid_block": 0.2})
    for strength, blocks, told in (
        ("x", None, "its strength should be a number from -100 to 100"),
        ("1", "up_bloks=1", "the LoRA has no block up_bloks"),
        ("1", "a=b=c", "should be a number"),
    ):
        with pytest.raises(ConfigError, match=rf"^here, column 3: <lora:cats>.*{told}"):
            named.find(tag("cats", strength, blocks), "here")


def test_a_tag_of_a_prompt_is_found(put: Put) -> None:
    path = put("cats")
    text, (one,) = without_loras("a cat <lora:cats:0.8>", "here")
    assert text.strip() == "a cat"
    assert NamedLoras(None, []).find(one, "here").path == path


def test_each_file_is_read_once(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = put("loras/cats"), list[Path]()
    whole = lora_file.read
    monkeypatch.setattr(lora_file, "read", lambda place: reads.append(place) or whole(place))
    named = NamedLoras(None, [])
    loras = [named.find(tag(name, strength), "here") for name in ("cats", "Cats", "loras/cats") for strength in "12"]
    assert reads == [path]
    assert {id(one.lora) for one in loras} == {id(loras[0].lora)}
    assert [one.strength.usual for one in loras] == [1, 2] * 3


def test_a_name_that_may_be_several_is_told(put: Put) -> None:
    put("cats")
    put("loras/cats")
    with pytest.raises(ConfigError, match=r"may be any of cats\.safetensors, loras/cats\.safetensors; name its folder"):
        found("cats")
    run("birds-1", put, "birds")
    run("birds-2", put, "birds")
    with pytest.raises(ConfigError, match=r"may be any of runs/birds-1/birds.*, runs/birds-2/birds"):
        found("birds")
    assert found("birds-2") == Path("runs/birds-2/birds.safetensors")
    put("loras/Fish")
    put("loras/FISH")
    assert found("FISH") == Path("loras/FISH.safetensors")
    with pytest.raises(ConfigError, match="may be any of loras/FISH"):
        found("fish")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cat", r"there is no LoRA of this name \(here, loras/, runs/\); did you mean <lora:cats>\?"),
        ("zzz", "check its name, or give its folder with --lora-folder"),
        ("../cats", "is no name of a LoRA in a folder; give the file itself with --lora"),
        ("/etc/passwd", "is no name of a LoRA in a folder"),
        ("~/cats", "is no name of a LoRA in a folder"),
        (".", "is no name of a LoRA in a folder"),
        ("", "is no name of a LoRA in a folder"),
        ("a\0b", "there is no LoRA of this name"),
        ("x" * 5000, "there is no LoRA of this name"),
        ("broken", r"broken\.safetensors: "),
        ("empty", "there is no LoRA of this name"),
    ],
)
def test_what_cannot_be_found_is_told(name: str, told: str, put: Put) -> None:
    put("loras/cats")
    Path("loras/broken.safetensors").write_bytes(b"no LoRA")
    Path("loras/empty").mkdir()
    with pytest.raises(ConfigError, match=told) as caught:
        found(name)
    assert str(caught.value).startswith("here, column 3: <lora:")
    assert len(caught.value.problems) == 1


def test_a_tag_is_told_as_it_was_written(put: Put) -> None:
    put("loras/cats")
    for text, told in (("<lyco:dogs:1>", "<lyco:dogs>"), (f"<lora:{'a' * 3000}>", f"<lora:{'a' * 60}...>")):
        (one,) = without_loras(text, "here")[1]
        with pytest.raises(ConfigError) as caught:
            NamedLoras(None, []).find(one, "here")
        assert str(caught.value).startswith(f"here, column 1: {told}: there is no LoRA")
        assert len(str(caught.value)) < 300


def test_a_folder_of_anything_is_looked_through_to_an_end(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    near = put("all/a/near")
    put("all/" + "x/" * 25 + "deep")
    assert found("near", Path("all")) == near
    with pytest.raises(ConfigError, match="there is no LoRA of this name"):
        found("deep", Path("all"))
    for number in range(5):
        Path(f"all/{number}.txt").touch()
    monkeypatch.setattr("sdtune.core.sampling.named_loras.MAX_FILES", 5)
    with pytest.raises(ConfigError, match="there is no LoRA of this name"):
        found("near", Path("all"))
