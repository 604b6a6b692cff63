"""Networks: the small trainable part that is put beside the frozen layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec, setting

if TYPE_CHECKING:
    from peft import LoraConfig


class LoRA(Spec):
    """Low-rank adaptation: W + alpha / rank * B A (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"
    rank: int = setting(16, "--rank", place=2, ge=1, le=1024)
    """Inner width of A and B; more can learn more and forget more."""
    alpha: float | None = setting(None, "--alpha", place=8, ge=1e-4, le=1e5)
    """Numerator of the update's scale alpha / rank; not given: half the rank (sd3: the rank)."""
    layers: Literal["attention", "attention+ff", "attention+ff+conv"] = "attention+ff"
    """Which layers are trained: attention, also feed-forward, also convolutions (of residual blocks)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of A's inputs that is zeroed while training."""

    def peft_config(self, targets: str) -> LoraConfig:
        """peft's description of the adapter; B starts at zero, so that step 0 is the base model."""
        from peft import LoraConfig

        assert self.alpha is not None, "alpha is settled with the model's family"
        return LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=targets)


Network = Annotated[LoRA, Choice()]
