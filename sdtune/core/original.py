"""The layout in which each family was first published as one file: its names, and how diffusers' tensors make it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdtune.core import original_sd3, original_text, original_unet, original_vae
from sdtune.core.families import Family
from sdtune.core.families.base import Shapes
from sdtune.core.original_room import How, Room
from sdtune.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["How", "Piece", "file_shape", "joined", "part_shape", "parted", "pieces", "pieces_of_file"]


@dataclass(frozen=True)
class Piece:
    """A tensor of a file in the original layout, made of one or more of diffusers', joined along their first one."""

    key: str
    """model.diffusion_model.input_blocks.0.0.weight"""
    names: tuple[str, ...]
    """by part and diffusers' name: ("unet.conv_in.weight",)"""
    how: How = "plain"


def pieces(family: Family, shapes: Shapes) -> list[Piece]:
    """What a file in the original layout is made of; `shapes` are of diffusers' tensors, by part and name."""
    inside = _below(shapes, f"{family.denoiser}.")
    denoiser = original_unet.rooms(inside) if family.denoiser == "unet" else original_sd3.rooms(inside)
    rooms = [*denoiser, *original_vae.rooms(_below(shapes, "vae.")), *original_text.rooms(family, shapes)]
    by_name = {name: room for room in rooms for name in room.names}
    made: dict[str, Piece] = {}
    for name, shape in shapes.items():
        module, tail = _found(name, by_name)
        if module is None:
            raise ModelError(
                f"{name}: has no place in the single-file layout of {family.title}; write a folder (a name without "
                ".safetensors) instead"
            )
        room = by_name[module]
        piece = Piece(room.key + tail, tuple(one + tail for one in room.names), _how(room, len(shape)))
        missing = [one for one in piece.names if one not in shapes]
        if missing:
            raise ModelError(f"{missing[0]}: missing beside {name}; download the model again")
        made[piece.key] = piece
    copies = original_text.copies(family, made)
    return [*made.values(), *(replace(made[source], key=key) for key, source in copies.items())]


def pieces_of_file(family: Family, shapes: Shapes) -> list[Piece]:
    """The same for a file that is there, whose tensors these are; tensors that diffusers does not know are left out."""
    inside = _below(shapes, original_unet.PREFIX)
    denoiser = original_unet.rooms_of_file(inside) if family.denoiser == "unet" else original_sd3.rooms_of_file(inside)
    attention = shapes.get(f"{original_vae.PREFIX}decoder.mid.attn_1.q.weight", ())
    vae = original_vae.rooms_of_file(_below(shapes, original_vae.PREFIX), flat=len(attention) != 2)
    by_key = {room.key: room for room in (*denoiser, *vae, *original_text.rooms_of_file(family, shapes))}
    made = []
    for key, shape in shapes.items():
        module, tail = _found(key, by_key)
        if module is not None and not key.endswith(".position_ids"):
            room = by_key[module]
            made.append(Piece(key, tuple(name + tail for name in room.names), _how(room, len(shape))))
    return made


def joined(piece: Piece, read: Callable[[str], Tensor]) -> Tensor:
    """The tensor of the file, out of diffusers' as `read` gives them."""
    import torch

    values = [read(name) for name in piece.names]
    return _turned(piece, values[0] if len(values) == 1 else torch.cat(values))


def parted(piece: Piece, tensor: Tensor) -> dict[str, Tensor]:
    """Diffusers' tensors, by part and name, out of that of the file."""
    whole = tensor[:, :, 0, 0] if piece.how == "flat" else _turned(piece, tensor)
    return dict(zip(piece.names, whole.chunk(len(piece.names)), strict=True))


def file_shape(piece: Piece, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Of the tensor of the file; `shapes` are diffusers'."""
    shape = shapes[piece.names[0]]
    if len(piece.names) > 1:
        shape = (sum(shapes[name][0] for name in piece.names), *shape[1:])
    return {"flat": (*shape, 1, 1), "transposed": shape[::-1]}.get(piece.how, shape)


def part_shape(piece: Piece, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of each of diffusers' tensors, where that of the file has this shape."""
    whole = {"flat": shape[:2], "transposed": shape[::-1]}.get(piece.how, shape)
    return (whole[0] // len(piece.names), *whole[1:]) if len(piece.names) > 1 else whole


def _turned(piece: Piece, tensor: Tensor) -> Tensor:
    """What diffusers has as the file has it; the same the other way round, but for flat ones."""
    if piece.how == "flat":
        return tensor[:, :, None, None]
    if piece.how == "transposed":
        return tensor.T
    return tensor.roll(len(tensor) // 2, 0) if piece.how == "swapped" else tensor


def _how(room: Room, dimensions: int) -> How:
    return "plain" if room.how == "flat" and dimensions < 2 else room.how


def _below(names: Iterable[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _found(name: str, rooms: Mapping[str, Room]) -> tuple[str | None, str]:
    """The room that a tensor lies in, by its own name or the next above, and the rest of its name."""
    module = name
    while module:
        if module in rooms:
            return module, name[len(module) :]
        module = module.rpartition(".")[0]
    return None, ""
