"""Tasks: what the model shall draw from, and so what each image is trained as."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from sdtune.choices.spec import Choice, Spec


class CaptionedTask(Spec):
    """A task whose images are told by their captions."""

    reads_captions: ClassVar[bool] = True
    """whether what is said of an image is read; else it is neither needed nor looked at"""
    has_classes: ClassVar[bool] = False
    """whether each folder directly under DATASET is a class"""

    def captions_of(self, own: tuple[str, ...], of_class: str) -> tuple[str, ...]:  # noqa: ARG002 (others use it)
        """What an image is trained with; () where that is missing."""
        return own


class TextToImage(CaptionedTask):
    """Pictures from captions."""

    kind: Literal["text-to-image"] = "text-to-image"


class Inpainting(CaptionedTask):
    """What is masked of a picture, from the rest and a caption; for models with 9 channels in."""

    kind: Literal["inpainting"] = "inpainting"
    masks: int = Field(8, ge=1, le=256)
    """Masks of each version of an image that are encoded; each step draws one."""
    full: float = Field(0.25, ge=0, le=1)
    """Share of them that cover the whole image; the others are strokes and boxes."""


class ClassConditional(CaptionedTask):
    """Pictures of a class: each folder in DATASET is one, and its name is the caption."""

    kind: Literal["class"] = "class"
    template: str = Field("{class}", min_length=1, max_length=1000)
    """The caption, with {class} for the folder's name, as "a photo of a {class}"."""
    reads_captions: ClassVar[bool] = False
    has_classes: ClassVar[bool] = True

    @field_validator("template")
    @classmethod
    def _with_the_class(cls, template: str) -> str:
        if "{class}" not in template:
            raise ValueError('should hold {class}, where the name of the class goes, as "a photo of a {class}"')
        return template

    def captions_of(self, own: tuple[str, ...], of_class: str) -> tuple[str, ...]:
        """The template with the class in it; an image of no class, as for regularisation, keeps its own."""
        return (self.template.replace("{class}", of_class),) if of_class else own


class Unconditional(CaptionedTask):
    """Pictures of the whole data set's kind, from nothing: captions are neither needed nor read."""

    kind: Literal["unconditional"] = "unconditional"
    reads_captions: ClassVar[bool] = False

    def captions_of(self, own: tuple[str, ...], of_class: str) -> tuple[str, ...]:  # noqa: ARG002 (others use it)
        """The blank one."""
        return ("",)


class Style(CaptionedTask):
    """How pictures look, whatever they show: captions tell what they show, so that the look alone is left to learn."""

    kind: Literal["style"] = "style"


Task = Annotated[TextToImage | Inpainting | ClassConditional | Unconditional | Style, Choice()]
