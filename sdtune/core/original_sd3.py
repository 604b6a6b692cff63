"""The transformer of SD3 in the original layout, where query, key and value are one matrix.

Where its stream of text ends and where it ends itself, scale comes first in diffusers and shift in the file.
"""

from __future__ import annotations

from collections.abc import Collection

from sdtune.core.original_room import How, Room, numbers, rooms_of

PREFIX = "model.diffusion_model."
ENDS = (
    ("pos_embed.pos_embed", "pos_embed"),
    ("pos_embed.proj", "x_embedder.proj"),
    ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ("context_embedder", "context_embedder"),
    ("proj_out", "final_layer.linear"),
)
BLOCK = (
    ("norm1.linear", "x_block.adaLN_modulation.1"),
    ("attn.to_out.0", "x_block.attn.proj"),
    ("attn.norm_q", "x_block.attn.ln_q"),
    ("attn.norm_k", "x_block.attn.ln_k"),
    ("attn2.to_out.0", "x_block.attn2.proj"),
    ("attn2.norm_q", "x_block.attn2.ln_q"),
    ("attn2.norm_k", "x_block.attn2.ln_k"),
    ("ff.net.0.proj", "x_block.mlp.fc1"),
    ("ff.net.2", "x_block.mlp.fc2"),
    ("attn.to_add_out", "context_block.attn.proj"),
    ("attn.norm_added_q", "context_block.attn.ln_q"),
    ("attn.norm_added_k", "context_block.attn.ln_k"),
    ("ff_context.net.0.proj", "context_block.mlp.fc1"),
    ("ff_context.net.2", "context_block.mlp.fc2"),
)
LAST = ("norm_out.linear", "final_layer.adaLN_modulation.1")
NORM_OF_TEXT = ("norm1_context.linear", "context_block.adaLN_modulation.1")
JOINED = (
    (("attn.to_q", "attn.to_k", "attn.to_v"), "x_block.attn.qkv"),
    (("attn2.to_q", "attn2.to_k", "attn2.to_v"), "x_block.attn2.qkv"),
    (("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), "context_block.attn.qkv"),
)


def rooms(names: Collection[str]) -> list[Room]:
    """Of a transformer whose tensors diffusers names so."""
    return _rooms(numbers(names, r"transformer_blocks\.(\d+)\."))


def rooms_of_file(keys: Collection[str]) -> list[Room]:
    """Of one whose tensors have these names in the original layout, without what all begin with."""
    return _rooms(numbers(keys, r"joint_blocks\.(\d+)\."))


def _rooms(blocks: list[int]) -> list[Room]:
    found = rooms_of(ENDS, "transformer", PREFIX)
    found.append(Room((f"transformer.{LAST[0]}",), f"{PREFIX}{LAST[1]}", "swapped"))
    for block in blocks:
        name, key = f"transformer.transformer_blocks.{block}", f"{PREFIX}joint_blocks.{block}"
        found += [Room((f"{name}.{own}",), f"{key}.{original}") for own, original in BLOCK]
        found += [Room(tuple(f"{name}.{own}" for own in three), f"{key}.{original}") for three, original in JOINED]
        how: How = "swapped" if block == blocks[-1] else "plain"
        found.append(Room((f"{name}.{NORM_OF_TEXT[0]}",), f"{key}.{NORM_OF_TEXT[1]}", how))
    return found
