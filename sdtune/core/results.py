"""Results: what a training leaves in its run folder."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sdtune.choices.samplers import DPMpp2M
from sdtune.config import TrainLora
from sdtune.core import lora_file
from sdtune.core.data.encode import as_looked_at
from sdtune.core.data.folder import Example
from sdtune.core.data.images import open_image
from sdtune.core.data.inputs_sheet import chosen, inputs_sheet
from sdtune.core.data.masks import mask_for
from sdtune.core.data.seen import Seen
from sdtune.core.data.views import View, show, show_mask
from sdtune.core.drawing import Wish, always, draw
from sdtune.core.embedding import embedding_path, save_embedding
from sdtune.core.families import Family
from sdtune.core.feeding import Fed
from sdtune.core.identity import Identity
from sdtune.core.lora import at_strength, from_peft
from sdtune.core.reports import Saved, Telling, Warned
from sdtune.core.run_folder import RunFolder, write_atomically
from sdtune.core.sheet import growing_sheet, sheet
from sdtune.core.thumbnail import thumbnail_of
from sdtune.core.written_metadata import tag_frequency
from sdtune.errors import DataError
from sdtune.tables import Masking

DRAWINGS = 10  # on the way, where nothing else is told
APART = 50  # steps between them at least, as each costs about as much as so many steps of four images on mini
PALE = 0.75  # of white, over what does not count


@dataclass(frozen=True)
class Results:
    """What a training leaves, and what it is made of."""

    config: TrainLora
    family: Family
    pipe: Any
    net: Any
    fed: Fed
    run: RunFolder
    prompts: Sequence[str]
    """of samples; none where none are drawn"""
    usual: str
    """a prompt to try"""
    facts: dict[str, str]
    """for the LoRA's metadata"""
    base: str
    """a fingerprint of the frozen weights"""

    @property
    def parts(self) -> dict[str, Any]:
        """What has a LoRA, by its name in the pipeline."""
        live = self.fed.live
        return {self.family.denoiser: self.net, **(live.parts if live else {})}

    @property
    def embeddings(self) -> list[Path]:
        """The file of a new word, where one is learned."""
        word = self.config.token.word
        return [embedding_path(self.run.embeddings, word)] if word else []

    def save(self, path: Path, step: int) -> str | None:
        """Writes the LoRA as it stands after so many steps; returns what the user should know of it."""
        save, live = self.config.save, self.fed.live
        parts = live.parts if live and self.config.text.train else None
        finished = path == self.run.lora
        facts = self.facts | {"ss_steps": str(step)} | self._thumbnail(step if finished else step - 1)
        lora = from_peft(self.net, self.family, facts, text_encoders=parts)
        used = lora_file.write(path, lora, "auto" if save.form == "both" else save.form, save.dtype)
        if save.form == "both" and finished:
            lora_file.write(self.run.lora_of_peft, lora, "peft", save.dtype)
        if live and self.config.token.word:
            word = self.config.token.word
            save_embedding(embedding_path(self.run.embeddings, word), self.family, word, live.embeddings())
        if used == save.dtype:
            return None
        return f"saved in {used}, as some of its values are too large or too small for {save.dtype}"

    def _thumbnail(self, step: int) -> dict[str, str]:
        """The newest sample of the first steps, small.

        Of the finished LoRA that may be the last step's; others are saved before their own step is drawn, or after it
        where a run was stopped and goes on.
        """
        drawn = self.run.last_sample(step) if self.config.save.thumbnail and self.prompts else None
        with contextlib.suppress(DataError):  # a picture that someone has changed
            return {"modelspec.thumbnail": thumbnail_of(open_image(drawn))} if drawn else {}
        return {}

    def draw(self, step: int) -> Telling[None]:
        """Samples after so many steps, each in its file, and the sheet of all."""
        told, side = self.config.samples, self.config.data.resolution
        assert side is not None, "the resolution is settled with the model"
        self.pipe.vae.to(self.net.device)
        phase = "samples before training" if not step else f"samples after step {step}"
        sampler = DPMpp2M().build(self.pipe.scheduler)
        with contextlib.ExitStack() as acting:
            for part in (self.net, *self.fed.lessons.parts):
                acting.enter_context(at_strength(part, told.strength))
            negative = always(self.fed.told(told.negative))
            wishes = [
                Wish(always(self.fed.told(prompt)), negative, self.config.seed + number, (side, side))
                for number, prompt in enumerate(self.prompts)
            ]
            images = yield from draw(
                self.family,
                self.net,
                self.pipe.vae,
                sampler,
                wishes,
                steps=told.steps,
                guidance=told.guidance,
                phase=phase,
            )
        self.pipe.vae.to("cpu")
        for number, image in enumerate(images, 1):
            write_atomically(self.run.sample(step, number), image.save)
        growing_sheet(self.run.sample(0, 1).parent, self.prompts, self.run.samples_sheet)

    def try_next(self, lora_file: Path | None = None) -> str:
        """A command that draws with the LoRA, or with another one of the run."""
        strength = self.config.samples.strength
        path = lora_file or self.run.path
        lora = str(path) if strength == 1 else f"{path}:{strength:g}"
        return f"sdtune sample --prompt {shlex.quote(self.usual)} --lora {shlex.quote(lora)}"

    def compare(self, step: int) -> Path | None:
        """The sheet of samples before and after so many steps, where there are any."""
        rows = [[self.run.sample(one, number) for number in range(1, len(self.prompts) + 1)] for one in (0, step)]
        if not self.prompts or not all(path.is_file() for row in rows for path in row):
            return None
        strength = self.config.samples.strength
        told = f"after {step} steps" + ("" if strength == 1 else f", at strength {strength:g}")
        pictures = [[Image.open(path) for path in row] for row in rows]
        picture = sheet(pictures, [prompt or "(no prompt)" for prompt in self.prompts], ["before", told])
        write_atomically(self.run.sheet, lambda path: picture.save(path))
        return self.run.sheet


def show_inputs(run: RunFolder, seen: Sequence[Seen], masking: Masking) -> Telling[None]:
    """Up to 16 images as the model sees them, on one sheet; what their masks leave out is pale."""
    views = [[view for views in one.versions for view in views] for one in seen]
    cells = [(seen[image].example, views[image][view]) for image, view in chosen([len(one) for one in views])]
    shown = []
    for example, view in cells:
        try:
            image = _paled(show(as_looked_at(example).image, view), example, view, masking)
        except DataError as error:
            what = str(error).partition(";")[0]
            yield Warned(f"{what}; training goes on with it as it was, and {run.inputs.name} leaves it out")
            continue
        kind = ", for regularisation" if example.prior else ""
        name = f"{example.path.name} ({example.width} x {example.height}{kind})"
        shown.append((image, view, example.caption, name))
    if not shown:
        return
    picture = inputs_sheet(shown)
    write_atomically(run.inputs, lambda path: picture.save(path))
    yield Saved("inputs", run.inputs)


def _paled(image: Image.Image, example: Example, view: View, masking: Masking) -> Image.Image:
    mask, _ = mask_for(example.path, example.mask, masking.use)
    if mask is None:
        return image
    pale = Image.blend(image, Image.new("RGB", image.size, "white"), PALE)
    return Image.composite(image, pale, show_mask(mask, view, (example.width, example.height)))


def drawn_every(config: TrainLora, steps: int) -> int:
    """Steps from one drawing of samples to the next, 0 where there is none on the way."""
    told = config.samples.every
    return max(-(-steps // DRAWINGS), APART) if told is None else told


def facts_of(
    config: TrainLora, name: str, identity: Identity, prediction: str, seen: Sequence[Seen], images_a_step: int
) -> dict[str, str]:
    """What the LoRA's metadata tells of its training, in kohya's names; no path, no date, no machine."""
    shown = [(text, one.example.repeats) for one in seen for text in one.example.captions if not one.example.prior]
    tags = tag_frequency(name, shown)
    facts = {
        "ss_output_name": name,
        "ss_sd_model_name": identity.name,
        "ss_num_train_images": str(len(seen)),
        "ss_tag_frequency": tags,
        "ss_seed": str(config.seed),
        "ss_learning_rate": f"{config.optimizer.lr:g}",
        "ss_optimizer": config.optimizer.kind,
        "ss_lr_scheduler": config.schedule.kind,
        "ss_total_batch_size": str(images_a_step),
        "ss_resolution": f"({config.data.resolution}, {config.data.resolution})",
        "modelspec.title": name,
        "modelspec.prediction_type": prediction,
        "modelspec.resolution": f"{config.data.resolution}x{config.data.resolution}",
    }
    return facts | ({"modelspec.trigger_phrase": config.data.trigger} if config.data.trigger else {})
