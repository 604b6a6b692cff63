"""The recipe of the built-in model, tiny and whole."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]

pytest.importorskip("resvg_py", reason="the recipe draws with resvg-py: pip install sdtune[mini]")


@pytest.mark.skipif(
    shutil.which("npm") is None and not (ROOT / "build/mini/npm").exists(),
    reason="the recipe fetches its data with npm",
)
def test_smoke_runs_every_stage_and_leaves_the_shipped_model_alone() -> None:
    shipped = {file: file.stat().st_mtime_ns for file in (ROOT / "sdtune/mini").rglob("*") if file.is_file()}
    words = [sys.executable, "-m", "tools.mini", "--smoke"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    for stage in ("vae", "decoder", "clip", "unet"):
        assert f'"stage": "{stage}"' in done.stdout
    for figure in ("psnr_held_out", "retrieval_seen", "lite0_top5", "own_top5", "seconds_a_picture"):
        assert re.search(rf'"{figure}": \d', done.stdout), figure
    assert shipped == {file: file.stat().st_mtime_ns for file in shipped}


def test_without_npm_the_remedy_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.mini.fetch import NOTO, npm_json

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SystemExit, match=r"^npm is not installed; install it, or put iconify-json-noto-.*\.tgz into .*$"
    ):
        npm_json(NOTO, "icons.json", tmp_path)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_steps_of_muon_are_orthogonal_matrices(shape: tuple[int, int]) -> None:
    from tools.mini.muon import orthogonal

    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)).float())
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_normalised_latents_leave_the_pictures_as_they_were() -> None:
    from tools.mini import vae

    torch.manual_seed(0)
    autoencoder = vae.build((16, 16, 16, 16)).eval()
    pixels = torch.randint(256, (6, 3, 64, 64), dtype=torch.uint8)
    before = vae.psnr(autoencoder, pixels)
    vae.normalised(autoencoder, pixels)
    latents = autoencoder.encode(pixels.float() / 127.5 - 1).latent_dist.mean
    assert torch.allclose(vae.psnr(autoencoder, pixels), before, atol=1e-3)
    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3)


def test_a_stage_that_stopped_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    from tools.mini.muon import Muon
    from tools.mini.stage import Pace, Stage

    def taught(folder: Path, *stops: int) -> torch.Tensor:
        folder.mkdir()
        for stop in stops:
            torch.manual_seed(0)
            net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
            pace = Pace(steps=8, batch=1, rate=0.1, warmup=2)
            stage = Stage(folder / "net.pt", net, Muon(net.named_parameters()), pace, averaging=0.9)
            while stage.step < stop:
                stage.learn(net(torch.full((1, 3), float(stage.step))).square().sum())
            stage.save()
        assert stage.done
        return torch.cat([value.flatten() for value in (*net.state_dict().values(), *stage.average.values())])

    assert torch.equal(taught(tmp_path / "once", 8), taught(tmp_path / "twice", 5, 8))
