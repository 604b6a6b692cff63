"""Words become settings, failures become one line and an exit code, and nothing that a terminal obeys gets through."""

from __future__ import annotations

import errno
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from sdtune.cli import commands
from sdtune.cli.app import main
from sdtune.cli.failures import leave
from sdtune.config import LoraDiff, LoraInspect, Sample, TrainLora
from sdtune.core.reports import Note, Report
from sdtune.errors import TrainingError

NAMES = ", ".join(dict.fromkeys(name.split()[0] for name in commands.COMMANDS))
OF_LORA = "inspect, convert, resize, extract, diff"
Ran = tuple[int, str, list[str]]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Ran:
    """Exit code, standard output, lines of standard error."""
    code = main(list(words))
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err.splitlines()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings that reach the work; nothing is done with them."""
    told: dict[str, Any] = {}
    for name, (_, settings) in commands.COMMANDS.items():

        def note(config: Any, as_json: bool) -> None:
            told.update(config=config, as_json=as_json)

        note.__doc__ = "A sentence."
        monkeypatch.setitem(commands.COMMANDS, name, (note, settings))
    return told


def fails(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def work(*_: Any) -> None:
        raise error

    work.__doc__ = "A sentence."
    monkeypatch.setitem(commands.COMMANDS, "sample", (work, "Sample"))


# ---- from words to settings


def test_the_commands_of_the_first_page(told: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "train-lora", "dataset/", "--rank", "8") == (0, "", [])
    assert isinstance(told["config"], TrainLora)
    assert (told["config"].data.folder, told["config"].network.rank) == (Path("dataset"), 8)
    assert run(capsys, "sample", "--prompt", "a", "--prompt", "b") == (0, "", [])
    assert isinstance(told["config"], Sample)
    assert told["config"].prompt == ("a", "b")


def test_commands_of_two_words(told: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "lora", "inspect", "cats.safetensors", "-w", "--json") == (0, "", [])
    assert told == {"config": LoraInspect(lora=Path("cats.safetensors"), weights=True), "as_json": True}
    assert run(capsys, "lora", "diff", "a", "b", "--model", "sdxl") == (0, "", [])
    assert told["config"] == LoraDiff(first=Path("a"), second=Path("b"), model="sdxl")


def test_a_flag_is_the_path_in_a_toml_file(told: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--optimizer", "adamw", "--optimizer.lr", "1e-3", "--captions.dropout=0", "--network.rank", "3"]
    switches = ["--skip-bad", "--no-caption-from-filename", "--memory.gradient-checkpointing", "--no-samples.off"]
    assert run(capsys, "train-lora", "x", *words, *switches)[0] == 0
    config = told["config"]
    assert (config.optimizer.kind, config.optimizer.lr, config.network.rank) == ("adamw", 1e-3, 3)
    assert (config.captions.dropout, config.data.skip_bad, config.data.caption_from_filename) == (0, True, False)
    assert config.memory.gradient_checkpointing
    assert run(capsys, "train-lora", "x", "--lr", "2e-3")[0] == 0
    assert (told["config"].optimizer.kind, told["config"].optimizer.lr) == ("adamw8bit", 2e-3)


def test_flags_win_over_presets_in_their_order(
    told: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.toml").write_text('model = "a"\nsteps = 1\nseed = 1\n[data]\nfolder = "a"\nskip_bad = true\n')
    (tmp_path / "b.toml").write_text('model = "b"\nsteps = 2\n[data]\nfolder = "b"\n')
    presets = ["-p", str(tmp_path / "a.toml"), "--preset", str(tmp_path / "b.toml")]
    assert run(capsys, "train-lora", *presets, "--model", "c", "--no-skip-bad")[0] == 0
    config = told["config"]
    assert (config.model, config.steps, config.seed, config.data.folder) == ("c", 2, 1, Path("b"))
    assert not config.data.skip_bad


@pytest.mark.parametrize(
    ("words", "resumed", "folder"),
    [
        (["cats", "--resume"], "newest", "cats"),
        (["--resume", "cats"], "newest", "cats"),
        (["cats", "--resume", "--seed", "3"], "newest", "cats"),
        (["cats", "--resume", "-m", "mini"], "newest", "cats"),
        (["--resume", "--", "cats"], "newest", "cats"),
        (["--resume", "cats", "--seed", "3"], "newest", "cats"),
        (["--resume=newest", "cats"], "newest", "cats"),
        (["--resume", "runs/cats-1"], "runs/cats-1", "kept"),
        (["--resume=runs/cats-1"], "runs/cats-1", "kept"),
        (["cats", "--resume", "runs/cats-1"], "runs/cats-1", "cats"),
        (["--resume", "runs/cats-1", "cats"], "runs/cats-1", "cats"),
        (["--resume"], "runs/cats-1", "kept"),
        (["--resume", "runs/cats-1", "--resume"], "runs/cats-1", "kept"),
        (["--resume", "runs/cats-2"], None, "runs/cats-2: no such folder"),
        (["--resume", "runs/cats-1/checkpoints"], None, "give the run, --resume runs/cats-1"),
        (["cats", "--resume", "plain"], None, "plain is no run"),
        (["cats", "--resume", "file"], None, "file is no folder"),
        (["cats", "--resume="], None, "resume (--resume): should not be empty"),
        (["cats", "--resume", "--sede", "3"], None, "--sede: no such option"),
    ],
)
def test_resume_takes_a_run_or_nothing(
    words: list[str],
    resumed: str | None,
    folder: str,
    told: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("cats", "plain", "runs/cats-1/checkpoints/step-000010"):
        Path(place).mkdir(parents=True)
    Path("plain/a.png").touch()
    Path("file").touch()
    Path("runs/cats-1/run.toml").write_text('seed = 9\n[data]\nfolder = "kept"\n')
    code, _, lines = run(capsys, "train-lora", *words)
    if code:
        assert len(lines) == 1
        assert folder in lines[0]
        return
    assert (told["config"].resume, str(told["config"].data.folder)) == (resumed, folder)
    assert told["config"].seed == (3 if "--seed" in words else 9 if resumed == "runs/cats-1" else 0)


def test_text_in_utf8_is_read_in_any_locale(told: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    spoilt = "ein Käse".encode().decode("ascii", "surrogateescape")
    assert run(capsys, "sample", "--prompt", spoilt, "--negative", spoilt)[0] == 0
    assert (told["config"].prompt, told["config"].negative) == (("ein Käse",), "ein Käse")
    assert run(capsys, "sample", "--prompt", "\udcff")[0] == 2


# ---- wrong words


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train-lora", "x", "--rnak", "8"], "--rnak: no such option of sdtune train-lora; did you mean --rank?"),
        (
            ["train-lora", "x", "--network.alhpa", "8"],
            "--network.alhpa: no such option of sdtune train-lora; did you mean --network.alpha?",
        ),
        (
            ["train-lora", "x", "--zzzzzz"],
            "--zzzzzz: no such option of sdtune train-lora; see sdtune train-lora --help",
        ),
        (["--vresion"], "--vresion: no such option of sdtune; did you mean --version?"),
        (["trian-lora", "x"], "trian-lora: no such command; did you mean sdtune train-lora?"),
        (["zzz"], f"zzz: no such command; choose one of {NAMES}"),
        (["train-lora", "--quiet"], "--quiet: no such option of sdtune train-lora; see sdtune train-lora --help"),
        (["train-lora", "--foo"], "--foo: no such option of sdtune train-lora; see sdtune train-lora --help"),
        (
            ["train-lora", "--data.folder", "x"],
            "--data.folder: is given without a flag; say sdtune train-lora DATASET",
        ),
        (
            ["train-lora", "--fodler", "x"],
            "--fodler: no such option of sdtune train-lora; see sdtune train-lora --help",
        ),
        ([""], f"the name of the command is empty; choose one of {NAMES}"),
        (["lora"], f"sdtune lora: say what to do; choose one of {OF_LORA}"),
        (["lora", ""], f"the name of the command is empty; choose one of {OF_LORA}"),
        (["lora", "zzz"], f"lora zzz: no such command; choose one of {OF_LORA}"),
        (["lora", "inspct", "x"], "lora inspct: no such command; did you mean sdtune lora inspect?"),
        (["lora", "lora"], f"lora lora: no such command; choose one of {OF_LORA}"),
        (["inspect", "x"], "inspect: no such command; did you mean sdtune lora inspect?"),
        (["inspct", "x"], "inspct: no such command; did you mean sdtune lora inspect?"),
        (["lora inspect", "x"], "lora inspect: no such command; did you mean sdtune lora inspect?"),
        (["lora", "merge", "x"], "lora merge: no such command; did you mean sdtune merge?"),
        (["lora", "prepare"], "lora prepare: no such command; did you mean sdtune prepare?"),
        (
            ["lora", "convert", "--to", "x"],
            "--to: no such option of sdtune lora convert; see sdtune lora convert --help",
        ),
        (
            ["merge", "a", "--strength", "1"],
            "--strength: no such option of sdtune merge; a strength stands behind its LoRA: cats.safetensors:0.8",
        ),
        (
            ["sample", "--weight", "1"],
            "--weight: no such option of sdtune sample; a strength stands behind its LoRA: cats.safetensors:0.8",
        ),
        (
            ["train-lora", "x", "--strength", "1"],
            "--strength: no such option of sdtune train-lora; did you mean --noise.strength?",
        ),
        (["lora", "--helo"], "--helo: no such option of sdtune lora; did you mean --help?"),
        (
            ["lora", "inspect", "x", "--weihgts"],
            "--weihgts: no such option of sdtune lora inspect; did you mean --weights?",
        ),
        (["lora", "inspect", "a", "b"], "got unexpected extra argument (b); see sdtune lora inspect --help"),
        (["train-lora", "a", "b"], "got unexpected extra argument (b); see sdtune train-lora --help"),
        (["train-lora", "x", "--rank"], "option '--rank' requires an argument; see sdtune train-lora --help"),
        (
            ["train-lora", "x", "--skip-bad=yes"],
            "option '--skip-bad' does not take a value; see sdtune train-lora --help",
        ),
        (["train-lora", "x", "--rank", "0"], "network.rank (--rank): should be greater than or equal to 1; it was '0'"),
        (
            ["train-lora", "x", "--lr", "-1"],
            "optimizer.lr (--lr): should be greater than or equal to 1e-12; it was '-1'",
        ),
        (["train-lora", "x", "--optimizer", "adamv"], "optimizer: no such kind as 'adamv'; did you mean adamw?"),
        (["train-lora", "x", "-p", "mimi"], "mimi: no such preset; did you mean mini?"),
        (["train-lora", ""], "data.folder: should be a path, not empty; it was ''"),
        (
            ["sample", "--prompt", "x", "--width", "100"],
            "width (--width): should be a multiple of 8, and the nearest is 96; it was '100'",
        ),
        (["sample", "--cfg", "7"], "--cfg: no such option of sdtune sample; did you mean --guidance?"),
        (
            ["sample", "--denoising_strength=1"],
            "--denoising_strength: no such option of sdtune sample; did you mean --strength?",
        ),
        (["train-lora", "x", "--cfg", "7"], "--cfg: no such option of sdtune train-lora; see sdtune train-lora --help"),
        (
            ["sample", "a red apple"],
            "got unexpected extra argument (a red apple); what to draw stands behind --prompt: sdtune sample --prompt "
            '"a red apple"',
        ),
        (
            ["sample", "--prompt", "x", "--sampler", "DPM++ 2M Karras"],
            "sampler: no such kind as 'DPM++ 2M Karras'; did you mean dpm++2m?",
        ),
        (
            ["sample", "--prompt", "x", "--sampler", "DPM++ 2M SDE Karras"],
            "sampler: no such kind as 'DPM++ 2M SDE Karras'; did you mean dpm++2m-sde?",
        ),
        (
            ["sample", "--prompt", "x", "--feather", "3"],
            "--feather needs --mask, which says what is drawn anew; give it, or leave --feather out",
        ),
    ],
)
def test_wrong_words_are_told_in_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *words) == (2, "", [f"sdtune: {line}"])


def test_what_is_needed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for words, start in (
        (["train-lora"], "sdtune: DATASET: not given; folder of images, "),
        (["sample"], "sdtune: nothing to draw; say what with --prompt, as in "),
        (["prepare"], "sdtune: SOURCE: not given; folders"),
        (["lora", "inspect"], "sdtune: LORA: not given; a LoRA file or a run folder, as in: sdtune lora inspect "),
        (
            ["lora", "diff", "a.safetensors"],
            "sdtune: SECOND: not given; the LoRA to compare it with, likewise, as in: ",
        ),
        (
            ["lora", "resize", "--out", "x"],
            "sdtune: LORA: not given; a LoRA file of any network (LoHa, LoKr, ... become",
        ),
        (["lora", "extract", "mini", "--out", "x"], "sdtune: TUNED: not given; the model that was made out of BASE; "),
        (
            ["merge", "--out", "x"],
            "sdtune: [BASE] LORA[:STRENGTH]: not given; a base model and the LoRAs to put into it",
        ),
    ):
        code, _, (line,) = run(capsys, *words)
        assert code == 2
        assert line.startswith(start)


@pytest.mark.parametrize("words", [["sample", "--prompt", "x"], ["merge", "a", "--out", "b"], ["lora", "inspect", "x"]])
def test_a_preset_for_training_is_no_preset_of_other_commands(
    words: list[str], told: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = "sdtune lora inspect" if words[0] == "lora" else f"sdtune {words[0]}"
    code, _, (line,) = run(capsys, *words, "-p", "mini")
    assert code == 2
    assert line.startswith("sdtune: mini: a preset for sdtune train-lora, as ")
    assert line.endswith(f" is no setting of {command}; leave it out")
    settings = tmp_path / "run.toml"
    settings.write_text('model = "mini"\nsteps = 3\n[data]\nfolder = "a"\n[network]\nrank = 8\n')
    assert len(run(capsys, *words, "-p", str(settings))[2]) == 1
    settings.write_text("zzzzzz = 3\n[data]\nfolder = 1\n")  # of no command at all
    assert len(run(capsys, *words, "-p", str(settings))[2]) == 2
    own = {"sample": "count = 2\n", "merge": "rank = 2\n", "lora": "weights = true\n"}[words[0]]
    settings.write_text(own)
    assert run(capsys, *words, "-p", str(settings)) == (0, "", [])
    name = own.split()[0]
    assert getattr(told["config"], name) is not type(told["config"]).model_fields[name].default


def test_several_problems_stand_on_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, lines = run(capsys, "train-lora", "x", "--rank", "0", "--steps", "many")
    assert (code, len(lines)) == (2, 2)


# ---- failures


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (TrainingError("step 3: the loss is nan; lower --lr"), 1, ["step 3: the loss is nan; lower --lr"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (MemoryError(), 1, ["out of memory", "--batch-size 1", "--width"]),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, ["out of memory", "Tried to allocate"]),
        (OSError(errno.ENOSPC, "No space left on device"), 1, ["the disk is full"]),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 1, ["a.png: the disk is full"]),
        (PermissionError(errno.EACCES, "Permission denied", "a.png"), 1, ["a.png: Permission denied"]),
        (OSError(errno.EFBIG, "File too large"), 1, ["a file cannot be used: File too large; check that place"]),
        (ZeroDivisionError("by\nzero"), 1, ["unexpected: ZeroDivisionError: by zero", "SDTUNE_DEBUG=1"]),
        (RuntimeError(), 1, ["unexpected: RuntimeError;"]),
        (AssertionError("a sentence"), 1, ["unexpected: AssertionError: a sentence"]),
    ],
)
def test_failures_leave_in_one_line(
    error: BaseException,
    code: int,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fails(monkeypatch, error)
    got, out, (line,) = run(capsys, "sample", "--prompt", "x")
    assert (got, out) == (code, "")
    assert line.startswith("sdtune: ")
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("command", "remedy"),
    [("train-lora", "--memory.gradient-checkpointing"), ("sample", "--width"), ("merge", "where there is more memory")],
)
def test_what_needs_less_memory_is_told_of_the_command(
    command: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(MemoryError(), [command]) == 1
    assert remedy in capsys.readouterr().err


def test_a_full_card_is_told_by_the_name_of_its_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    fails(monkeypatch, torch.OutOfMemoryError("CUDA out of memory."))
    code, _, (line,) = run(capsys, "sample", "--prompt", "x")
    assert code == 1
    assert "close other programs that use the card" in line


@pytest.mark.parametrize("given", [["lora", "inspect", "x"], ["merge", "x", "--out", "y"]])
def test_who_only_reads_loras_is_told_nothing_of_pictures(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(RuntimeError("can't allocate memory: 9 bytes"), given) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "out of memory (can't allocate memory: 9 bytes); close other programs" in line
    assert "--" not in line


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fails(monkeypatch, ZeroDivisionError("by zero"))
    monkeypatch.setenv("SDTUNE_DEBUG", "1")
    assert main(["sample", "--prompt", "x"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_json_ends_with_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, (line,) = run(capsys, "train-lora", "x", "--rank", "0", "--json")
    report = json.loads(out)
    assert (code, report["report"], report["exit_code"]) == (2, "error", 2)
    assert line == f"sdtune: {report['problems'][0]}"


HOSTILE = (
    "[red]x[/] \x1b[31m \x1b]0;title\x07 \x1b]8;;http://x\x1b\\ \u202egpj.exe \u2066"
    " \x9b2J \r over \b\b\u200b :smile: \ud800"
)


def test_nothing_that_a_terminal_obeys_gets_through(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words in (
        ["train-lora", HOSTILE],
        [HOSTILE],
        ["train-lora", "x", "--" + HOSTILE],
        ["train-lora", "x", "-p", HOSTILE],
    ):
        code, out, lines = run(capsys, *words)
        assert code == 2
        shown = out + "".join(lines)
        assert not set(shown) & {chr(number) for number in [*range(32), *range(0x7F, 0xA0), 0x200B, 0x202E, 0x2066]}
        assert "[red]x[/]" in shown or "did you mean" in shown or "xd800" in shown
    hostile = tmp_path / "a\nsdtune: forged.toml"
    hostile.write_text("rank = 3")
    assert len(run(capsys, "train-lora", "x", "-p", str(hostile))[2]) == 1


def test_reports_of_the_work_are_shown_harmless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sdtune.cli.following import follow

    def work(_config: Any) -> Generator[Report, None, None]:
        yield Note(HOSTILE)

    def command(config: Any, as_json: bool) -> None:
        follow(work(config), as_json)

    command.__doc__ = "A sentence."
    monkeypatch.setitem(commands.COMMANDS, "sample", (command, "Sample"))
    code, out, (line,) = run(capsys, "sample", "--prompt", "x")
    assert (code, out) == (0, "")
    assert line.isprintable()
    assert "[red]x[/]" in line
    assert ":smile:" in line
    _, out, _ = run(capsys, "sample", "--prompt", "x", "--json")
    assert json.loads(out) == {"report": "note", "text": HOSTILE}
