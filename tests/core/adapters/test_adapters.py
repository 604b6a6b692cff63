"""Every network does to weights what its own rule says, whatever the layer, and is read back as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdtune.core.adapters import Adapter, LoraModule, adapters
from sdtune.core.adapters.base import flat
from sdtune.core.lora_keys import NETWORKS
from tests.core.adapters.examples import Example, examples, numbers

EXAMPLES = examples()


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
        adapters()[kind].from_tensors({role: torch.zeros(shape) for role, shape in shapes.items()}, None)
