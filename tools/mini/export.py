"""The trained parts as one folder in diffusers' layout, in half precision and in files that git bears."""

import shutil
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from tools.mini import tokenizer
from tools.mini.unet import scheduler

LARGEST_FILE = "15MB"
IMAGE_TOWER = "clip_image"  # beside the pipeline's own parts: for captioning and measuring


def export(folder: Path, vae: AutoencoderKL, clip: CLIPModel, words: CLIPTokenizer, unet: UNet2DConditionModel) -> None:
    """Write the whole model into `folder`, each part in place of the one that was there."""
    vocabulary = {name: (Path(words.name_or_path) / name).read_bytes() for name in tokenizer.FILES}
    for module in (vae, unet):
        module.register_to_config(_name_or_path="mini")  # else the folder that it was read from is written down
    pipe = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=_text_tower(clip).half(),
        tokenizer=words,
        unet=unet.half(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler", IMAGE_TOWER):
        shutil.rmtree(folder / part, ignore_errors=True)
    pipe.save_pretrained(folder, max_shard_size=LARGEST_FILE)
    _save_text_tower(folder / "text_encoder", pipe.text_encoder)
    _save_image_tower(folder / IMAGE_TOWER, clip.half())
    _save_words(folder / "tokenizer", vocabulary)


def _text_tower(clip: CLIPModel) -> CLIPTextModel:
    tower = CLIPTextModel(clip.config.text_config)
    tower.load_state_dict(clip.text_model.state_dict())
    return tower.eval()


def _save_text_tower(folder: Path, tower: CLIPTextModel) -> None:
    """Under the names that every reader knows; transformers 5.6 took `text_model.` away and reads both."""
    (folder / "model.safetensors").unlink()
    names = ((name.removeprefix("text_model."), value) for name, value in tower.state_dict().items())
    _save(folder / "model.safetensors", {f"text_model.{name}": value for name, value in names})


def _save_image_tower(folder: Path, clip: CLIPModel) -> None:
    """The image tower as transformers reads it, and beside it what makes a caption comparable with it."""
    config = CLIPVisionConfig(**{**clip.config.vision_config.to_dict(), "projection_dim": clip.config.projection_dim})
    tower = CLIPVisionModelWithProjection(config)
    tower.vision_model.load_state_dict(clip.vision_model.state_dict())
    tower.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    tower.half().save_pretrained(folder)
    projection = {"text_projection.weight": clip.text_projection.weight, "logit_scale": clip.logit_scale}
    _save(folder / "text_projection.safetensors", projection)


def _save_words(folder: Path, vocabulary: dict[str, bytes]) -> None:
    """vocab.json and merges.txt, which every version of transformers reads."""
    shutil.rmtree(folder)
    folder.mkdir()
    for name, content in vocabulary.items():
        (folder / name).write_bytes(content)


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path, {"format": "pt"})
