"""Draws one picture with stable-diffusion-cpp-python: MODEL FOLDER PROMPT OUT; run with a Python that has it."""

import sys

from stable_diffusion_cpp import StableDiffusion  # type: ignore[import-not-found]

model, folder, prompt, out = sys.argv[1:]
drawing = StableDiffusion(model_path=model, lora_model_dir=folder, n_threads=1, vae_decode_only=True)
drawing.generate_image(prompt=prompt, width=64, height=64, sample_steps=1, cfg_scale=1.0, seed=7)[0].save(out)
