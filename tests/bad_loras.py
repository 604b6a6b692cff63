"""LoRA files as they should not be: cut, lying, hostile, of other kinds; each with what its refusal has to say."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from typing import Any

import torch
from safetensors.torch import save

NAME = "lora_unet_mid_block_attentions_0_proj_in"
DOWN, UP, ALPHA = f"{NAME}.lora_down.weight", f"{NAME}.lora_up.weight", f"{NAME}.alpha"
ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
EMPTY = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
Tensors = dict[str, torch.Tensor]


def sound(**metadata: str) -> bytes:
    """A LoRA of one module as it should be."""
    return save({DOWN: torch.ones(4, 8), UP: torch.ones(8, 4), ALPHA: torch.tensor(2.0)}, metadata or None)


def parted(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a file."""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of a header (JSON, or bytes as they are) and data; its length told wrongly where one is given."""
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(body) if length is None else length) + body + data


def header_files() -> dict[str, bytes]:
    """Files whose header cannot be trusted."""
    header, data = parted(sound())
    first, *_ = header
    size = len(sound())
    text = json.dumps(header).encode()
    twice = text[:-1] + b"," + json.dumps({first: header[first]}).encode()[1:]
    files = {
        f"cut at {place} bytes": sound()[:place] for place in (1, 4, 7, 8, 9, 20, 100, size // 2, size - 4, size - 1)
    }
    lengths = (0, 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1, size, len(text) - 1, len(text) + 1)
    files |= {f"says its header has {length} bytes": joined(text, data, length) for length in lengths}
    files |= {
        "one byte too many": sound() + b"\0",
        "a megabyte too many": sound() + bytes(2**20),
        "without its data": joined(header),
        "a header of 17 MB of blanks": joined(text + b" " * (17 * 2**20), data),
        "a header of 100 MB": joined(text[:-1] + b" " * (100 * 2**20) + b"}", data),
        "a header of 17 MB of names": joined(b"{" + b",".join(EMPTY % n for n in range(320_000)) + b"}"),
        "a header that is no UTF-8": joined(text.replace(first.encode(), b"\xff" * len(first)), data),
        "a header with a mark of order": joined(b"\xef\xbb\xbf" + text, data),
        "a header that is a list": joined([header], data),
        "a header that is a number": joined(b"1"),
        "a header that is null": joined(b"null"),
        "a header that is a text": joined(b'"x"'),
        "a header with something behind it": joined(text + b"{}", data),
        "a header in single quotes": joined(text.replace(b'"', b"'"), data),
        "a header nested 100,000 times": joined(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        "a header of brackets": joined(b"{" + b"[" * 1_000_000),
        "a tensor given twice": joined(twice, data),
        "metadata given twice": joined(b'{"__metadata__":{},"__metadata__":{"a":"b"},' + text[1:], data),
        "a key of metadata given twice": joined(b'{"__metadata__":{"a":"b","a":"c"},' + text[1:], data),
        "a shape given twice": joined(text.replace(b'"shape"', b'"shape": [1], "shape"', 1), data),
        "numbers that are none": joined(text.replace(b"[0,", b"[NaN,", 1).replace(b"[0, ", b"[NaN, ", 1), data),
        "numbers without an end": joined(text.replace(b"[0,", b"[1e999,", 1).replace(b"[0, ", b"[1e999, ", 1), data),
        "a number of 10,000 digits": joined(text.replace(b"[0, ", b"[" + b"9" * 10_000 + b", ", 1), data),
        "half a letter in a name": joined(b'{"\\ud800":' + json.dumps(ENTRY).encode() + b"}", bytes(4)),
        "metadata that is a list": joined({"__metadata__": ["a"], **header}, data),
        "metadata that is null": joined({"__metadata__": None, **header}, data),
        "metadata that is a text": joined({"__metadata__": "a", **header}, data),
        "metadata that holds a number": joined({"__metadata__": {"a": 1}, **header}, data),
        "metadata that holds metadata": joined({"__metadata__": {"a": {"b": "c"}}, **header}, data),
        "metadata that holds nothing": joined({"__metadata__": {"a": None}, **header}, data),
        "a value of metadata of 2 MB": joined({"__metadata__": {"a": "x" * 2**21}, **header}, data),
        "metadata of 6 MB": joined({"__metadata__": {str(n): "x" * 900_000 for n in range(7)}, **header}, data),
    }  # fmt: skip
    names = {
        "that climbs": "../../etc/passwd", "that climbs in its midst": "a/../../b", "of two dots": "..",
        "of an escape sequence": "\x1b[2Ja", "with a line's end": "a\nb", "with a zero": "a\0b", "of no letter": "",
        "of 513 letters": "a" * 513, "of 1,000,000 letters": "a" * 10**6, "with a blank": "a b",
        "that turns the line": "a\u202eb", "of other letters": "lora_ünet", "with a backslash": "a\\b",
        "with a colon": "C:a", "with a tag": "<script>", "with a bell": "a\x07",
    }  # fmt: skip
    files |= {f"a name {what}": joined({name: ENTRY}, bytes(4)) for what, name in names.items()}
    changes: dict[str, dict[str, Any]] = {
        "of no type": {"dtype": None}, "of an unknown type": {"dtype": "F99"},
        "of a type that is a number": {"dtype": 1},
        "of a type that is a list": {"dtype": ["F32"]}, "of complex numbers": {"dtype": "C64"},
        "of no shape": {"shape": None}, "of a shape that is a number": {"shape": 1},
        "of a shape of texts": {"shape": ["1"]},
        "of a negative shape": {"shape": [-1]}, "of two negative sides": {"shape": [-1, -1]},
        "of a broken shape": {"shape": [1.0]}, "of a shape of truths": {"shape": [True]},
        "of a shape of 2^40": {"shape": [2**40]},
        "of 2^40 times nothing": {"shape": [0, 2**40], "data_offsets": [0, 0]},
        "of a shape that runs over": {"shape": [2**32, 2**32]}, "of 1,000 dimensions": {"shape": [1] * 1000},
        "of a nested shape": {"shape": [[1]]}, "without a place": {"data_offsets": None},
        "with one offset": {"data_offsets": [0]}, "with three offsets": {"data_offsets": [0, 4, 4]},
        "that ends before it begins": {"data_offsets": [4, 0]}, "before the data": {"data_offsets": [-4, 0]},
        "at broken offsets": {"data_offsets": [0.0, 4.0]}, "at truths": {"data_offsets": [False, 4]},
        "behind the end": {"data_offsets": [2**60, 2**60 + 4]}, "with too few bytes": {"data_offsets": [0, 3]},
        "after a hole": {"data_offsets": [4, 8]}, "at offsets of texts": {"data_offsets": ["0", "4"]},
    }  # fmt: skip
    for what, change in changes.items():
        entry = {key: value for key, value in {**ENTRY, **change}.items() if value is not None}
        files[f"a tensor {what}"] = joined({"a": entry}, bytes(8 if "hole" in what else 4))
    second = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    files |= {
        "a tensor that is a number": joined({"a": 1}),
        "a tensor that is a list": joined({"a": [ENTRY]}, bytes(4)),
        "tensors over one another": joined({"a": second, "b": {**second, "data_offsets": [4, 12]}}, bytes(12)),
        "a tensor in another": joined({"a": second, "b": {**ENTRY, "data_offsets": [0, 4]}}, bytes(8)),
        "a tensor in another's midst": joined(
            {"a": {**second, "shape": [4], "data_offsets": [0, 16]}, "b": {**ENTRY, "data_offsets": [4, 8]}}, bytes(16)
        ),
        "a hole between tensors": joined({"a": ENTRY, "b": {**ENTRY, "data_offsets": [8, 12]}}, bytes(12)),
    }
    return files


def other_files() -> dict[str, bytes]:
    """Files of other kinds under the name of a LoRA."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("archive/data.pkl", pickle.dumps({"a": 1}, 2))
    return {
        "nothing": b"",
        "text": b"hello, I am text",
        "a page": b"<!DOCTYPE html><html><body>404: Not Found</body></html>",
        "a pointer to a large file": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 143\n",
        "zeros": bytes(4096),
        "ones": b"\xff" * 4096,
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "a GGUF": b"GGUF\x03\0\0\0" + bytes(100),
        "an archive of torch": archive.getvalue(),
        **{f"a pickle of protocol {n}": pickle.dumps({"a": [1.0] * 50}, n) for n in (2, 3, 4, 5)},
    }


def lora_files() -> dict[str, bytes]:
    """Sound safetensors files that hold no LoRA for Stable Diffusion, or a broken one."""
    nan, infinity = float("nan"), float("inf")
    good: Tensors = {DOWN: torch.ones(4, 8), UP: torch.ones(8, 4), ALPHA: torch.tensor(2.0)}
    dotted = "unet.mid_block.attentions.0.proj_in"

    def without(*keys: str) -> Tensors:
        return {key: value for key, value in good.items() if key not in keys}

    def of(prefix: str, **shapes: tuple[int, ...]) -> Tensors:
        return {f"{prefix}.{role.replace('__', '.')}": torch.ones(shape) for role, shape in shapes.items()}

    tensors: dict[str, Tensors] = {
        "no tensor": {},
        "no up": without(UP),
        "no down": without(DOWN),
        "alpha alone": without(UP, DOWN),
        "ranks that disagree": good | {UP: torch.ones(8, 5)},
        "rank 0": {DOWN: torch.ones(0, 8), UP: torch.ones(8, 0)},
        "rank 1025": {DOWN: torch.ones(1025, 2), UP: torch.ones(2, 1025)},
        "vectors": good | {DOWN: torch.ones(8), UP: torch.ones(8)},
        "cubes": good | {DOWN: torch.ones(4, 8, 3), UP: torch.ones(8, 4, 1)},
        "five dimensions": good | {DOWN: torch.ones(4, 8, 1, 1, 1), UP: torch.ones(8, 4, 1, 1, 1)},
        "a kernel in its up": good | {DOWN: torch.ones(4, 8, 3, 3), UP: torch.ones(8, 4, 3, 3)},
        "two alphas": good | {ALPHA: torch.ones(2)},
        "no alpha in alpha": good | {ALPHA: torch.ones(0)},
        "an alpha of 1e30": good | {ALPHA: torch.tensor(1e30)},
        "whole numbers": good | {UP: torch.ones(8, 4, dtype=torch.int32)},
        "truths": good | {DOWN: torch.ones(4, 8, dtype=torch.bool)},
        **{
            f"{value} in {key.rpartition('.lora_')[2] or 'alpha'}": good | {key: good[key] * value}
            for value in (nan, infinity)
            for key in (DOWN, UP, ALPHA)
        },
        "one number of many that is none": good | {DOWN: torch.ones(4, 8).index_fill(1, torch.tensor([7]), nan)},
        "one module in two spellings": good | of(dotted, lora_A__weight=(4, 8), lora_B__weight=(8, 4)),
        "something unknown": good | {f"{NAME}.something": torch.ones(2)},
        "a name of no module": of("lora_unet_nonsense", lora_down__weight=(4, 8), lora_up__weight=(8, 4)),
        "a name of no part": of("lora_prior_x", lora_down__weight=(4, 8), lora_up__weight=(8, 4)),
        "a name with too much": {f"x.{key}": value for key, value in good.items()},
        "(IA)3": of(NAME, weight=(8, 1), on_input=()),
        "GLoRA": of(NAME, a1__weight=(4, 8), a2__weight=(8, 4), b1__weight=(4, 8), b2__weight=(8, 4)),
        "a LoHa without a factor": of(NAME, hada_w1_a=(8, 4), hada_w1_b=(4, 8), hada_w2_a=(8, 4)),
        "a LoHa of shapes that disagree": of(
            NAME, hada_w1_a=(8, 4), hada_w1_b=(4, 8), hada_w2_a=(8, 4), hada_w2_b=(4, 9)
        ),
        "a LoKr without a factor": of(NAME, lokr_w1=(2, 2), lokr_w2_a=(4, 2)),
        "a LoKr of shapes that disagree": of(NAME, lokr_w1=(2, 2), lokr_w2_a=(4, 2), lokr_w2_b=(3, 4)),
        "an OFT that is not square": of(NAME, oft_blocks=(2, 4, 5), alpha=()),
        "a DoRA whose size fits nothing": good | {f"{NAME}.dora_scale": torch.ones(5, 3)},
        "a DoRA's size alone": of(NAME, dora_scale=(8, 1)),
        "a Tucker core that does not fit": good
        | {
            DOWN: torch.ones(4, 8, 1, 1),
            UP: torch.ones(8, 4, 1, 1),
            f"{NAME}.lora_mid.weight": torch.ones(3, 4, 3, 3),
        },
        "a difference that is no number": {f"{NAME}.diff": torch.full((8, 8), nan)},
        "a bundled word of texts": good | {"bundle_emb.word.something": torch.ones(2, 768)},
        "a whole model": {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(4, 4, 3, 3)},
        "a whole SD3": {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": torch.ones(6, 2)},
        "a VAE": {"first_stage_model.encoder.conv_in.weight": torch.ones(4, 3, 3, 3)},
        "a ControlNet": {"control_model.input_blocks.0.0.weight": torch.ones(4, 4, 3, 3)},
        "a word alone": {"emb_params": torch.ones(2, 768)},
        "a denoiser alone": {"down_blocks.0.resnets.0.conv1.weight": torch.ones(4, 4, 3, 3)},
        "a LoRA for Flux": of(
            "lora_unet_double_blocks_0_img_attn_qkv", lora_down__weight=(4, 3072), lora_up__weight=(9216, 4)
        ),
        "a LoRA for Flux in diffusers' names": of(
            "transformer.single_transformer_blocks.0.attn.to_q", lora_A__weight=(4, 3072), lora_B__weight=(3072, 4)
        ),
        "a LoRA for Wan": of("diffusion_model.blocks.0.self_attn.q", lora_A__weight=(4, 512), lora_B__weight=(512, 4)),
        "a LoRA for a language model": of(
            "base_model.model.model.layers.0.self_attn.q_proj", lora_A__weight=(4, 64), lora_B__weight=(64, 4)
        ),
    }
    files = {what: save(one) for what, one in tensors.items()}
    settings = {
        "a list": "[1]", "a number without an end": "1e999", "brackets": "[" * 100_000, "half of it": '{"unet.r": 4',
        "an alpha of letters": '{"unet.lora_alpha": "abc"}',
        "an alpha of 400 digits": '{"unet.lora_alpha": 1%s}' % ("0" * 400),
        "a list of alphas": '{"unet.alpha_pattern": [1]}', "alphas of lists": '{"unet.alpha_pattern": {"proj_in": []}}',
        "a word for a truth": '{"unet.use_rslora": "no"}',
    }  # fmt: skip
    plain = of(dotted, lora_A__weight=(4, 8), lora_B__weight=(8, 4))
    return files | {
        f"settings of PEFT that are {what}": save(plain, {"lora_adapter_metadata": text})
        for what, text in settings.items()
    }


def all_files() -> dict[str, bytes]:
    """{what it is: its bytes}, over 120 of them."""
    return header_files() | other_files() | lora_files()
