"""Every network does to weights what its own rule says, whatever the layer, and is read back as it was."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdtune.core.adapters import Adapter, LoraModule, adapters
from sdtune.core.adapters.base import flat
from sdtune.core.adapters.lokr import LokrModule
from sdtune.core.lora_keys import NETWORKS
from sdtune.core.weigh_lora import weight_of
from tests.core.adapters.examples import Example, examples, numbers

EXAMPLES = examples()
LONG = dict.fromkeys(("hada_w1_b", "hada_w2_b"), (1, 2**14))


def shaped(*shape: int) -> Tensor:
    """Of no numbers at all."""
    return torch.empty(shape, device="meta")


@pytest.fixture(params=EXAMPLES, ids=lambda name: name.replace(" ", "_"))
def example(request: pytest.FixtureRequest) -> Example:
    """Each of them."""
    return EXAMPLES[request.param]


def made(example: Example) -> Adapter:
    return adapters()[example.kind].from_tensors(example.tensors, example.alpha)


def base(example: Example) -> Tensor:
    return numbers(*example.weight, seed=7)


def test_every_network_whose_keys_are_known_is_there() -> None:
    assert set(adapters()) == set(NETWORKS) == {example.kind for example in EXAMPLES.values()}


def test_it_changes_weights_by_its_rule(example: Example) -> None:
    weight, adapter = base(example), made(example)
    rows = weight.reshape(flat(weight.shape))
    delta = adapter.delta(rows)
    assert delta.dtype == torch.float32
    expected = example.rule(weight.double()) - weight.double()
    torch.testing.assert_close(delta.double(), expected.reshape(rows.shape), rtol=1e-5, atol=1e-5)
    assert torch.equal(rows, weight.reshape(rows.shape)), "the weights themselves stay"


def test_it_depends_on_the_weights_where_it_says_so(example: Example) -> None:
    adapter, rows = made(example), base(example).reshape(flat(example.weight))
    if adapter.needs_base:
        assert not torch.allclose(adapter.delta(rows), adapter.delta(2 * rows + 1))
    else:
        assert torch.equal(adapter.delta(), adapter.delta(rows))


def test_it_is_read_back_as_it_was(example: Example) -> None:
    adapter, rows = made(example), base(example).reshape(flat(example.weight))
    told = adapter.tensors()
    assert set(told) <= NETWORKS[example.kind].roles
    alpha = told.pop("alpha", None)
    again = type(adapter).from_tensors(told, None if alpha is None else float(alpha))
    assert torch.equal(again.delta(rows), adapter.delta(rows))
    same = {role: value for role, value in told.items() if role in example.tensors}
    if "lora_mid.weight" not in example.tensors:
        assert all(torch.equal(value.flatten(), example.tensors[role].flatten()) for role, value in same.items())


def test_halves_of_numbers_do_the_same_in_float32(example: Example) -> None:
    halves = {role: value.half() for role, value in example.tensors.items()}
    wide = {role: value.float() for role, value in halves.items()}
    rows = base(example).reshape(flat(example.weight))
    found, expected = (
        adapters()[example.kind].from_tensors(each, example.alpha).delta(rows) for each in (halves, wide)
    )
    assert torch.equal(found, expected)


def test_it_fits_weights_of_its_shape_alone(example: Example) -> None:
    adapter, (out, *inner) = made(example), example.weight
    assert adapter.fits(example.weight)
    assert not adapter.fits((out + 1, *inner))
    if adapter.kind != "OFT" and inner:
        assert not adapter.fits((out, inner[0] + 1, *inner[1:]))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_share_of_the_outputs_is_that_share_of_the_change(name: str) -> None:
    example = EXAMPLES[name]
    adapter, rows = made(example), base(example).reshape(flat(example.weight))
    whole = adapter.delta(rows)
    if adapter.kind == "OFT" or "DoRA by inputs" in name or name.startswith(("DoRA of a LoHa", "DoRA of a LoKr")):
        with pytest.raises(ValueError, match="of several layers in one, which cannot be told apart"):
            adapter.share(0, 2)
        return
    shares = [adapter.share(number, 2) for number in (0, 1)]
    found = [share.delta(part) for share, part in zip(shares, rows.chunk(2), strict=True)]
    torch.testing.assert_close(torch.cat(found), whole)
    with pytest.raises(ValueError, match="does not make 3 equal layers"):
        adapter.share(0, 3)


def test_of_tuckers_form_a_plain_lora_remains() -> None:
    tucker = EXAMPLES["LoRA of Tucker's form of a conv3"]
    adapter = made(tucker)
    assert isinstance(adapter, LoraModule)
    assert adapter.down.shape == (4, 6, 3, 3)
    assert set(adapter.tensors()) == {"lora_down.weight", "lora_up.weight", "alpha"}


def test_a_magnitude_by_inputs_is_of_channels() -> None:
    adapter = made(EXAMPLES["DoRA by inputs of a conv3"])
    assert adapter.fits((8, 6, 3, 3))
    assert not adapter.fits((8, 54)), "as many numbers, but of 54 channels"


def test_tensors_of_other_dimensions_are_refused_whichever_it_is(example: Example) -> None:
    for role, value in example.tensors.items():
        for shape in ((1, 1, 1, *value.shape, 2), (0, *value.shape[1:])):
            with pytest.raises(ValueError, match=r"^has .*\(.*, which makes? no (LoRA|LoHa|LoKr|DoRA|OFT|difference)"):
                adapters()[example.kind].from_tensors({**example.tensors, role: torch.zeros(shape)}, example.alpha)


def test_a_network_that_is_not_whole_is_refused(example: Example) -> None:
    roles = [role for role in example.tensors if role not in ("rescale", "lora_mid.weight")]
    for role in roles:
        rest = {other: value for other, value in example.tensors.items() if other != role}
        with pytest.raises(ValueError, match=r"^has .*, which (is|make) no (whole )?[LDOd]"):
            adapters()[example.kind].from_tensors(rest, example.alpha)


@pytest.mark.parametrize(
    ("kind", "shapes", "told"),
    [
        ("LoRA", {"lora_down.weight": (1025, 8), "lora_up.weight": (8, 1025)}, "no LoRA of rank 1 to 1024"),
        ("LoRA", {"lora_down.weight": (0, 8), "lora_up.weight": (8, 0)}, "no LoRA of rank 1 to 1024"),
        ("LoRA", {"lora_down.weight": (1, 2**15), "lora_up.weight": (2**15, 1)}, "no LoRA"),
        ("LoRA", {"lora_down.weight": (1, 2**17), "lora_up.weight": (8, 1)}, "no LoRA"),
        ("LoRA", {"lora_down.weight": (4, 8, 3, 1), "lora_up.weight": (8, 4)}, "no LoRA"),
        ("LoRA", {"lora_down.weight": (4, 8, 8, 8), "lora_up.weight": (8, 4)}, "no LoRA"),
        (
            "LoRA",
            {"lora_down.weight": (1, 2**14, 1, 1), "lora_mid.weight": (1, 1, 128, 128), "lora_up.weight": (1, 1)},
            "no LoRA",
        ),
        ("LoHa", dict.fromkeys(("hada_w1_a", "hada_w2_a"), (2**14, 1)) | LONG, "no LoHa"),
        ("LoHa", dict.fromkeys(("hada_w1_a", "hada_w2_a"), (2**13, 1)) | LONG, "no LoHa"),
        ("LoKr", {"lokr_w1": (128, 128), "lokr_w2": (128, 128)}, "no LoKr"),
        ("LoKr", {"lokr_w1": (2, 2), "lokr_w2": (2, 2, 9, 9)}, "no LoKr"),
        ("OFT", {"oft_blocks": (2, 2**13, 2**13)}, "no OFT"),
        ("difference", {"diff": (2**13, 2**13)}, "no difference"),
        ("difference", {"diff": (8, 8, 1, 7)}, "no difference"),
        ("LoRA", {"lora_up.weight": (8, 4)}, r"lora_up\.weight without lora_down\.weight, which is no whole LoRA"),
        ("LoHa", {"hada_w1_a": (8, 4)}, "hada_w1_a without hada_w1_b and hada_w2_a and hada_w2_b"),
        ("LoKr", {"lokr_w1": (8, 4)}, "lokr_w1 without lokr_w2_a and lokr_w2_b"),
        ("LoKr", {"lokr_w1": (2, 2), "lokr_w1_a": (2, 1), "lokr_w2": (2, 2)}, "two tellings of one LoKr"),
        ("LoKr", {"lokr_w1": (2**10, 2**10), "lokr_w2": (2**5, 2**5)}, "make no LoKr"),
        ("OFT", {"oft_blocks": (3, 3, 2, 2)}, "make no OFT"),
        ("difference", {"diff": (3, 3), "w_norm": (3,)}, "no difference of weights"),
        (
            "DoRA",
            {"lora_down.weight": (4, 8), "lora_up.weight": (8, 4), "dora_scale": (3, 1)},
            r"a magnitude of shape \(3, 1\), which makes no DoRA of weights \(8, 8\)",
        ),
    ],
)
def test_what_is_wrong_is_told(kind: str, shapes: dict[str, tuple[int, ...]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        adapters()[kind].from_tensors({role: shaped(*shape) for role, shape in shapes.items()}, None)


@pytest.mark.parametrize("shape", [(10240, 4096), (14592, 2432), (1280, 2560, 3, 3), (49408, 768)])
def test_the_largest_layers_of_the_families_are_read(shape: tuple[int, ...]) -> None:
    out, *inside = shape
    ones = [1] * (len(shape) - 2)
    roles = {
        "LoRA": {"lora_down.weight": (64, *inside), "lora_up.weight": (out, 64, *ones)},
        "LoHa": dict.fromkeys(("hada_w1_a", "hada_w2_a"), (out, 8))
        | dict.fromkeys(("hada_w1_b", "hada_w2_b"), (8, math.prod(inside))),
        "LoKr": {"lokr_w1": (16, 16), "lokr_w2": (out // 16, inside[0] // 16, *inside[1:])},
        "OFT": {"oft_blocks": (out // 16, 16, 16)},
        "difference": {"diff": shape},
    }
    for kind, tensors in roles.items():
        adapter = adapters()[kind].from_tensors({role: shaped(*one) for role, one in tensors.items()}, 1.0)
        assert adapter.fits(shape)


def test_of_few_ranks_there_are_factors_which_make_the_same(example: Example) -> None:
    factors = None if (adapter := made(example)).needs_base else adapter.factors()
    if factors is not None:
        torch.testing.assert_close((factors[0] @ factors[1]).float(), adapter.delta(), rtol=1e-5, atol=1e-5)
    assert factors is not None or example.kind != "LoRA"


def side(out: int, rank: int, inside: int, name: str) -> dict[str, Tensor]:
    return {f"{name}_a": numbers(out, rank), f"{name}_b": numbers(rank, inside, seed=3)}


def core(rank: int, out: int, inside: int, name: str, core_name: str) -> dict[str, Tensor]:
    made = {f"{name}_a": numbers(rank, out), f"{name}_b": numbers(rank, inside, seed=3)}
    return made | {core_name: numbers(rank, rank, 3, 3, seed=4)}


LOW: dict[str, tuple[str, dict[str, Tensor], int]] = {
    "LoHa": ("LoHa", side(96, 2, 80, "hada_w1") | side(96, 3, 80, "hada_w2"), 6),
    "LoHa with cores": ("LoHa", core(2, 96, 20, "hada_w1", "hada_t1") | core(2, 96, 20, "hada_w2", "hada_t2"), 4),
    "LoKr": ("LoKr", {"lokr_w1": numbers(4, 6), **side(24, 3, 20, "lokr_w2")}, 12),
    "LoKr, tall": ("LoKr", {"lokr_w1": numbers(6, 4), **side(24, 3, 20, "lokr_w2")}, 12),
    "LoKr of products": ("LoKr", side(12, 2, 10, "lokr_w1") | side(12, 3, 10, "lokr_w2"), 6),
    "LoKr of wide products": ("LoKr", side(2, 9, 2, "lokr_w1") | side(48, 2, 48, "lokr_w2"), 4),
    "LoKr with a core": ("LoKr", {"lokr_w1": numbers(4, 4), **core(2, 24, 20, "lokr_w2", "lokr_t2")}, 8),
}


@pytest.mark.parametrize("name", LOW)
def test_loha_and_lokr_of_few_ranks_have_factors_and_so_have_shares(name: str) -> None:
    kind, tensors, inner = LOW[name]
    adapter = adapters()[kind].from_tensors(tensors, 1.5)
    factors = adapter.factors()
    assert factors is not None
    assert factors[0].shape[1] == factors[1].shape[0] == inner
    torch.testing.assert_close((factors[0] @ factors[1]).float(), adapter.delta(), rtol=1e-4, atol=1e-4)
    for share, rows in ((share, adapter.delta().chunk(3)[share]) for share in range(3)):
        part = adapter.share(share, 3).factors()
        if part is not None:
            torch.testing.assert_close((part[0] @ part[1]).float(), rows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["LoHa", "LoKr", "LoKr of products", "LoKr with a core"])
def test_a_module_weighs_what_its_change_weighs(name: str) -> None:
    kind, tensors, _ = LOW[name]
    adapter = adapters()[kind].from_tensors(tensors, 1.5)
    for one in (adapter, adapter.share(1, 3)):
        found, values = weight_of(one), torch.linalg.svdvals(one.delta().double())
        shares = values.square() / values.square().sum()
        assert found.norm == pytest.approx(float(values.square().sum().sqrt()), rel=1e-5)
        assert found.largest == pytest.approx(float(values[0]), rel=1e-5)
        effective = -float((shares * shares.clamp_min(1e-30).log()).sum())
        assert math.log(found.effective) == pytest.approx(effective, rel=1e-3)


@pytest.mark.parametrize("outputs", [(6, 4), (4, 6), (5, 9), (9, 5), (2, 9)])
def test_shares_of_a_lokr_are_made_out_when_asked_for_alone(outputs: tuple[int, int]) -> None:
    first, second = numbers(outputs[0], 3), numbers(outputs[1], 4, seed=2)
    adapter = adapters()["LoKr"].from_tensors({"lokr_w1": first, "lokr_w2": second}, None)
    shares = [adapter.share(number, 3) for number in range(3)]
    assert torch.equal(torch.cat([one.delta() for one in shares]), adapter.delta())
    assert sum(one.shape[0] for one in shares) == adapter.shape[0]
    for one in shares:
        assert isinstance(one, LokrModule)
        assert one.second is second
        again = one.tensors()
        alone = adapters()["difference" if "diff" in again else "LoKr"].from_tensors(
            {role: value for role, value in again.items() if role != "alpha"}, None
        )
        assert torch.equal(alone.delta(), one.delta())
    if not shares[1].shape[0] % 2:
        halves = [shares[1].share(number, 2).delta() for number in range(2)]
        assert torch.equal(torch.cat(halves), shares[1].delta())


@pytest.mark.parametrize(
    ("down", "fits", "others"),
    [
        ((4, 6, 3, 3), (8, 6, 3, 3), [(8, 54), (8, 54, 1, 1)]),
        ((4, 9, 2, 2), (8, 9, 2, 2), [(8, 4, 3, 3), (8, 36)]),
        ((4, 1, 6, 6), (8, 1, 6, 6), [(8, 4, 3, 3)]),
        ((4, 36, 1, 1), (8, 36), [(8, 4, 3, 3)]),
        ((4, 36), (8, 36, 1, 1), [(8, 4, 3, 3)]),
    ],
)
def test_kernels_are_those_of_the_weights(
    down: tuple[int, ...], fits: tuple[int, ...], others: list[tuple[int, ...]]
) -> None:
    plain = {"lora_down.weight": torch.ones(down), "lora_up.weight": torch.ones(8, 4)}
    for kind, tensors in (("LoRA", plain), ("DoRA", plain | {"dora_scale": torch.ones(8, 1)})):
        adapter = adapters()[kind].from_tensors(tensors, 1.0)
        assert adapter.fits(fits)
        assert not any(adapter.fits(other) for other in others)
