"""What is made of the same facts is made once; what is damaged or cannot be written costs time, never a run."""

from __future__ import annotations

import copy
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel

from sdtune.core.data import cache
from sdtune.core.data.cache import Store, identity_of, key_of, usual_folder
from sdtune.errors import ConfigError
from tests.core.data.entries import file_of, files_in, goes_on_in_memory, made, same

KEY = key_of("the", "key")
AMPLE = 2**30


def python(script: str, *words: object) -> str:
    """What a real process says, which has these helpers at hand."""
    start = """
import os, random, re, resource, signal, sys, time
from pathlib import Path
from sdtune.core.data.cache import Store, identity_of, key_of
from tests.core.data.entries import file_of, files_in, goes_on_in_memory, made, same
"""
    return subprocess.run(
        [sys.executable, "-c", start + script, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"},
        check=True,
    ).stdout.strip()


# ---- keys

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
facts = st.recursive(plain, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


@given(st.lists(facts, max_size=4), st.lists(facts, max_size=4))
@settings(max_examples=500, deadline=None)
def test_keys_are_equal_where_the_facts_are(one: list[object], other: list[object]) -> None:
    """repr tells 1, 1.0, True and "1" apart, and -0.0 from 0.0."""
    assert re.fullmatch("[0-9a-f]{40}", key_of(*one))
    assert (key_of(*one) == key_of(*other)) == (repr(one) == repr(other))
    assert key_of(*one) == key_of(*one)


@given(st.lists(facts, min_size=1, max_size=4), st.data())
@settings(max_examples=200, deadline=None)
def test_every_fact_matters(told: list[object], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(told) - 1))
    other = data.draw(facts.filter(lambda fact: repr(fact) != repr(told[place])))
    changed = [*told[:place], other, *told[place + 1 :]]
    assert len({key_of(*told), key_of(*changed), key_of(*told, None)}) == 3
    assert key_of(tuple(told)) != key_of(*told)


def test_what_looks_alike_has_keys_of_its_own() -> None:
    alike: list[tuple[object, ...]] = [
        ("ab", "c"), ("a", "bc"), ("as", "b"), ("a", "sb"),
        ("abc",), (("ab", "c"),), (("ab",), "c"), (b"ab", "c"), ("a", ("b", "c")), ("ab,c",),
        (1,), (1.0,), (True,), ("1",), (b"1",), ("True",), (None,), ("None",), (), ((),), ("",), (b"",), (0,), (0.0,),
        (-0.0,), (False,), ("s1:a",), ("é",), ("e\u0301",), (10**40,), (-1,), (float("inf"),),
    ]  # fmt: skip
    assert len({key_of(*one) for one in alike}) == len(alike)


def test_a_new_format_makes_everything_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of("a")
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert key_of("a") != before


@pytest.mark.parametrize("fact", [Path("a"), ["a"], {"a"}, object(), 1j])
def test_what_has_no_lasting_form_is_no_fact(fact: object) -> None:
    with pytest.raises(TypeError, match="no fact"):
        key_of("a", ("b", fact))


# ---- identities


@pytest.fixture(scope="module", params=["vae", "text_encoder"])
def part(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> tuple[str, Path]:
    return request.param, tiny_models["sd1"] / request.param


def loaded(kind: str, folder: Path) -> Any:
    return {"vae": AutoencoderKL, "text_encoder": CLIPTextModel}[kind].from_pretrained(folder)


def test_a_part_has_one_identity_wherever_it_lies(part: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = part
    here = identity_of(loaded(kind, folder))
    assert identity_of(loaded(kind, shutil.copytree(folder, tmp_path / "moved" / kind))) == here
    module = loaded(kind, folder)
    assert identity_of(module.train().requires_grad_(False)) == here
    assert identity_of(copy.deepcopy(module)) == here
    if kind == "vae":
        assert identity_of(module.to(memory_format=torch.channels_last)) == here


def test_keys_and_identities_are_the_same_in_every_process(tiny_models: dict[str, Path]) -> None:
    work = """
from diffusers import AutoencoderKL
from transformers import CLIPTextModel
print(key_of('a', 1, 2.5, None, b'x', ('y', True)))
print(identity_of(AutoencoderKL.from_pretrained(sys.argv[1] + "/vae")))
print(identity_of(CLIPTextModel.from_pretrained(sys.argv[1] + "/text_encoder")))
"""
    told = [identity_of(loaded(kind, tiny_models["sd1"] / kind)) for kind in ("vae", "text_encoder")]
    wanted = [key_of("a", 1, 2.5, None, b"x", ("y", True)), *told]
    assert python(work, tiny_models["sd1"]).splitlines()[-3:] == wanted


def test_each_weight_of_a_part_counts_to_the_bit(part: tuple[str, Path]) -> None:
    module = loaded(*part)
    seen = {identity_of(module)}
    weights = [*module.parameters(), *module.buffers()]
    for weight in weights:
        flat = weight.detach().view(-1).view(torch.uint8)
        place = random.Random(len(seen)).randrange(len(flat))
        flat[place] ^= 1
        seen.add(identity_of(module))
        flat[place] ^= 1
    assert len(seen) == len(weights) + 1
    assert identity_of(module) in seen
    assert identity_of(module.to(torch.bfloat16)) not in seen


def test_a_setting_of_a_part_counts(tiny_models: dict[str, Path]) -> None:
    vae, text = loaded("vae", tiny_models["sd1"] / "vae"), loaded("text_encoder", tiny_models["sd1"] / "text_encoder")
    before = identity_of(vae), identity_of(text)
    vae.register_to_config(scaling_factor=0.5)
    text.config.hidden_act = "gelu"
    assert identity_of(vae) != before[0]
    assert identity_of(text) != before[1]


def test_names_shapes_and_kinds_count() -> None:
    weight = torch.arange(4.0)
    parts: list[nn.Module] = [nn.Module() for _ in range(5)]
    parts[0].register_buffer("a", weight)
    parts[1].register_buffer("b", weight)
    parts[2].register_buffer("a", weight.reshape(2, 2))
    parts[3].register_buffer("a", weight.view(torch.int32))
    parts[4] = nn.ParameterDict({"a": weight})
    assert len({identity_of(one) for one in parts}) == 5
    tied, apart = nn.Linear(2, 2), nn.Linear(2, 2)
    both, other = nn.ModuleList([tied, tied]), nn.ModuleList([tied, apart])
    apart.load_state_dict(tied.state_dict())
    assert identity_of(both) == identity_of(other)
    assert identity_of(nn.Identity()) == identity_of(nn.Identity())


# ---- the store

dtypes = st.sampled_from(
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
)
shapes = st.lists(st.integers(0, 3), max_size=4)


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9_.\-/]{1,20}", fullmatch=True), st.tuples(dtypes, shapes), max_size=4))
@settings(max_examples=100, deadline=None)
def test_what_is_put_comes_back(tmp_path_factory: pytest.TempPathFactory, told: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("cache")
    tensors = {name: torch.randn(shape).mul(3).to(dtype) for name, (dtype, shape) in told.items()}
    for store in (Store(folder, 0), Store(folder, AMPLE), Store(None, 0)):
        store.put(KEY, tensors)
        assert KEY in store
        assert same(store.get(KEY), tensors)
    for store in (Store(folder, 0), Store(folder, AMPLE)):
        assert KEY in store
        assert same(store.get(KEY), tensors)
        assert same(store.get(KEY), tensors)
        assert (store.entries, store.damaged) == (1, [])


def test_an_entry_is_the_same_however_its_tensors_lie(tmp_path: Path) -> None:
    batch = torch.randn(3, 4, 5)
    store = Store(tmp_path, AMPLE)
    store.put(KEY, {"row": batch[1], "turned": batch[2].T, "leaf": batch[0].clone().requires_grad_()})
    wanted = {"row": batch[1].clone(), "turned": batch[2].T.clone(), "leaf": batch[0].clone()}
    batch.zero_()  # what the caller does with its own tensors afterwards is no matter
    for one in (store.get(KEY), Store(tmp_path, 0).get(KEY)):
        assert same(one, wanted)
        assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in one.values())
    assert store.get(KEY)["row"].untyped_storage().nbytes() == batch[1].nbytes
    store.get(KEY).clear()
    assert same(store.get(KEY), wanted)


def test_a_key_that_was_never_put_is_not_there(tmp_path: Path) -> None:
    for store in (Store(tmp_path / "new", AMPLE), Store(None, AMPLE)):
        assert KEY not in store
        with pytest.raises(KeyError):
            store.get(KEY)
        assert (store.damaged, store.why_not, store.entries) == ([], None, 0)
    assert not (tmp_path / "new").exists()


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40), st.integers(0, 5 * 512))
@settings(max_examples=60, deadline=None)
def test_memory_is_held_within_its_room(
    tmp_path_factory: pytest.TempPathFactory, told: list[tuple[int, bool]], room: int
) -> None:
    store, put = Store(tmp_path_factory.mktemp("cache"), room), set()
    for number, writes in told:
        if writes:
            store.put(key_of(number), made(number))
            put.add(number)
        elif number in put:
            assert same(store.get(key_of(number)), made(number))
        assert store.held == 512 * min(len(put), room // 512)
    assert store.entries == len(put)
    assert store.on_disk == sum(file.stat().st_size for file in store.folder.rglob("*.safetensors"))  # type: ignore[union-attr]


def test_a_set_that_fits_is_read_once_and_one_that_does_not_is_read_again(tmp_path: Path) -> None:
    Store(tmp_path, 0).put(KEY, made(1))
    ample, none = Store(tmp_path, AMPLE), Store(tmp_path, 0)
    assert same(ample.get(KEY), none.get(KEY))
    file_of(tmp_path, KEY).unlink()
    assert same(ample.get(KEY), made(1))
    assert KEY in ample
    assert KEY not in none


def test_what_is_put_again_counts_once(tmp_path: Path) -> None:
    for folder, room in ((tmp_path, AMPLE), (tmp_path, 512), (None, 0)):
        store = Store(folder, room)
        store.put(KEY, made(1))
        store.put(KEY, made(2, 128))
        assert same(store.get(KEY), made(2, 128))
        assert (store.held, store.entries) == (1024, 1)


def test_an_entry_is_a_safetensors_file_in_a_folder_of_its_first_digits(tmp_path: Path) -> None:
    Store(tmp_path, 0).put(KEY, made(1))
    (file,) = files_in(tmp_path)
    assert file == file_of(tmp_path, KEY)
    with safe_open(file, "pt") as opened:
        assert same({name: opened.get_tensor(name) for name in opened.keys()}, made(1))  # noqa: SIM118 (no mapping)


def test_use_is_marked_once_a_day(tmp_path: Path) -> None:
    Store(tmp_path, 0).put(KEY, made(1))
    an_hour_ago = time.time() - 3600
    os.utime(file_of(tmp_path, KEY), (an_hour_ago, an_hour_ago))
    Store(tmp_path, 0).get(KEY)
    assert file_of(tmp_path, KEY).stat().st_mtime == pytest.approx(an_hour_ago, abs=1)
    os.utime(file_of(tmp_path, KEY), (an_hour_ago - 86400,) * 2)
    assert KEY in Store(tmp_path, 0)
    assert file_of(tmp_path, KEY).stat().st_mtime == pytest.approx(an_hour_ago - 86400, abs=1)
    Store(tmp_path, 0).get(KEY)
    assert file_of(tmp_path, KEY).stat().st_mtime == pytest.approx(time.time(), abs=60)


def test_what_is_held_can_be_moved(tmp_path: Path) -> None:
    store = Store(tmp_path, 512)
    for number in range(2):
        store.put(key_of(number), made(number))
    assert store.to(torch.device("meta"))
    assert [store.get(key_of(number))["mean"].device.type for number in range(2)] == ["meta", "cpu"]


# ---- damage


def is_found(folder: Path, *, removed: bool = True) -> None:
    """The entry is damaged: that is told, and it is put again."""
    for room in (0, AMPLE):
        store = Store(folder, room)
        with pytest.raises(KeyError):
            store.get(KEY)
        if room == 0:
            assert store.damaged == [KEY]
            assert file_of(folder, KEY).is_file() is not removed
    store = Store(folder, 0)
    store.put(KEY, made(1, 4))
    assert same(store.get(KEY), made(1, 4))
    assert (store.damaged, store.why_not) == ([], None)


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """The bytes of a small entry, which lies in tmp_path."""
    Store(tmp_path, 0).put(KEY, made(1, 4))
    return file_of(tmp_path, KEY).read_bytes()


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, whole: bytes) -> None:
    for bit in range(len(whole) * 8):
        spoilt = bytearray(whole)
        spoilt[bit // 8] ^= 1 << bit % 8
        file_of(tmp_path, KEY).write_bytes(spoilt)
        store = Store(tmp_path, 0)
        with pytest.raises(KeyError):
            store.get(KEY)
        assert store.damaged == [KEY]
        assert not file_of(tmp_path, KEY).exists()
    file_of(tmp_path, KEY).write_bytes(spoilt)
    is_found(tmp_path)


def test_a_file_that_is_cut_short_or_goes_on_is_found(tmp_path: Path, whole: bytes) -> None:
    for spoilt in [*(whole[:length] for length in range(len(whole))), whole + b"\0", whole + whole, b"\0" * 9999]:
        file_of(tmp_path, KEY).write_bytes(spoilt)
        store = Store(tmp_path, 0)
        with pytest.raises(KeyError):
            store.get(KEY)
        assert store.damaged == [KEY]
    file_of(tmp_path, KEY).write_bytes(b"")
    is_found(tmp_path)


@given(data=st.binary(max_size=200), length=st.integers(0, 2**64 - 1) | st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_entry_or_damaged(data: bytes, length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also with a right checksum, where the rest is as safetensors would never write it."""
    folder = tmp_path_factory.mktemp("cache")
    file_of(folder, KEY).parent.mkdir()
    signed = bytearray(struct.pack("<Q", length) + b'{"__metadata__":{"blake2b":"' + b"0" * 40 + b'"}' + data)
    signed[36:76] = cache._checksum(KEY, signed, 36, 76)
    for told in (data, struct.pack("<Q", length) + data, bytes(signed)):
        file_of(folder, KEY).write_bytes(told)
        store = Store(folder, 0)
        try:
            assert store.get(KEY) == {}
        except KeyError:
            assert store.damaged == [KEY]


def test_a_checksum_of_ones_own_does_not_make_an_entry(tmp_path: Path) -> None:
    """Someone else's file in the cache: well made, but not by what safetensors allows or names may be."""
    empty = b'"x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    bodies = [b"," + empty, b"," + empty.replace(b'"x"', b'"\\u001b[31m"'), b',"y":' + b"[" * 5000, b',"y":1', b"]"]
    for number, body in enumerate(bodies):
        file_of(tmp_path, KEY).parent.mkdir(exist_ok=True)
        head = b'{"__metadata__":{"blake2b":"' + b"0" * 40 + b'"}' + body + b"}"
        data = bytearray(struct.pack("<Q", len(head)) + head)
        data[36:76] = cache._checksum(KEY, data, 36, 76)
        file_of(tmp_path, KEY).write_bytes(data)
        if number:
            is_found(tmp_path)
        else:
            assert Store(tmp_path, 0).get(KEY)["x"].shape == (0,)


def test_an_entry_under_another_key_is_found(tmp_path: Path, whole: bytes) -> None:
    other = key_of("another")
    file_of(tmp_path, other).parent.mkdir(exist_ok=True)
    file_of(tmp_path, other).write_bytes(whole)
    store = Store(tmp_path, AMPLE)
    with pytest.raises(KeyError):
        store.get(other)
    assert store.damaged == [other]
    assert same(store.get(KEY), made(1, 4))


def test_a_safetensors_file_of_somebody_else_is_found(tmp_path: Path, whole: bytes) -> None:
    assert whole
    save_file(made(1, 4), file_of(tmp_path, KEY))
    is_found(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "huge", "link to nothing", "link to a file", "link to a device"])
def test_other_things_in_place_of_a_file_are_found(kind: str, tmp_path: Path, whole: bytes) -> None:
    file = file_of(tmp_path, KEY)
    file.unlink()
    other = tmp_path / "other"
    other.write_bytes(whole[:-1])
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "huge":
        file.touch()
        os.truncate(file, 2**33)
    else:
        file.symlink_to({"link to nothing": tmp_path / "no", "link to a file": other}.get(kind, Path("/dev/zero")))
    store = Store(tmp_path, 0)
    assert (KEY in store) == (kind in ("huge", "link to a file"))
    with pytest.raises(KeyError):
        store.get(KEY)
    store.put(KEY, made(1, 4))
    assert same(store.get(KEY), made(1, 4))
    assert file.is_file()
    assert not file.is_symlink()
    assert other.read_bytes() == whole[:-1]


@pytest.mark.parametrize("full", [False, True])
def test_a_folder_in_place_of_an_entry_is_let_be(full: bool, tmp_path: Path) -> None:
    file_of(tmp_path, KEY).mkdir(parents=True)
    if full:
        (file_of(tmp_path, KEY) / "mine.txt").touch()
    store = Store(tmp_path, 0)
    assert KEY not in store
    with pytest.raises(KeyError):
        store.get(KEY)
    store.put(KEY, made(1))
    other = key_of("another")
    store.put(other, made(2))
    assert same(store.get(KEY), made(1))
    assert same(store.get(other), made(2))
    assert file_of(tmp_path, other).is_file()  # the folder is in the way of its own entry alone
    assert store.held == 512
    assert [path.name for path in file_of(tmp_path, KEY).iterdir()] == ["mine.txt"] * full


# ---- several at once


def test_several_processes_write_and_read_one_folder(tmp_path: Path) -> None:
    work = """
folder, children = Path(sys.argv[1]), []
while len(children) < 3:
    children.append(os.fork())
    if not children[-1]:
        children = []
        break
store, order = Store(folder, 0), random.Random(os.getpid())
for number in order.sample(range(150), 150):
    store.put(key_of(number), made(number))
    other = order.randrange(150)
    if key_of(other) in store:
        assert same(store.get(key_of(other)), made(other))
failed = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(failed, store.damaged, store.why_not)
sys.exit(any(failed) or bool(store.damaged) or not store.writable)
"""
    assert python(work, tmp_path).splitlines()[-1] == "[0, 0, 0] [] None"
    store = Store(tmp_path, 0)
    assert all(same(store.get(key_of(number)), made(number)) for number in range(150))
    assert len(files_in(tmp_path)) == 150


def test_threads_share_a_store(tmp_path: Path) -> None:
    Store(tmp_path, 0).put(KEY, made(0))
    for number in range(40):
        Store(tmp_path, 0).put(key_of(number), made(number))
    store, wrong = Store(tmp_path, 20 * 512), []

    def read(seed: int) -> None:
        order = random.Random(seed)
        for number in [order.randrange(60) for _ in range(400)]:
            try:
                if not same(store.get(key_of(number)), made(number)):
                    wrong.append(number)
            except KeyError:
                if number < 40:
                    wrong.append(number)
            if number >= 50:
                store.put(key_of(number), made(number))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [number for number in wrong if number < 40] == []
    assert store.held == 20 * 512 == sum(one.nbytes for held in store._held.values() for one in held.values())
    assert store.damaged == []


def test_a_killed_process_leaves_whole_entries_and_no_more(tmp_path: Path) -> None:
    work = """
folder, torn = Path(sys.argv[1]), 0
for attempt in range(1000):
    if torn and attempt >= 40:
        break
    child = os.fork()
    if not child:
        store = Store(folder, 0)
        for number in range(10**6):
            store.put(key_of(number % 100), made(number % 100, 40000))
    time.sleep(random.uniform(0.005, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    partial = [path for path in files_in(folder) if path.suffix != ".safetensors"]
    torn = max(torn, len(partial))
    assert len(partial) <= attempt + 1 and all(re.fullmatch("[.][0-9a-f]{16}[.]part", path.name) for path in partial)
    store = Store(folder, 0)
    for number in range(100):
        assert key_of(number) not in store or same(store.get(key_of(number)), made(number, 40000))
    assert not store.damaged
print(torn, store.entries)
"""
    torn, entries = map(int, python(work, tmp_path).split())
    assert torn  # else nobody was killed while writing
    assert entries
    store = Store(tmp_path, 0)
    for number in range(100):
        store.put(key_of(number), made(number))
    assert all(same(store.get(key_of(number)), made(number)) for number in range(100))


# ---- where nothing can be written


def test_a_folder_that_is_a_file_or_below_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (
        tmp_path / "file",
        tmp_path / "file" / "below" / "it",
        Path("/proc/nothing"),
        tmp_path / ("n" * 300),
    ):
        store = Store(folder, 0)
        assert store.writable
        assert KEY not in store
        with pytest.raises(KeyError):
            store.get(KEY)
        assert (store.damaged, store.why_not) == ([], None) or len(folder.name) == 300
        goes_on_in_memory(Store(folder, 0), f"^{re.escape(str(folder))}: ")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_limit_on_files_is_told(tmp_path: Path) -> None:
    work = """
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
goes_on_in_memory(Store(Path(sys.argv[1]), 0), "File too large")
"""
    assert python(work, tmp_path) == ""
    assert files_in(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_told_and_nothing_is_left_there(small_disk: Path) -> None:
    goes_on_in_memory(Store(small_disk, 0), "No space left")
    found = files_in(small_disk)
    assert 0 < len(found) < 20
    assert all(path.suffix == ".safetensors" for path in found)
    store = Store(small_disk, 0)
    assert all(same(store.get(key_of(number)), made(number)) for number in range(20) if key_of(number) in store)


def test_a_read_only_folder_is_read(small_disk: Path) -> None:
    Store(small_disk, 0).put(KEY, made(1))
    bad = key_of("bad")
    Store(small_disk, 0).put(bad, made(2))
    file_of(small_disk, bad).write_bytes(b"spoilt")
    os.utime(file_of(small_disk, KEY), (0, 0))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    store = Store(small_disk, 0)
    assert same(store.get(KEY), made(1))
    for _ in range(2):
        with pytest.raises(KeyError):
            store.get(bad)
    assert store.why_not is None
    store.put(bad, made(2))
    assert same(store.get(bad), made(2))
    assert "Read-only" in str(store.why_not)


# ---- its place


def test_the_usual_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SDTUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert usual_folder() == tmp_path / ".cache" / "sdtune"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its standard says to ignore
    assert usual_folder() == tmp_path / ".cache" / "sdtune"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert usual_folder() == Path("/xdg/sdtune")
    monkeypatch.setenv("SDTUNE_CACHE", "~/mine")
    assert usual_folder() == tmp_path / "mine"
    monkeypatch.setenv("SDTUNE_CACHE", "")
    assert usual_folder() == Path("/xdg/sdtune")
    monkeypatch.setenv("SDTUNE_CACHE", "~nobody-of-that-name/mine")
    with pytest.raises(ConfigError, match="SDTUNE_CACHE"):
        usual_folder()
