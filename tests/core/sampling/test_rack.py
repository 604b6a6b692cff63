"""LoRAs that come and go: each set acts as on a fresh model, and the last leaves nothing behind."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdtune.core import lora_names
from sdtune.core.adapters import Adapter, adapters
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.embedding import embeddings_into
from sdtune.core.families import Family, family_named
from sdtune.core.lora import Lora, load_all
from sdtune.core.sampling import rack as racks
from sdtune.core.sampling.rack import Rack, acting_on, must_fit_all
from sdtune.errors import LoraError
from tests import tiny
from tests.core.some_loras import lora as plain
from tests.core.test_lora import network, numbers

PROMPT = "a red apple by sks"
STRENGTHS = (-0.5, 0.0, 0.3, 1.0)


def parts_of(family: Family, pipe: Any) -> list[str]:
    return [part for part in (family.denoiser, *family.text_encoders) if getattr(pipe, part) is not None]


def mixed(family_name: str, seed: int) -> Lora:
    """Every network, and a change of biases, in the denoiser and in the text encoders."""
    pipe, family = tiny.pipeline(family_name), family_named(family_name)
    drawn = random.Random(seed)
    modules: dict[str, Adapter] = {}
    biases = {}
    for part in parts_of(family, pipe):
        for path, layer in getattr(pipe, part).named_modules():
            name = lora_names.from_dotted(f"{part}.{path}")
            weight = getattr(layer, "weight", None)
            if not name or not isinstance(weight, Tensor) or drawn.random() > 0.3:
                continue
            any_kind = weight.ndim > 1 and not weight.shape[0] % 4 and not weight.shape[1] % 2
            kind = drawn.choice(list(adapters())) if any_kind else "difference"
            modules[name] = network(kind, weight.shape, seed)
            if getattr(layer, "bias", None) is not None and drawn.random() < 0.3:
                biases[name] = numbers(layer.bias.shape, seed)
    assert {one.kind for one in modules.values()} == set(adapters())
    return Lora(modules, family_name, biases=biases)


def with_word(of: Lora, pipe: Any, word: str, seed: int) -> Lora:
    family = family_named(of.family or "")
    rows = {part: numbers((2, getattr(pipe, part).config.hidden_size), seed) for part in family.clips}
    return replace(of, embeddings={word: rows})


def applied(of: Lora, strength: float = 1.0, blocks: Mapping[str, float] | None = None, name: str = "a") -> Applied:
    return Applied(Path(f"{name}.safetensors"), of, Strength(strength, blocks or {}))


def state(pipe: Any, family: Family) -> dict[str, bytes]:
    """Every module, weight and token."""
    found = {}
    for part in parts_of(family, pipe):
        net = getattr(pipe, part)
        found |= {f"{part}.{name}": value.numpy().tobytes() for name, value in net.state_dict().items()}
        found |= {f"{part}.{name}": type(layer).__name__.encode() for name, layer in net.named_modules()}
        found[part] = str(sorted(name for name in vars(net) if "peft" in name)).encode()
        inner = getattr(net, "text_model", net)
        found[f"{part} end"] = str(getattr(inner, "eos_token_id", None)).encode()
    for part in family.clips:
        tokenizer = getattr(pipe, part.replace("text_encoder", "tokenizer"))
        found[f"{part} words"] = str(sorted(tokenizer.get_vocab().items())).encode()
    return found


def answer(pipe: Any, family: Family) -> bytes:
    """What the denoiser says after the text encoders have read a prompt."""
    net = getattr(pipe, family.denoiser)
    with torch.no_grad():
        told = family.encode_captions(pipe, [PROMPT])
        size = family.condition_on_size((64, 64), (0, 0), (64, 64))
        given = told | {name: value[None] for name, value in size.items()}
        drawn = torch.Generator().manual_seed(4)
        noise = torch.randn(1, net.config.in_channels, 8, 8, generator=drawn)
        said: bytes = family.denoise(net, noise, torch.tensor([300.0]), given).numpy().tobytes()
    return said


def fresh(family_name: str, some: Sequence[Applied]) -> bytes:
    """The answer of a model that never had others."""
    pipe, family = tiny.pipeline(family_name), family_named(family_name)
    load_all(pipe, some)
    for one in {id(one.lora): one for one in some}.values():
        embeddings_into(pipe, family, one.lora)
    return answer(pipe, family)


def test_each_set_acts_as_on_a_fresh_model(family_name: str) -> None:
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    before, base = state(pipe, family), answer(pipe, family)
    loras = [plain(family_name), plain(family_name, rank=2, seed=1), mixed(family_name, 1)]
    loras.append(with_word(mixed(family_name, 2), pipe, "sks", 3))
    racks = [Rack(pipe, family, family.text_encoders), Rack(pipe, family, (family.denoiser,))]
    drawn = random.Random(7)
    answers = set()
    for _ in range(3 if family_name == "sdxl" else 5):
        some = [
            applied(one, drawn.choice(STRENGTHS), {"text": drawn.choice(STRENGTHS)} if drawn.random() < 0.4 else {})
            for one in drawn.sample(loras, drawn.choice([1, 1, 2, 3]))
        ]
        if drawn.random() < 0.3:
            some.append(replace(some[0], strength=Strength(0.7)))
        for other in (some, [replace(one, strength=Strength(drawn.choice(STRENGTHS))) for one in some]):
            for rack in racks:
                rack.use(other)
            found = answer(pipe, family)
            assert found == fresh(family_name, other)
            answers.add(found)
    assert len(answers) > 4
    for rack in racks:
        rack.use([])
    assert state(pipe, family) == before
    assert answer(pipe, family) == base


@pytest.mark.parametrize("kind", ["plain", "mixed"])
def test_at_no_strength_it_is_the_base(kind: str) -> None:
    family, pipe = family_named("sd1"), tiny.pipeline("sd1")
    before, base = state(pipe, family), answer(pipe, family)
    one = plain("sd1") if kind == "plain" else mixed("sd1", 1)
    rack = Rack(pipe, family, parts_of(family, pipe))
    for strength in (0.0, 1.0, 0.0):
        rack.use([applied(one, strength)])
        assert (state(pipe, family) == before) == (not strength)
        assert (answer(pipe, family) == base) == (not strength)


def test_nothing_is_done_where_they_act_already(monkeypatch: pytest.MonkeyPatch) -> None:
    family, pipe = family_named("sd1"), tiny.pipeline("sd1")
    rack = Rack(pipe, family, parts_of(family, pipe))
    some = [applied(with_word(mixed("sd1", 1), pipe, "sks", 3)), applied(plain("sd1"))]
    rack.use(some)
    layers, tokenizer = list(pipe.unet.modules()), pipe.tokenizer
    places = [weight.data_ptr() for weight in pipe.unet.parameters()]
    with monkeypatch.context() as patch:
        patch.setattr("sdtune.core.sampling.rack.all_fitted", None)
        rack.use([replace(one, strength=Strength(1.0)) for one in some])
    rack.use([replace(one, strength=Strength(0.5)) for one in some])
    assert all(one is other for one, other in zip(layers, pipe.unet.modules(), strict=True)), "scaled where they are"
    assert [weight.data_ptr() for weight in pipe.unet.parameters()] == places
    assert pipe.tokenizer is not tokenizer


def test_other_parts_are_left_alone(family_name: str) -> None:
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    encoders = {part: getattr(pipe, part) for part in family.text_encoders}
    before = state(pipe, family)
    Rack(pipe, family, family.text_encoders).use([applied(mixed(family_name, 1))])
    after = state(pipe, family)
    changed = {name.partition(".")[0] for name in before if after.get(name) != before[name]}
    assert changed & {family.denoiser, *encoders} == {part for part, net in encoders.items() if net is not None}
    other = tiny.pipeline(family_name)
    for part in family.text_encoders:  # let go
        setattr(other, part, None)
    Rack(other, family, (family.denoiser,)).use([applied(mixed(family_name, 1))])
    assert isinstance(getattr(other, family.denoiser), nn.Module)


def test_what_the_model_has_not_is_an_error_in_each_phase() -> None:
    third = "text_encoder_3.encoder.block.0.layer.0.SelfAttention.q"
    unet = "unet.mid_block.attentions.0.proj_in"
    family, pipe = family_named("sd3"), tiny.pipeline("sd3")
    texts, draws = Rack(pipe, family, family.text_encoders), Rack(pipe, family, (family.denoiser,))
    one = replace(plain("sd3"), modules={third: network("LoRA", (32, 32))})
    with pytest.raises(
        LoraError, match=r"^a.safetensors: the LoRA changes a text_encoder_3, which the model has not; "
    ):
        texts.use([applied(one)])
    texts.use([applied(one, 0.0)])
    with pytest.raises(LoraError, match="the LoRA changes a unet, which the model has not"):
        draws.use([applied(replace(one, modules={unet: network("LoRA", (32, 32))}))])


def test_what_does_not_fit_the_denoiser_is_told_before_texts_are_read() -> None:
    family, pipe = family_named("sd1"), tiny.pipeline("sd1")
    pipe.unet.to("meta")
    rack = Rack(pipe, family, family.text_encoders)
    rack.use([applied(mixed("sd1", 1))])
    wrong = Lora({"unet.mid_block.attentions.0.proj_in": network("LoRA", (64, 64, 1, 1))}, "sd1")
    with pytest.raises(LoraError, match=r"^b.safetensors: .*proj_in as \(64, 64\), but in the model it is \(32, 32\)"):
        rack.use([applied(plain("sd1")), applied(wrong, name="b")])
    rack.use([])
    text = Rack(pipe, family, family.text_encoders).parts
    untouched = tiny.pipeline("sd1")
    for name, weight in pipe.text_encoder.state_dict().items():
        assert torch.equal(weight, untouched.text_encoder.state_dict()[name])
    assert text == family.text_encoders


def test_a_word_from_two_sources() -> None:
    family, pipe = family_named("sdxl"), tiny.pipeline("sdxl")
    before = state(pipe, family)
    one, other = (with_word(plain("sdxl", seed=seed), pipe, "sks", seed) for seed in (1, 2))
    rack = Rack(pipe, family, family.text_encoders)
    rack.use([applied(one, 0.5), applied(replace(other, embeddings=one.embeddings), 0.5, name="b")])
    assert rack.words == {"sks": Path("a.safetensors")}
    with pytest.raises(LoraError, match=r'^b.safetensors: "sks", bundled with the LoRA: "sks" was taught by another'):
        rack.use([applied(one), applied(other, name="b")])
    rack.use([applied(other, name="b")])
    assert rack.words == {"sks": Path("b.safetensors")}
    rack.use([])
    assert rack.words == {}
    assert state(pipe, family) == before


def test_words_beside_a_run_come_and_go(tmp_path: Path) -> None:
    family, pipe = family_named("sd1"), tiny.pipeline("sd1")
    base = answer(pipe, family)
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "run.toml").write_text("")
    word = tmp_path / "embeddings" / "sks.safetensors"
    save_file({"emb_params": numbers((2, tiny.WIDTH))}, word)
    one = replace(applied(plain("sd1"), 0.0), path=tmp_path / "cats.safetensors")
    rack = Rack(pipe, family, family.text_encoders)
    rack.use([one, replace(one, path=tmp_path / "cats-best.safetensors")])
    assert rack.words == {"sks": word}
    assert answer(pipe, family) != base
    told = acting_on([one], family.text_encoders)
    save_file({"emb_params": numbers((2, tiny.WIDTH), 1)}, word)
    assert told != acting_on([one], family.text_encoders) != ""
    rack.use([])
    assert answer(pipe, family) == base


def test_keys_tell_what_acts_on_some_parts() -> None:
    family = family_named("sdxl")
    text, pipe = family.text_encoders, tiny.pipeline("sdxl")
    one, other = plain("sdxl"), plain("sdxl", seed=1)
    assert acting_on([], text) == acting_on([applied(one, 0.0)], text) == ""
    assert acting_on([applied(one, 1.0, {"text": 0.0})], text) == ""
    assert acting_on([applied(one, 1.0, {"unet": 0.0})], ("unet",)) == ""
    same = acting_on([applied(one, 0.5)], text)
    assert same == acting_on([applied(replace(one, metadata={}), 0.7, {"text": 0.5}, "b")], text)
    assert same == acting_on([applied(one, 0.5), applied(other, 1.0, {"text": 0.0})], text)
    different = [
        [applied(one, 0.6)],
        [applied(other, 0.5)],
        [applied(one, 0.5), applied(other, 0.5)],
        [applied(other, 0.5), applied(one, 0.5)],
        [applied(one, 0.5, {"text_encoder_2": 0.0})],
        [applied(with_word(one, pipe, "sks", 0), 0.5)],
        [applied(with_word(one, pipe, "zwx", 0), 0.5)],
        [applied(with_word(one, pipe, "sks", 1), 0.5)],
        [applied(one, 0.5), applied(one, 0.5)],
        [applied(mixed("sdxl", 1))],
        [applied(replace(mixed("sdxl", 1), biases={}))],
    ]
    keys = [acting_on(some, text) for some in different]
    assert len({same, *keys}) == len(different) + 1
    assert acting_on([applied(with_word(one, pipe, "sks", 0))], ("unet",)) == acting_on([applied(one)], ("unet",))


def test_a_lora_is_looked_at_once_however_many_its_strengths_are(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = plain("sd1", 0), plain("sd1", 1)
    looked_at: list[Lora] = []
    monkeypatch.setattr(racks, "all_fitted", lambda _, applied: looked_at.extend(each.lora for each in applied))
    strengths = [Strength(number / 10) for number in range(1, 11)] + [Strength(1, {"mid_block": 0.5})]
    must_fit_all(None, [Applied(Path("a"), lora, strength) for strength in strengths for lora in (one, other)])
    assert sorted(map(id, looked_at)) == sorted(map(id, [one, other] * 2))


def test_what_does_not_fit_is_found_without_weights_unless_it_is_left_out() -> None:
    pipe = tiny.pipeline("sd1").to("meta")
    wide = Lora({"unet.conv_in": network("LoRA", (32, 9, 3, 3), 0)}, "sd1")
    fits = Applied(Path("a.safetensors"), plain("sd1", 0), Strength())
    for strength in (Strength(0), Strength(1, {"conv_in": 0})):
        must_fit_all(pipe, [fits, Applied(Path("wide.safetensors"), wide, strength)])
    for strength in (Strength(1), Strength(0, {"conv_in": 0.5})):
        given = [Applied(Path("wide.safetensors"), wide, each) for each in (Strength(0), strength)]
        with pytest.raises(LoraError, match=r"wide\.safetensors: the LoRA changes unet\.conv_in"):
            must_fit_all(pipe, [fits, *given])
