"""Summaries: what a command says at its end, as lines of two columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

WIDEST = 48  # letters of a name in a table
LISTED = 30  # tags and words of a data set


def prepared(report: Any) -> Iterator[str]:
    """Of sdtune.core.reports.Prepared."""
    place = f" in {report.out}" if report.out else ", if it were no dry run"
    more = [f"{report.held_out} of them held out"] if report.held_out else []
    more += [f"and {report.priors} for regularisation"] if report.priors else []
    yield line("data set", ", ".join([f"{counted(report.images, 'image')}{place}", *more]))
    if report.set_aside:
        kinds = ", ".join(f"{kind} {count}" for kind, count in report.set_aside.items())
        yield line("set aside", f"{sum(report.set_aside.values())}: {kinds}")
    if report.skipped:
        yield line("skipped", f"{report.skipped} that cannot be used")
    if report.left:
        files = "1 file that is no image" if report.left == 1 else f"{report.left} files that are no images"
        yield line("left alone", files)
    yield line("captions", f"{report.described} of {report.images} have one")
    for one in report.buckets:
        told = f"{one.buckets} {'bucket' if one.buckets == 1 else 'buckets'} at {one.resolution} px"
        small = f", {one.enlarged} too small (enlarged over 1.25 times)" if one.enlarged else ""
        yield line(one.family, f"{told}, {one.cropped:.1%} cropped away{small}")
    if report.page:
        yield line("report", str(report.page))
    if report.try_next:
        yield line("try next", report.try_next)


def bucketed(report: Any) -> Iterator[str]:
    """Of sdtune.core.reports.Bucketed; one bucket without a loss needs no table."""
    (first, *rest) = report.buckets
    if not rest and not first.enlarged and first.cropped_most < 0.005:
        yield f"buckets: {counted(first.images, 'image')}, all at {_size(first.size)}"
        return
    yield "  bucket       images  cropped (most)  enlarged (most)"
    for one in report.buckets:
        cropped = f"{one.cropped:.0%} ({one.cropped_most:.0%})" if one.cropped_most >= 0.005 else "-"
        enlarged = f"{one.enlarged} ({one.enlarged_most:.2f}x)" if one.enlarged else "-"
        yield f"  {_size(one.size):<11} {one.images:>7}  {cropped:>14}  {enlarged:>15}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def statistics(report: Any) -> Iterator[str]:
    """Of sdtune.core.reports.Statistics."""
    about = "" if report.exact else "about "
    yield line("images", f"{report.images}, of which {report.with_caption} have a caption")
    over = f"{report.over_limit or 'none'} {'have' if report.over_limit > 1 else 'has'} more than 77 tokens"
    yield line("captions", f"{report.captions}, of which {over}{'' if report.exact else ', by an estimate'}")
    yield line("tokens", f"{about}{report.tokens_mean:.0f} on average, the longest {about}{report.tokens_longest}")
    for what, counts in (("tag", report.tags), ("word", report.words)):
        if counts:
            yield ""
            yield f"images  {what}"
        for text, number in counts[:LISTED]:
            yield f"{number:6}  {text}"
        if len(counts) > LISTED:
            yield f"        and {len(counts) - LISTED} more; --json lists them all"


def cached(report: Any) -> Iterator[str]:
    """Of sdtune.core.reports.Cached."""
    if not report.removed and not report.size:
        yield line("cache", f"{report.folder}: empty, nothing to prune")
        return
    yield line("cache", str(report.folder))
    entries = "1 entry" if report.entries == 1 else f"{report.entries} entries"
    priors = f" and {report.priors} of prior images" if report.priors else ""
    yield line("holds", f"{entries}{priors}, {_megabytes(report.size)}")
    days = "a day" if report.days == 1 else f"{report.days} days"
    if report.removed is None:
        told = f"{report.unused} for {days}, {_megabytes(report.unused_size)}" if report.unused else f"none for {days}"
        yield line("unused", told)
    elif not report.removed:
        yield line("removed", f"nothing; all was used within {days}")
    else:
        told = f" that {'was' if report.removed == 1 else 'were'} not used for {days}" if report.days else ""
        yield line("removed", f"{report.removed}{told}, {_megabytes(report.removed_size)}")
    if report.try_next:
        yield line("try next", report.try_next)


def trained(report: Any) -> Iterator[str]:
    """Of sdtune.core.reports.Trained."""
    told = [
        ("LoRA", report.lora),
        ("best", report.best if report.best != report.lora else None),
        ("pictures", report.sheet),
        ("plot", report.plot),
        ("verdict", report.verdict),
        ("changed", _changed(report.update)),
        ("try next", report.try_next),
    ]
    yield from (f"{label:<9} {text}" for label, text in told if text)


def _changed(update: Sequence[Any]) -> str | None:
    """Blocks by how much is added to their weights; --json lists them all."""
    if not update:
        return None
    most = max(update, key=lambda one: one.relative)
    least = min(update, key=lambda one: one.relative)
    dead = sum(one.dead for one in update)
    still = f"; nothing in {counted(dead, 'layer')} of {sum(one.modules for one in update)}" if dead else ""
    told = f"{most.block} by {100 * most.relative:.2g} % of its weights"
    return f"{told}{'' if most is least else f', the most; {least.block} by {100 * least.relative:.2g} %'}{still}"


def validated(report: Any) -> str:
    """Of sdtune.core.reports.Validated."""
    took = f"({report.seconds:.1f} s)"
    if not report.step:
        images = counted(report.held_out.images, "image")
        return f"held out: {images}, loss {report.held_out.loss:.4f} with the base {took}"
    held_out, trained = per_cent(report.held_out.relative, 1), per_cent(report.trained.relative, 1)
    best = "the best so far" if report.best == report.step else f"best at step {report.best}"
    return f"step {report.step}: held out {held_out}, trained {trained}; {best} {took}"


def per_cent(relative: float, digits: int = 0) -> str:
    """How much more or less than the base's: "-14 %"."""
    return f"{round(100 * (relative - 1), digits) + 0.0:+.{digits}f} %"


def listing(report: Any) -> Iterator[str]:
    """Of sdtune.core.reports.Listing."""
    if not report.runs:
        yield f"no runs in {report.folder}; sdtune train-lora FOLDER begins one"
        return
    heading = ("run", "state", "steps", "held out", "model", "last change", "differs by")
    rows = [heading, *(_listed(one) for one in report.runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        yield "  ".join([*(f"{text:<{width}}" for text, width in zip(row, widths, strict=False)), row[6]]).rstrip()


def _listed(run: Any) -> tuple[str, ...]:
    held_out = per_cent(run.held_out, 1) if run.held_out is not None else ""
    best = f"at {run.best}" if run.best else ""
    changed = datetime.fromtimestamp(run.changed).strftime("%Y-%m-%d %H:%M")
    apart = ", ".join(f"{name} {value}" for name, value in run.apart.items())
    steps = f"{run.step}/{run.of or '?'}"
    told = f"{held_out} {best}".strip()
    path, model = (text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..." for text in (str(run.path), run.model))
    return path, run.state, steps, told, model, changed, run.problem or apart


def line(label: str, text: str) -> str:
    """A label and what stands behind it."""
    return f"{label:<11} {text}"


def folded(text: str, letters: int, begin: str = "", rest: str = "") -> list[str]:
    """A sentence on as many lines as it takes, none of its words cut: neither a path nor --prompts-each."""
    return textwrap.wrap(
        text, letters, initial_indent=begin, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def planned(report: Any) -> Iterator[str]:
    """Of sdtune.core.reports.Planned."""
    from sdtune.cli.console import duration

    disk, probed = report.disk, report.probed
    yield line("model", f"{report.model} ({report.family}), {report.precision} on {report.device}")
    for label, group in zip(["learns", *[""] * len(report.groups)], report.groups, strict=False):
        layers = counted(group.modules, "encoder" if group.part == "new word" else "layer")
        yield line(label, f"{group.part}: {counted(group.numbers, 'number')} in {layers}, rate {group.lr:.1e}")
    more = [f"{report.held_out} held out"] if report.held_out else []
    more += [f"{report.priors} for regularisation"] if report.priors else []
    more += [f"{report.left_out} left out, as told above"] if report.left_out else []
    yield line("images", ", ".join([f"{report.trained} trained", *more]))
    shown = [f"{report.enlarged} enlarged"] if report.enlarged else []
    shown += [f"{report.cropped:.1%} cropped away on average"] if report.cropped >= 0.0005 else []
    if shown:
        yield line("", ", ".join(shown))
    if report.problems is not None:
        lengths = f"{report.tokens:.0f} tokens on average, the longest {report.tokens_longest}"
        found = counted(report.problems, "problem") if report.problems else "no problem"
        yield line("captions", f"{lengths}; {found}" + (f", which this shows: {report.look}" if report.look else ""))
    rising = f"; the rate rises over {report.warmup}" if report.warmup > 1 else ""
    passes = f"{report.passes:.1f}" if report.passes < 10 else f"{report.passes:,.0f}"
    each = counted(report.images_a_step, "image")
    yield line("steps", f"{report.steps:,} of {each}, {passes} passes over the images{rising}")
    if report.validations:
        every = f"every {counted(report.validation_every, 'step')}, {counted(report.validations, 'time')}"
        yield line("validation", f"{every}; about {report.validation_share:.1%} of the work")
    if report.drawings:
        every = f", every {counted(report.drawing_every, 'step')}" if report.drawings > 2 else ""
        yield line("samples", f"{counted(report.prompts, 'picture')} before the first step{every} and after the last")
    saved = [f"every {report.checkpoint_minutes:g} minutes"] if report.checkpoint_minutes else []
    saved += [f"every {report.checkpoint_every} steps"] if report.checkpoint_every else []
    kept = disk.checkpoints - 1
    yield line(
        "checkpoint", f"{' and '.join([*saved, 'at a stop'])}; the newest {kept} {'is' if kept == 1 else 'are'} kept"
    )
    if probed:
        there = f"of {in_bytes(report.memory_there * 1e9)}"
        yield line("memory", f"{in_bytes(probed.memory * 1e9)} {there} at the most, measured")
    else:
        yield line("memory", "--probe measures it; known beforehand, without what the passes need, are")
    for what, size in report.memory:
        yield line("", f"{in_bytes(size * 1e9):>8}  {what}")
    if report.seconds and probed:
        least, most = (duration(one) for one in report.seconds)
        took = least if least == most else f"{least} to {most}"
        each = ", ".join(f"{one:.2g}" for one in probed.seconds)
        yield line("time", f"about {took}, as probed steps took {each} s")
    else:
        yield line("time", "--probe measures it")
    free = f" of {in_bytes(disk.free)} that are free" if disk.free is not None else ""
    yield line("disk", f"about {in_bytes(disk.needed)}{free}")
    yield line("", f"{in_bytes(disk.lora):>8}  a LoRA, of which there may be {disk.loras}")
    yield line("", f"{in_bytes(disk.checkpoint):>8}  a checkpoint, {disk.checkpoints} at once")
    if disk.pictures:
        yield line("", f"{in_bytes(disk.pictures):>8}  pictures, at the most")
    yield line("cache", f"{in_bytes(disk.cache)} of images and captions, which the training finds there")
    for label, (what, path) in zip(["writes", *[""] * len(report.files)], report.files, strict=False):
        yield line(label, f"{path}  ({what})")
    yield line("try next", "nothing is trained yet: the same without --dry-run")


def in_bytes(size: float) -> str:
    """So many bytes as people write them: 4.1 MB."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def counted(count: int, thing: str) -> str:
    """ "1 step", "2 steps"."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
