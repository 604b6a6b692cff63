"""Samplers: the path from noise to an image."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from sdtune.choices.spec import Choice, Spec


class Sampler(Spec):
    """One of diffusers' schedulers, made from the base model's own."""

    scheduler: ClassVar[str]
    """diffusers' class"""
    options: ClassVar[dict[str, Any]] = {}
    title: ClassVar[str]
    """name in A1111's image parameters"""

    def build(self, base: Any) -> Any:
        """The scheduler with the base model's noise levels; flow models have one sampler, their own."""
        import diffusers

        if _is_flow(base):
            return type(base).from_config(base.config)
        return getattr(diffusers, self.scheduler).from_config(base.config, **self.options)

    def title_for(self, base: Any) -> str:
        """The name in A1111's image parameters of what `build` gives; that of flow models is an Euler."""
        return "Euler" if _is_flow(base) else self.title


def _is_flow(scheduler: Any) -> bool:
    return not hasattr(scheduler, "alphas_cumprod")


class DPMpp2M(Sampler):
    """DPM-Solver++ of second order, multistep, Karras levels: good in 20 steps (Lu et al. 2022, arXiv:2211.01095)."""

    kind: Literal["dpm++2m"] = "dpm++2m"
    scheduler: ClassVar[str] = "DPMSolverMultistepScheduler"
    options: ClassVar[dict[str, Any]] = {"use_karras_sigmas": True, "algorithm_type": "dpmsolver++"}
    title: ClassVar[str] = "DPM++ 2M Karras"


class DDIM(Sampler):
    """Deterministic, of first order (Song et al. 2020, arXiv:2010.02502)."""

    kind: Literal["ddim"] = "ddim"
    scheduler: ClassVar[str] = "DDIMScheduler"
    options: ClassVar[dict[str, Any]] = {"clip_sample": False, "set_alpha_to_one": False}
    title: ClassVar[str] = "DDIM"


class Euler(Sampler):
    """Deterministic, of first order in sigma (Karras et al. 2022, arXiv:2206.00364)."""

    kind: Literal["euler"] = "euler"
    scheduler: ClassVar[str] = "EulerDiscreteScheduler"
    title: ClassVar[str] = "Euler"


class EulerAncestral(Sampler):
    """Euler with fresh noise at every step."""

    kind: Literal["euler-a"] = "euler-a"
    scheduler: ClassVar[str] = "EulerAncestralDiscreteScheduler"
    title: ClassVar[str] = "Euler a"


AnySampler = Annotated[DPMpp2M | DDIM | Euler | EulerAncestral, Choice()]
