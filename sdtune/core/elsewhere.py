"""What other programs make of a LoRA file: by its networks, and by what it changes of text encoders; without torch.

Measured with the code of diffusers 0.42, ComfyUI, Forge and InvokeAI (docs/interop.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

PACKED = ("LoHa", "LoKr")
"""networks that all but diffusers read alike"""
MERGE = "sdtune merge puts it into a model exactly"
_DORA = {
    True: "a DoRA of outputs: ComfyUI, Forge and InvokeAI differ, diffusers leaves the magnitudes out",
    False: "a DoRA: ComfyUI, Forge and InvokeAI read it alike, diffusers leaves the magnitudes out",
    None: "a DoRA: diffusers leaves its magnitudes out, and others may differ in how they read them",
}
"""by whether its magnitudes are of outputs"""


def of_networks(kinds: Collection[str], plain: str, by_outputs: bool | None = None) -> Iterator[str]:
    """A line for each network that is no plain LoRA: who reads it, and what to do.

    `plain` is the command that makes a plain LoRA of it; `by_outputs` whether a DoRA's magnitudes are of outputs (out,
    1), None where nobody has looked.
    """
    if "DoRA" in kinds:
        yield f"{_DORA[by_outputs]}; {MERGE}"
    if packed := [kind for kind in PACKED if kind in kinds]:
        who = "ComfyUI, Forge and InvokeAI read it, and diffusers does not"
        yield f"{' and '.join(packed)}: {who}; to make a plain LoRA of it: {plain}"
    if "OFT" in kinds:
        yield f"an OFT: ComfyUI reads it, right at strength 1, and Forge, InvokeAI and diffusers do not; {MERGE}"
    if "difference" in kinds:
        yield f"whole weights are changed (norms, or a difference), which diffusers refuses; {MERGE}"


def of_text(form: str, modules: Collection[str]) -> tuple[str, str] | None:
    """What diffusers does not read of plain LoRAs for CLIPs, and the form in which it does; None where it reads all.

    It tells how names are spelt by an encoder's to_out in kohya's form, and by its attention in peft's
    (diffusers/utils/state_dict_utils.py).
    """
    for part in ("text_encoder", "text_encoder_2"):
        inside = [name for name in modules if name.startswith(f"{part}.")]
        attention = [name for name in inside if ".self_attn." in name]
        if form == "kohya" and attention and not any(name.endswith(".out_proj") for name in attention):
            return f"without an out_proj of the {part} diffusers leaves all its attention out", "peft"
        if form == "peft" and inside and not attention:
            return f"without any attention of the {part} diffusers refuses the whole file", "kohya"
    return None
