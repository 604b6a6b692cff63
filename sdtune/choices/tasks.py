"""Tasks: what the model shall draw from, and so what each image is trained as."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec


class TextToImage(Spec):
    """Pictures from captions."""

    kind: Literal["text-to-image"] = "text-to-image"


class Inpainting(Spec):
    """What is masked of a picture, from the rest and a caption; for models with 9 channels in."""

    kind: Literal["inpainting"] = "inpainting"
    masks: int = Field(8, ge=1, le=256)
    """Masks of each version of an image that are encoded; each step draws one."""
    full: float = Field(0.25, ge=0, le=1)
    """Share of them that cover the whole image; the others are strokes and boxes."""


class ClassConditional(Spec):
    """Pictures of a class: each folder in DATASET is one, and its name is the caption."""

    kind: Literal["class"] = "class"
    template: str = Field("{class}", min_length=1, max_length=1000)
    """The caption, with {class} for the folder's name, as "a photo of a {class}"."""


class Unconditional(Spec):
    """Pictures of the whole data set's kind, from nothing: captions are neither needed nor read."""

    kind: Literal["unconditional"] = "unconditional"


class Style(Spec):
    """How pictures look, whatever they show: captions tell what they show, so that the look alone is left to learn."""

    kind: Literal["style"] = "style"


Task = Annotated[TextToImage | Inpainting | ClassConditional | Unconditional | Style, Choice()]
