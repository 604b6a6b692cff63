"""A base model's weights on disk, read one at a time and never all at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from sdtune.core.families import Family, family_named
from sdtune.core.header import Header, read_header
from sdtune.core.identity import Identity
from sdtune.core.model_folder import check_configs, check_weights, folder_of, weight_files
from sdtune.core.original import Piece, part_shape, parted, pieces, pieces_of_file
from sdtune.core.original_vae import OLDER
from sdtune.core.quantised import PackingError, packed_weights
from sdtune.core.tensor_file import TORCH_DTYPES, Slot
from sdtune.errors import ModelError


class Weights(ABC):
    """Weights by part and diffusers' name (unet.conv_in.weight; of CLIPs with text_model.), packed ones unpacked."""

    family: Family
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    """as safetensors names them: F16; of packed weights that of what they unpack to"""
    packed: Mapping[str, str]
    """how those are that are packed: nf4, fp4, int8, or F8_E4M3 with a scale"""
    extra: Mapping[str, Slot]
    """what stands there besides, unknown to diffusers, by its own key: alphas_cumprod, position_ids ..."""

    @abstractmethod
    def pieces(self) -> list[Piece]:
        """How the original layout has them; of a file, how it has them itself."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One of them, as stored (fp8 too), packed ones in float32."""

    @abstractmethod
    def read_extra(self, key: str) -> Tensor:
        """One of those that diffusers does not know, as stored."""


def open_weights(identity: Identity) -> Weights:
    """Of a folder, a single file or a model from the hub."""
    family = family_named(identity.family)
    folder = folder_of(identity, family)
    return FolderWeights(folder, family) if folder else FileWeights(Path(identity.location), family)


class Stored:
    """A safetensors file whose tensors are read one at a time, into memory that goes with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: Header = read_header(path, ModelError)
        try:
            self.packed, self.beside = packed_weights(self.header, self.read)
        except PackingError as problem:
            raise ModelError(f"{path}: {problem}; choose the model in float16 or bfloat16") from None

    def kind(self, key: str) -> str | None:
        """How a tensor is packed, None where it is not."""
        return self.packed[key].kind if key in self.packed else None

    def slot(self, key: str) -> Slot:
        """What a tensor is, packed ones once unpacked."""
        packed = self.packed.get(key)
        if packed:
            return Slot(packed.dtype, packed.shape)
        return Slot(self.header.dtypes[key], self.header.shapes[key])

    def read(self, key: str) -> Tensor:
        """A tensor's bytes as they are."""
        slot = Slot(self.header.dtypes[key], self.header.shapes[key])
        buffer = torch.empty(slot.bytes, dtype=torch.uint8)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.header.offsets[key])
                into = buffer.numpy().data
                while into and (count := file.readinto(into)):
                    into = into[count:]
        except OSError as problem:
            raise ModelError(f"{self.path}: cannot be read ({problem.strerror}); check the disk") from None
        if into:
            raise ModelError(f"{self.path}: has become shorter while it was read; get it again")
        return buffer.view(TORCH_DTYPES[slot.dtype]).reshape(slot.shape)

    def unpacked(self, key: str) -> Tensor:
        """A tensor as stored, a packed one in float32."""
        packed = self.packed.get(key)
        return packed.unpack(self.read) if packed else self.read(key)


class FolderWeights(Weights):
    """Those of a folder in diffusers' layout."""

    def __init__(self, folder: Path, family: Family) -> None:
        check_configs(folder, family)
        self.family = family
        self._places: dict[str, tuple[Stored, str]] = {}
        extra: dict[str, tuple[Stored, str]] = {}
        for part in (family.denoiser, "vae", *family.text_encoders):
            if part in family.optional_parts and not weight_files(folder, part)[1]:
                continue
            check_weights(folder, part)
            for file in weight_files(folder, part)[1]:
                stored = Stored(file)
                for key in stored.header.shapes.keys() - stored.beside:
                    name = f"{part}.{as_now(key, part, family)}"
                    where = extra if key.endswith("position_ids") else self._places
                    if name in where:
                        raise ModelError(f"{file}: {name} is in another file of this folder, too; download it again")
                    where[name] = stored, key
        slots = {name: stored.slot(key) for name, (stored, key) in sorted(self._places.items())}
        self.shapes = {name: slot.shape for name, slot in slots.items()}
        self.dtypes = {name: slot.dtype for name, slot in slots.items()}
        kinds = {name: stored.kind(key) for name, (stored, key) in self._places.items()}
        self.packed = {name: kind for name, kind in kinds.items() if kind}
        self.extra = {name: stored.slot(key) for name, (stored, key) in sorted(extra.items())}
        self._extra = extra

    @override
    def pieces(self) -> list[Piece]:
        return pieces(self.family, self.shapes)

    @override
    def read(self, name: str) -> Tensor:
        stored, key = self._places[name]
        return stored.unpacked(key)

    @override
    def read_extra(self, key: str) -> Tensor:
        stored, own = self._extra[key]
        return stored.read(own)


class FileWeights(Weights):
    """Those of a file in the original layout."""

    def __init__(self, path: Path, family: Family) -> None:
        self.family = family
        self._stored = Stored(path)
        slots = {key: self._stored.slot(key) for key in self._stored.header.shapes if key not in self._stored.beside}
        self._pieces = pieces_of_file(family, {key: slot.shape for key, slot in slots.items()})
        self._by_name = {name: piece for piece in self._pieces for name in piece.names}
        known = {piece.key for piece in self._pieces}
        self.shapes = {name: part_shape(piece, slots[piece.key].shape) for name, piece in self._by_name.items()}
        self.dtypes = {name: slots[piece.key].dtype for name, piece in self._by_name.items()}
        kinds = {name: self._stored.kind(piece.key) for name, piece in self._by_name.items()}
        self.packed = {name: kind for name, kind in kinds.items() if kind}
        self.extra = {key: slot for key, slot in slots.items() if key not in known}

    @override
    def pieces(self) -> list[Piece]:
        return self._pieces

    @override
    def read(self, name: str) -> Tensor:
        piece = self._by_name[name]
        return parted(piece, self._stored.unpacked(piece.key))[name]

    @override
    def read_extra(self, key: str) -> Tensor:
        return self._stored.read(key)


def as_now(key: str, part: str, family: Family) -> str:
    """The name that diffusers gives a tensor today, with text_model. where transformers may have left that out."""
    if part in family.clips and not key.startswith(("text_model.", "text_projection.")):
        return f"text_model.{key}"
    if part == "vae" and ".attentions." in key:
        *path, layer, kind = key.split(".")
        return ".".join((*path, OLDER.get(layer, layer), kind))
    return key
