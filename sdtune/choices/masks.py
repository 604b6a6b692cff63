"""Where the masks of a data set come from: white is what counts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec


class MaskFiles(Spec):
    """Files beside the images, as OneTrainer names them: cat-masklabel.png belongs to cat.jpg."""

    kind: Literal["files"] = "files"


class MaskAlpha(Spec):
    """The transparency of each image; a mask file beside it wins."""

    kind: Literal["alpha"] = "alpha"


class MaskClipSeg(Spec):
    """What a text describes, found by CLIPSeg (Lüddecke & Ecker 2022, arXiv:2112.10003); a mask file wins."""

    kind: Literal["clipseg"] = "clipseg"
    prompt: str = Field("the main subject", min_length=1)
    """What to find, as "a dog"."""
    model: str = Field("CIDAS/clipseg-rd64-refined", min_length=1)
    """Name on the Hugging Face hub, or a folder."""
    threshold: float = Field(0.4, ge=0, le=1)
    """Probability from which a pixel belongs to it."""

    @property
    def told(self) -> str:
        """What is said of a mask that was found so."""
        return f"clipseg: {self.prompt} ({self.model}, {self.threshold:g})"


Mask = Annotated[MaskFiles | MaskAlpha | MaskClipSeg, Choice()]
