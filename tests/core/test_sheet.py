"""A sheet shows every picture, enlarged where it is small, under its words."""

from PIL import Image

from sdtune.core.sheet import sheet


def test_every_picture_is_there() -> None:
    colours = [["#ff0000", "#00ff00", "#0000ff"], ["#ffff00", "#ff00ff", "#00ffff"]]
    rows = [[Image.new("RGB", (64, 32), colour) for colour in row] for row in colours]
    page = sheet(rows, ["a red apple, a very long caption that is wrapped " * 5, "", "x" * 200], ["before", "after"])
    counted = {colour: count for count, colour in page.getcolors(maxcolors=2**20) or []}
    for colour in [colour for row in colours for colour in row]:
        rgb = tuple(bytes.fromhex(colour[1:]))
        assert counted[rgb] == 192 * 96
    assert page.width < 3 * 192 + 5 * 8


def test_large_pictures_stay_as_they_are() -> None:
    page = sheet([[Image.new("RGB", (512, 512), "#ff0000")]], [""], [""])
    assert (512 * 512, (255, 0, 0)) in (page.getcolors(maxcolors=2**20) or [])
