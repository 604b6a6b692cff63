"""What each command can be told, and how defaults, presets and flags become one frozen settings object."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from sdtune.choices.losses import MSE, Loss
from sdtune.choices.networks import LoRA, Network
from sdtune.choices.noises import Gaussian, Noise
from sdtune.choices.optimizers import AdamW8bit, Optimizer
from sdtune.choices.samplers import AnySampler, DPMpp2M
from sdtune.choices.schedules import Cosine, Schedule
from sdtune.choices.spec import Spec, kinds_of, setting, table_of
from sdtune.choices.timesteps import Stratified, Timesteps
from sdtune.choices.weightings import MinSNR, Weighting
from sdtune.errors import ConfigError

Config = TypeVar("Config", bound=Spec)
Tables = dict[str, Any]
PRESET_BYTES = 2**20


class Data(Spec):
    """Pictures and their captions."""

    folder: Path = setting(..., metavar="DATASET")
    """Folder of images, each with a caption of the same name (.txt or .caption), or with a metadata.jsonl."""
    resolution: int | None = setting(None, "--resolution", ge=32, le=4096, multiple_of=8)
    """Pixels of the side of a square; other shapes get the same area. Not given: what the model was made for."""
    trigger: str | None = setting(None, "--trigger", min_length=1)
    """Word that stands for what is learned; put before every caption that lacks it."""
    caption_dropout: float = Field(0.05, ge=0, le=1)
    """Share of images shown without their caption, so that guidance goes on working."""
    caption_from_filename: bool = setting(False, "--caption-from-filename")
    """An image without a caption takes its file's name: red_apple.png becomes "red apple"."""
    skip_bad: bool = setting(False, "--skip-bad")
    """Leave out images that cannot be read, instead of refusing to start."""


class Memory(Spec):
    """Fitting the card."""

    device: Literal["auto", "cuda", "cpu"] = setting("auto", "--device")
    """Where to work; auto: the CUDA card where there is one."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Numbers of the frozen model and its arithmetic; the LoRA stays fp32. auto: bf16 on cards that have it,
    else fp16, and fp32 on the CPU."""
    attention: Literal["auto", "sdpa", "xformers"] = "auto"
    """Memory-efficient attention: PyTorch's own (sdpa) or xformers'; each is tried on the device before use."""
    gradient_checkpointing: bool = False
    """Keep little from the forward pass and compute it again: about a quarter more time, far less memory."""


class Save(Spec):
    """The LoRA file."""

    form: Literal["auto", "kohya", "peft"] = "auto"
    """Names inside the file. auto: what the most programs load, kohya's (sd3: diffusers')."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Numbers in the file."""


class Samples(Spec):
    """Pictures drawn before the first step and at the end."""

    prompts: tuple[str, ...] = ()
    """What to draw; not given: two captions of the data set."""
    negative: str = ""
    """What the pictures should not show."""
    steps: int = Field(20, ge=1, le=1000)
    """Sampling steps."""
    guidance: float = Field(5.0, ge=0)
    """How strongly the prompt pulls."""
    off: bool = False
    """Draw nothing."""


class TrainLora(Spec):
    """Train a LoRA on a folder of pictures."""

    model: str = setting("mini", "--model", "-m")
    """Base model: mini, sd15, sd21, sdxl, sd35-medium, a Hugging Face name, a diffusers folder or a .safetensors."""
    out: Path | None = setting(None, "--out", "-o")
    """Run folder, new or empty. Not given: runs/<data set>-<number>."""
    steps: int | None = setting(None, "--steps", ge=1)
    """Optimizer steps. Not given: 100 times the images over the batch, at least 600 and at most 2000."""
    batch_size: int = setting(1, "--batch-size", ge=1)
    """Images at once on the device."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are added up for one step."""
    clip: float = Field(1.0, ge=0)
    """Largest norm of the gradient of a step; 0: not limited."""
    seed: int = setting(0, "--seed", ge=0, lt=2**63)
    """Start of every random draw: the same seed gives the same LoRA on the same machine."""
    data: Data
    network: Network = LoRA()
    optimizer: Optimizer = AdamW8bit()
    schedule: Schedule = Cosine()
    timesteps: Timesteps = Stratified()
    noise: Noise = Gaussian()
    loss: Loss = MSE()
    weighting: Weighting = MinSNR()
    memory: Memory = Memory()
    save: Save = Save()
    samples: Samples = Samples()


class Sample(Spec):
    """Draw pictures from prompts."""

    prompt: tuple[str, ...] = setting(..., "--prompt", min_length=1)
    """What to draw; can be given several times."""
    negative: str = setting("", "--negative")
    """What the picture should not show."""
    lora: tuple[str, ...] = setting((), "--lora", metavar="FILE[:STRENGTH]")
    """LoRA file or run folder, with a strength behind a colon where it is not 1; can be given several times."""
    model: str | None = setting(None, "--model", "-m")
    """Base model. Not given: that of the run whose LoRA is used, else mini."""
    out: Path = setting(Path("samples"), "--out", "-o")
    """Folder for the pictures, or the name of the only one (.png)."""
    steps: int = setting(25, "--steps", ge=1, le=1000)
    """Sampling steps."""
    guidance: float = setting(5.0, "--guidance", ge=0)
    """How strongly the prompt pulls; 1: guidance off."""
    sampler: AnySampler = DPMpp2M()
    """Path from noise to an image."""
    width: int | None = setting(None, "--width", ge=8, le=8192, multiple_of=8)
    """Pixels. Not given: what the model was made for."""
    height: int | None = setting(None, "--height", ge=8, le=8192, multiple_of=8)
    """Pixels. Not given: what the model was made for."""
    seed: int = setting(0, "--seed", ge=0, lt=2**63)
    """Seed of the first picture of each prompt; the next has the next number."""
    count: int = setting(1, "--count", "-n", ge=1)
    """Pictures a prompt."""
    batch_size: int = setting(4, "--batch-size", ge=1)
    """Pictures at once on the device."""
    memory: Memory = Memory()


def presets_folder() -> Path:
    """Where the shipped presets lie: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "presets"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "presets"


def preset_names() -> list[str]:
    """The shipped presets, by name."""
    return sorted(path.stem for path in presets_folder().glob("*.toml"))


def read_preset(name: str) -> Tables:
    """The tables of a shipped preset (by name) or of a TOML file (by path)."""
    path = Path(name) if name.endswith(".toml") or os.sep in name else presets_folder() / f"{name}.toml"
    try:
        if path.stat().st_size > PRESET_BYTES:
            raise ConfigError(f"{name}: over 1 MB, which is no preset; give a TOML file of settings")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = nearest(name, preset_names())
        known = hint or f"give a TOML file, or one of {', '.join(preset_names())}"
        raise ConfigError(f"{name}: no such preset; {known}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: not valid TOML: {error}; mend that line") from None
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror}); give a TOML file") from None


def resolve(spec: type[Config], layers: Iterable[Tables]) -> Config:
    """One settings object out of layers of tables; later layers win, and every problem is told at once."""
    tables: Tables = {}
    for layer in layers:
        tables = merge(spec, tables, layer)
    try:
        return spec.model_validate(tables)
    except ValidationError as error:
        raise ConfigError("\n".join(_problems(spec, error))) from None


def refine(config: Config, layer: Tables) -> Config:
    """The config with a layer laid under what the user set, over the classes' defaults."""
    return resolve(type(config), [layer, config.model_dump(exclude_unset=True)])


def merge(spec: type[Spec] | None, base: Tables, layer: Tables) -> Tables:
    """base with layer over it, table by table; a table whose kind changes starts afresh."""
    merged = dict(base)
    for name, value in layer.items():
        field = spec.model_fields.get(name) if spec else None
        kinds = kinds_of(field) if field else {}
        if kinds and isinstance(value, str):
            value = {"kind": value}
        below = merged.get(name)
        if isinstance(value, dict) and isinstance(below, dict):
            usual = getattr(field.default, "kind", None) if field else None
            changed = bool(kinds) and "kind" in value and value["kind"] != below.get("kind", usual)
            value = value if changed else merge(table_of(field) if field else None, below, value)
        merged[name] = value
    return merged


def to_toml(config: Spec, without: Collection[str] = ()) -> str:
    """The settings as TOML, itself a preset; what is not set, or named in `without`, is left out."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True, exclude=set(without)))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """ "did you mean ...?" for a misspelt name, or None where nothing is near."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {match[0]}?" if match else None


def _problems(spec: type[Spec], error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        path, table = _walk(spec, problem["loc"])
        dotted = ".".join(path)
        if problem["type"] == "extra_forbidden":
            prefix = ".".join(path[:-1])
            near = nearest(path[-1], [name for name in table.model_fields if name != "kind"])
            known = f"known here: {', '.join(name for name in table.model_fields if name != 'kind')}"
            yield f"{dotted}: no such setting; {near.replace('mean ', f'mean {prefix}.' if prefix else 'mean ') if near else known}"
        elif problem["type"] == "union_tag_invalid":
            tag = str(problem["ctx"]["tag"])
            known = str(problem["ctx"]["expected_tags"]).replace("'", "")
            yield f"{dotted}: no such kind as {tag!r}; {nearest(tag, known.split(', ')) or f'choose one of {known}'}"
        elif problem["type"] == "missing":
            yield f"{_spelt(spec, path)}: not given; {_help(spec, path)}"
        else:
            message = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
            yield f"{_spelt(spec, path)}: {message[0].lower()}{message[1:]}; it was {problem['input']!r}"


def _walk(spec: type[Spec], loc: Sequence[int | str]) -> tuple[list[str], type[Spec]]:
    """The dotted path of a pydantic location (which names a choice's kind as a step), and its innermost table."""
    path: list[str] = []
    table, kinds = spec, {}
    for step in map(str, loc):
        if step in kinds:
            table, kinds = kinds[step], {}
            continue
        path.append(step)
        field = table.model_fields.get(step)
        if field is not None:
            kinds = kinds_of(field)
            table = table_of(field) or table
    return path, table


def _field(spec: type[Spec], path: Sequence[str]) -> Any:
    field = None
    tables: list[type[Spec]] = [spec]
    for step in path:
        found = [table.model_fields[step] for table in tables if step in table.model_fields]
        if not found:
            return field
        field = found[0]
        inner = table_of(field)
        tables = [inner] if inner else list(kinds_of(field).values())
    return field


def _spelt(spec: type[Spec], path: Sequence[str]) -> str:
    """network.rank (--rank)"""
    field = _field(spec, path)
    flags = (field.json_schema_extra or {}).get("flags", []) if field else []
    dotted = ".".join(path)
    return f"{dotted} ({flags[0]})" if flags and flags[0] != f"--{dotted}" else dotted


def _help(spec: type[Spec], path: Sequence[str]) -> str:
    field = _field(spec, path)
    text = " ".join((field.description or "").split()) if field else ""
    return f"{text[:1].lower()}{text[1:].rstrip('.')}"
