"""The built-in base model `mini`: a small Stable Diffusion of emoji, in diffusers' layout; its card is README.md."""

from pathlib import Path

FOLDER = Path(__file__).parent
