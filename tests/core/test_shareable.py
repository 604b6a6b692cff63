"""What files say of a machine and its people: nothing; all else that was said stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sdtune.core.header import MAX_METADATA, MAX_VALUE
from sdtune.core.shareable import clean, shareable, without_places
from sdtune.core.written_metadata import carried_over


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("/home/CANARY/models/sd15.safetensors", "sd15.safetensors"),
        ("/home/CANARY HOME/my models/sd 15.safetensors", "sd 15.safetensors"),
        (r"C:\Users\CANARY\models\sd15.safetensors", "sd15.safetensors"),
        (r"C:\Users\CANARY NAME\my models\sd 15.safetensors", "sd 15.safetensors"),
        ("D:/CANARY/models/sd15.safetensors", "sd15.safetensors"),
        (r"\\CANARY\share\sd15.safetensors", "sd15.safetensors"),
        ("~CANARY/models/sd15.safetensors", "sd15.safetensors"),
        ("~/CANARY/sd15.safetensors", "sd15.safetensors"),
        ("file:///home/CANARY/sd15.safetensors", "sd15.safetensors"),
        ("/home/CANARY/cats/", "cats"),
        ("/home/CANARY", "~"),
        ("/home/CANARY/", "~"),
        ("/Users/CANARY NAME", "~"),
        ("~CANARY", "~"),
        ("~CANARY/", "~"),
        ("cd '/home/CANARY' && ls", "cd '~' && ls"),
        ("$HOME/CANARY/x /mnt/c/Users/CANARY", "x ~"),
        (r"C:\Users\CANARY", "~"),
        (r"%USERPROFILE%\CANARY\x.png", "x.png"),
        (r"C:\Documents and Settings\CANARY NAME", "~"),
        (r"\Users\CANARY\x", "x"),
        (r"\Users\CANARY", "~"),
        (r"..\..\Users\CANARY\x", "x"),
        ("../../home/CANARY", "~"),
        ("../CANARY/x.png", "x.png"),
        ("home/CANARY/x.png", "x.png"),
        (r"\\CANARY", ""),
        (r"\\CANARY\share\CANARY", ""),
        ("//CANARY/share/CANARY/x.safetensors", "x.safetensors"),
        ("smb://CANARY/share/CANARY", ""),
        ("sftp://CANARY@CANARY.lan/data/x.png", "x.png"),
        ("http://CANARY:7860/file", ""),
        ("http://192.168.7.7:7860/CANARY/x.png", "x.png"),
        ("https://CANARY:secret@example.org/x", "https://example.org/x"),
        ("file:///home/CANARY", "~"),
        ("CANARY@CANARY:/data/x.png", "x.png"),
        ("ssh CANARY@CANARY.lan", "ssh ~"),
        ("CANARY@CANARY:x.png", "~:x.png"),
        ("%2Fhome%2FCANARY%2Fx", "x"),
        ("C:%5CUsers%5CCANARY", "~"),
        ("data:image/png;base64,AAAA /home/CANARY/x", "data:image/png;base64,AAAA x"),
        ('["/home/CANARY"]', '["~"]'),
        ('{"x": "/home/CANARY"', '{"x": "~"'),
        ("trained on /home/CANARY/cats with care", "trained on cats with care"),
        ("log=/mnt/CANARY/logs", "log=logs"),
        ("dirs: '/data/CANARY/a', \"/data/CANARY/b\"", "dirs: 'a', \"b\""),
        (r"from C:\Users\CANARY\cats, at night", "from cats, at night"),
        ('{"dirs": ["/home/CANARY/cats"], "n": 3}', '{"dirs": ["cats"], "n": 3}'),
        ('{"/home/CANARY/cats": {"n_repeats": 2}}', '{"cats": {"n_repeats": 2}}'),
        ('{"hostname": "CANARY", "user": "CANARY", "hf_token": "CANARY", "rank": 4}', '{"rank": 4}'),
        ('{"a": {"b": ["C:\\\\Users\\\\CANARY\\\\x"]}}', '{"a": {"b": ["x"]}}'),
    ],
)
def test_of_a_path_the_last_name_is_kept(told: str, kept: str) -> None:
    assert shareable(told) == kept
    assert shareable(kept) == kept


@pytest.mark.parametrize(
    "told",
    [
        "a photo of a cat, 1/2 view, and/or :/ \\m/ saber \\(fate\\)",
        "https://civitai.com/models/1234?type=a/b",
        "see https://example.org/a/b/c for more",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "stable-diffusion-xl-v1-base/lora",
        "data:image/jpeg;base64,/9j/4AAQSkZJRg/abc/def==",
        "2024/01/02 10:20",
        "(512, 512)",
        "[1, 2]",
        '{"10_cats":{"a / b":3,"w/o":1}}',
        "{not json",
        "he/him and home/away ~5 days, ~nya ^_~ @_@ 50% a/50% b",
        '{"10_home": {"n_repeats": 3}}',
        "http://example.org:8000/home/a/b",
        "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)",
    ],
)
def test_all_other_text_stays_as_it_is(told: str) -> None:
    assert shareable(told) == told


def test_keys_that_name_people_machines_or_the_file_itself_are_left_out() -> None:
    gone = {
        "ss_session_id": "CANARY",
        "hostname": "CANARY",
        "training.user": "CANARY",
        "user_email": "CANARY",
        "sshs_model_hash": "CANARY",
    }
    gone |= {"modelspec.hash_sha256": "CANARY", "format": "CANARY", "lora_adapter_metadata": "CANARY"}
    kept = {"ss_training_comment": "by day", "modelspec.author": "a cat", "ss_max_token_length": "75", "x": "y"}
    assert carried_over(gone | kept) == kept


@pytest.mark.parametrize(
    "many",
    [
        "_",
        "/",
        "\\",
        "/a ",
        " /a",
        "a:/",
        "~",
        "[",
        '{"a":',
        "\\\\a",
        "../",
        "a@",
        "%2f",
        "//a",
        "home/",
        "\\Users",
        "http://a",
    ],
)
def test_long_and_deep_nonsense_is_looked_at_in_one_pass(many: str) -> None:
    text = many * (300_000 // len(many))
    assert carried_over({text: text}) == {shareable(text): shareable(text)}


def test_what_is_carried_over_says_so_once_for_all() -> None:
    told = {"ss_dataset_dirs": '{"/home/CANARY/cats": 1}', "a": "/home/CANARY/cats"}
    once = carried_over(told)
    assert carried_over(once) == once
    assert "CANARY" not in json.dumps(once)


def test_names_of_keys_are_places_too() -> None:
    assert clean({"/home/CANARY/x": "a", "ss_x": "b"}) == {"x": "a", "ss_x": "b"}


def test_tags_and_names_of_folders_are_kept_whatever_they_say() -> None:
    tags = {"10_home": {"home": 3, "user": 4, "machine": 1, "host": 2, "token": 9, "~nya": 2, "a@b": 1, "w/o": 1}}
    told = {"ss_tag_frequency": tags, "ss_dataset_dirs": {"5_user": {"n_repeats": 5}, "home": {"n_repeats": 1}}}
    told["ss_datasets"] = [{"tag_frequency": tags, "is_reg": False}]  # type: ignore[assignment]
    as_text = {key: json.dumps(value) for key, value in told.items()}
    assert clean(as_text) == as_text
    spoilt: dict[str, Any] = {"/home/CANARY/10_home": tags["10_home"] | {"/home/CANARY/a cat": 1}}
    assert json.loads(clean({"ss_tag_frequency": json.dumps(spoilt)})["ss_tag_frequency"]) == {
        "10_home": tags["10_home"] | {"a cat": 1}
    }


@pytest.mark.parametrize(
    "words",
    [
        r"/\/\/\, @_@, user, home, host, 1/2, ~",
        r"1girl, /\/\/\, w/ hat",
        "smile /w/ teeth, home/garden/flowers",
        "fate/zero, home/office/desk",
        "red@blue:1/2",
        "photo, //bw/film, grain",
        "by ~loish/wlop",
        r"d:/ smile, D:\, >:/",
    ],
)
def test_triggers_and_tags_are_kept_to_the_letter(words: str) -> None:
    told = {"modelspec.trigger_phrase": words, "ss_tag_frequency": json.dumps({"10_cat": {words: 4}})}
    assert clean(told) == told


def test_but_for_what_is_surely_a_place() -> None:
    places = {
        "/home/CANARY/x.png": "x.png", r"C:\Users\CANARY\x.png": "x.png", r"\\CANARY\share\x.png": "x.png",
        "me@CANARY:/data/CANARY": "", r"..\..\Users\CANARY\x": "x", "see /Users/CANARY/cats now": "see cats now",
        "%2Fhome%2FCANARY%2Fx.png": "x.png", "//CANARY/share/x.png": "x.png",
    }  # fmt: skip
    for words, kept in places.items():
        assert clean({"modelspec.tags": words}) == {"modelspec.tags": kept}


def test_a_token_may_be_a_word_and_is_not_told_where_it_is_a_secret() -> None:
    words = {"instance_token": "ohwx", "trigger_token": "ohwx", "ss_prompt_token": "ohwx"}
    assert clean(words | dict.fromkeys(("hf_token", "token", "ss_wandb_token", "api_token"), "CANARY")) == words
    kept = {"unk_token": "/a/b", "extra": ["//a/b"]}
    assert without_places(kept | {"x_path": "/CANARY/b", "y": "/home/CANARY/b"}) == kept | {"x_path": "b", "y": "b"}


def test_what_people_wrote_on_purpose_may_name_them() -> None:
    said = {"modelspec.author": "me@example.org", "modelspec.title": "~nya", "modelspec.trigger_phrase": "a@b cat"}
    said |= {"modelspec.merged_from": "cat@0.5:1, ~b:0.5", "ss_sd_model_name": "owner/model@main"}
    assert clean(said) == said
    assert clean({"modelspec.trigger_phrase": r"C:\Users\CANARY\x.png"}) == {"modelspec.trigger_phrase": "x.png"}


def test_no_more_is_kept_than_a_file_may_have() -> None:
    vast = {f"ss_{number}": "x" * 900_000 for number in range(9)} | {"ss_a": "x" * (MAX_VALUE + 1), "ss_seed": "1"}
    kept = clean(vast)
    assert sum(map(len, kept.values())) < MAX_METADATA
    assert kept["ss_seed"] == "1"
    assert "ss_a" not in kept
    assert len(kept) >= 4
    assert clean(dict(reversed(vast.items()))) == kept


def test_configs_say_nothing_of_where_they_were_loaded_from() -> None:
    config = {"_name_or_path": "/home/CANARY/a", "name_or_path": "/home/CANARY/tok", "act_fn": "silu", "x": [1, None]}
    config["deep"] = {"_name_or_path": "CANARY", "at": "C:\\Users\\CANARY\\vae", "repo": "stabilityai/sd-vae", "s": "/"}
    assert without_places(config) == {
        "act_fn": "silu",
        "x": [1, None],
        "deep": {"at": "vae", "repo": "stabilityai/sd-vae", "s": "/"},
    }
