"""Samplers: the path from noise to an image."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec

FULL = 0.9
"""share of the training levels that the steps must reach over"""
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


class Sampler(Spec):
    """One of diffusers' schedulers, made from the base model's own."""

    scheduler: ClassVar[str]
    """diffusers' class"""
    options: ClassVar[dict[str, Any]] = {}
    flow_scheduler: ClassVar[str | None] = None
    """diffusers' class for flow models, which may be the same; None: they keep their own, Euler on the flow"""
    implied: ClassVar[bool] = False
    """whether the flow's own sampler is what is meant where this is asked of a flow model"""
    any_spacing: ClassVar[bool] = True
    """whether diffusers' class steps rightly between levels that do not lie evenly"""
    title: ClassVar[str]
    """name in A1111's image parameters"""

    def build(self, base: Any, steps: int | None = None) -> Any:
        """The scheduler with the base model's noise levels, fit for so many steps (not given: for up to 50)."""
        import diffusers

        if not is_flow(base):
            return self._make(base, self.options | self._spacing(base, steps))
        if self.flow_scheduler is None:
            return type(base).from_config(base.config)
        flow = getattr(diffusers, self.flow_scheduler)
        if self.flow_scheduler != self.scheduler:
            return flow.from_config(base.config)
        count, shift = base.config.num_train_timesteps, base.config.shift
        return flow(num_train_timesteps=count, flow_shift=shift, **FLOW, **self.options)

    def step_options(self, base: Any) -> dict[str, Any]:  # noqa: ARG002 (those with settings look at it)
        """What the `step` of the scheduler that `build` gives is to be told beside the generators."""
        return {}

    def title_for(self, base: Any) -> str:
        """The name in A1111's image parameters of what `build` gives; that of flow models is an Euler."""
        return "Euler" if is_flow(base) and self.flow_scheduler is None else self.title

    def schedule_for(self, base: Any) -> str:
        """The "Schedule type" in A1111's image parameters; "" for flow models, which it has no name for."""
        return "" if is_flow(base) else self._schedule()

    def details_for(self, base: Any) -> dict[str, float]:  # noqa: ARG002 (those with settings look at it)
        """What else A1111's image parameters tell of a sampler, by the names that they have there."""
        return {}

    def note_for(self, base: Any) -> str | None:
        """A sentence where another sampler than this one draws; None where it is this one, or what is meant by it."""
        if not is_flow(base) or self.flow_scheduler or self.implied:
            return None
        return "SD3 is drawn with its own sampler, Euler on the flow"

    def _make(self, base: Any, options: dict[str, Any]) -> Any:
        import diffusers

        return getattr(diffusers, self.scheduler).from_config(base.config, **(_levels(base) | options))

    def _schedule(self) -> str:
        return "Automatic"

    def _spacing(self, base: Any, steps: int | None) -> dict[str, Any]:
        """Levels over the whole range, each once, where the base model's spacing would not give them.

        "leading" takes every (T // steps)th of T levels, multistep classes every (T // (steps + 1))th: of 1000 in 400
        steps the lowest 800. "trailing" adds a level below the lowest for some numbers of steps (61, 103, ...), where
        T / (T / steps) rounds to more than these.
        """
        count, spacing = base.config.num_train_timesteps, base.config.get("timestep_spacing")
        if not steps:
            return {}
        if steps >= count:  # otherwise the highest would be one too high, or two of them the same
            return {"timestep_spacing": "trailing"} if self.any_spacing else {"steps_offset": 0}
        narrow = self.any_spacing and spacing == "leading" and count // (steps + 1) * steps < FULL * count
        below = spacing == "trailing" and math.ceil(count / (count / steps)) != steps
        return {"timestep_spacing": "linspace"} if narrow or below else {}


def _levels(base: Any) -> dict[str, Any]:
    """What the noise levels come from: classes differ in what they take where a config does not tell."""
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    return {name: base.config[name] for name in names if name in base.config}


def is_flow(scheduler: Any) -> bool:
    """Whether a base model's scheduler is a flow's, without the levels of a discrete process."""
    return not hasattr(scheduler, "alphas_cumprod")


class _Karras(Sampler):
    """A solver that can take its steps at Karras levels."""

    karras: bool = True
    """Steps at the levels of Karras et al. 2022 (arXiv:2206.00364, eq. 5), closer where there is little noise; without,
    as the base model spaces them."""

    def _make(self, base: Any, options: dict[str, Any]) -> Any:
        return super()._make(base, options | {"use_karras_sigmas": self.karras})

    def _schedule(self) -> str:
        return "Karras" if self.karras else "Uniform"


class DPMpp2M(_Karras):
    """DPM-Solver++ of second order, multistep, Karras levels: good in 20 steps (Lu et al. 2022, arXiv:2211.01095)."""

    kind: Literal["dpm++2m"] = "dpm++2m"
    scheduler: ClassVar[str] = "DPMSolverMultistepScheduler"
    options: ClassVar[dict[str, Any]] = {"algorithm_type": "dpmsolver++"}
    implied: ClassVar[bool] = True  # as the usual kind it may not have been asked for
    title: ClassVar[str] = "DPM++ 2M"


class DPMpp2MSDE(_Karras):
    """The same with fresh noise at every step: livelier textures, in 30 steps or more."""

    kind: Literal["dpm++2m-sde"] = "dpm++2m-sde"
    scheduler: ClassVar[str] = "DPMSolverMultistepScheduler"
    options: ClassVar[dict[str, Any]] = {"algorithm_type": "sde-dpmsolver++"}
    flow_scheduler: ClassVar[str | None] = "DPMSolverMultistepScheduler"
    title: ClassVar[str] = "DPM++ 2M SDE"


class DDIM(Sampler):
    """Deterministic, of first order (Song et al. 2020, arXiv:2010.02502)."""

    kind: Literal["ddim"] = "ddim"
    eta: float = Field(0.0, ge=0, le=1)
    """Share of fresh noise at every step; 1: as much as DDPM (eq. 16)."""
    scheduler: ClassVar[str] = "DDIMScheduler"
    options: ClassVar[dict[str, Any]] = {"clip_sample": False, "set_alpha_to_one": False}
    any_spacing: ClassVar[bool] = False  # steps lead T // steps levels down, wherever the next one lies
    title: ClassVar[str] = "DDIM"

    def step_options(self, base: Any) -> dict[str, Any]:
        """eta; 1 is just below it, as on models of zero terminal SNR it rounds to a root of less than 0."""
        return {} if is_flow(base) else {"eta": min(self.eta, 0.9999)}

    def details_for(self, base: Any) -> dict[str, float]:
        """eta, where there is some."""
        return {"Eta DDIM": self.eta} if self.eta and not is_flow(base) else {}


class Euler(Sampler):
    """Deterministic, of first order in sigma (Karras et al. 2022, arXiv:2206.00364)."""

    kind: Literal["euler"] = "euler"
    churn: float = Field(0.0, ge=0, le=100)
    """Fresh noise over all steps, S_churn of algorithm 2: before a step its level is raised by churn / steps of itself,
    at most by 41 %."""
    scheduler: ClassVar[str] = "EulerDiscreteScheduler"
    implied: ClassVar[bool] = True
    title: ClassVar[str] = "Euler"

    def _make(self, base: Any, options: dict[str, Any]) -> Any:
        if not self.churn:
            return super()._make(base, options)
        return _churned_euler(self.churn).from_config(base.config, **(_levels(base) | options))

    def note_for(self, base: Any) -> str | None:
        """That a flow has no churn, where some is asked."""
        return "SD3 is drawn without churn, which Euler on the flow does not have" if self._idle(base) else None

    def details_for(self, base: Any) -> dict[str, float]:
        """The churn, where there is some."""
        return {"Sigma churn": self.churn} if self.churn and not self._idle(base) else {}

    def _idle(self, base: Any) -> bool:
        return bool(self.churn) and is_flow(base)


def _churned_euler(churn: float) -> Any:
    """diffusers' Euler whose levels are raised by fresh noise before the denoiser sees them (alg. 2, lines 4 to 6).

    Its own s_churn adds that noise behind the denoiser, which then never takes it away: the spread of Gaussians ends
    14 % too large with epsilon and 32 % with v (churn 10, 25 steps).
    """
    from diffusers import EulerDiscreteScheduler
    from diffusers.utils.torch_utils import randn_tensor

    class ChurnedEuler(EulerDiscreteScheduler):  # type: ignore[misc]
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            """The levels of each step, raised but for the first, which is noise alone, and the last, 0."""
            super().set_timesteps(num_inference_steps, device=device)
            self.reached = self.sigmas.clone()
            by = 1 + min(churn / num_inference_steps, math.sqrt(2) - 1)
            raised = (self.reached[1:-1] * by).clamp(max=self.reached[0])
            super().set_timesteps(sigmas=[self.reached[0], *raised, 0.0], device=device)

        def step(
            self, model_output: Any, timestep: Any, sample: Any, generator: Any = None, return_dict: bool = True
        ) -> Any:
            """Down to the next level as it is without churn, and up to where it is raised."""
            if self.step_index is None:
                self._init_step_index(timestep)
            following = self.step_index + 1
            raised, reached = self.sigmas[following].clone(), self.reached[following]
            self.sigmas[following] = reached
            result = super().step(model_output, timestep, sample, return_dict=return_dict)
            self.sigmas[following] = raised
            if raised > reached:
                shape, device = model_output.shape, model_output.device
                noise = randn_tensor(shape, generator=generator, device=device, dtype=model_output.dtype)
                result[0].add_(noise * (raised**2 - reached**2).sqrt())
            return result

    return ChurnedEuler


class EulerAncestral(Sampler):
    """Euler with fresh noise at every step."""

    kind: Literal["euler-a"] = "euler-a"
    scheduler: ClassVar[str] = "EulerAncestralDiscreteScheduler"
    title: ClassVar[str] = "Euler a"


class Heun(Sampler):
    """Deterministic, of second order: asks the denoiser twice a step (Karras et al. 2022, arXiv:2206.00364, alg. 1)."""

    kind: Literal["heun"] = "heun"
    scheduler: ClassVar[str] = "HeunDiscreteScheduler"
    options: ClassVar[dict[str, Any]] = {"clip_sample": False}
    flow_scheduler: ClassVar[str | None] = "FlowMatchHeunDiscreteScheduler"
    title: ClassVar[str] = "Heun"

    def _make(self, base: Any, options: dict[str, Any]) -> Any:
        """With the levels themselves: diffusers' class knows no rescale_betas_zero_snr."""
        if not base.config.get("rescale_betas_zero_snr"):
            return super()._make(base, options)
        left = base.alphas_cumprod.double().clamp(min=2**-24)  # as its other classes keep the last level from infinity
        kept = left / left.roll(1)
        kept[0] = left[0]
        return super()._make(base, options | {"trained_betas": (1 - kept).tolist()})


class UniPC(Sampler):
    """Predictor and corrector of second order, multistep: good in 15 steps (Zhao et al. 2023, arXiv:2302.04867)."""

    kind: Literal["unipc"] = "unipc"
    scheduler: ClassVar[str] = "UniPCMultistepScheduler"
    flow_scheduler: ClassVar[str | None] = "UniPCMultistepScheduler"
    title: ClassVar[str] = "UniPC"


class LCM(Sampler):
    """For models and LoRAs distilled to draw in 4 to 8 steps, guidance 1 to 2 (Luo et al. 2023, arXiv:2310.04378)."""

    kind: Literal["lcm"] = "lcm"
    scheduler: ClassVar[str] = "LCMScheduler"
    options: ClassVar[dict[str, Any]] = {"clip_sample": False, "original_inference_steps": 50}
    flow_scheduler: ClassVar[str | None] = "FlowMatchLCMScheduler"
    title: ClassVar[str] = "LCM"

    def _spacing(self, base: Any, steps: int | None) -> dict[str, Any]:
        """Steps are some of the 50 levels at which models are distilled; more than those are some of all levels."""
        return {"original_inference_steps": base.config.num_train_timesteps} if steps and steps > 50 else {}


AnySampler = Annotated[DPMpp2M | DPMpp2MSDE | DDIM | Euler | EulerAncestral | Heun | UniPC | LCM, Choice()]
