"""Tiny random models of the kinds that captioners load, saved as the hub keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BartConfig,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    Florence2Config,
    Florence2ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    ViTImageProcessorPil,
)

from tests import tiny


def saved(kind: str, folder: Path) -> Path:
    """A folder with a model of this kind, as its hub page has it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        {"florence2": _florence2, "blip": _blip, "qwen3-vl": _qwen3_vl, "clipseg": _clipseg}[kind](folder)
    if kind in ("florence2", "qwen3-vl"):  # written when what needed torchvision had a name of its own
        config = folder / "preprocessor_config.json"
        config.write_text(config.read_text().replace('ImageProcessor"', 'ImageProcessorFast"'))
    return folder


def _letters(*special: str, **names: Any) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows letters."""
    tokens = [*special, *sorted(ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names)


def _florence2(folder: Path) -> None:
    marks = ("<s>", "<pad>", "</s>", "<unk>", "<image>")
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = _letters(*marks, **names, extra_special_tokens={"image_token": "<image>"})
    text = BartConfig(
        vocab_size=len(words),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=256,
        init_std=0.5,  # so that what is written depends on the picture
    )
    vision = {
        "depths": (1, 1, 1, 1),
        "embed_dim": (8, 16, 16, 32),
        "num_heads": (1, 2, 2, 2),
        "num_groups": (1, 2, 2, 2),
        "window_size": 4,
        "projection_dim": 32,
        "initializer_range": 0.3,
    }
    config = Florence2Config(
        text_config=text.to_dict(), vision_config=vision, image_token_id=words.convert_tokens_to_ids("<image>")
    )
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.update(num_beams=3, early_stopping=True, no_repeat_ngram_size=3)
    model.generation_config.update(forced_bos_token_id=0, forced_eos_token_id=2, decoder_start_token_id=2)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    pixels = CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False, image_seq_length=5)
    pixels.save_pretrained(folder)


def _blip(folder: Path) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "of", "photo", "red", "apple"]
    tokens = [*vocabulary, *(f"word{i}" for i in range(30))]
    words = BertTokenizer({token: i for i, token in enumerate(tokens)})
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"bos_token_id": len(tokens), "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {"vocab_size": len(tokens) + 2, **sizes, **marks, "initializer_range": 0.5, "encoder_hidden_size": 32}
    vision = {**sizes, "image_size": 32, "patch_size": 16, "initializer_range": 0.5}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def _qwen3_vl(folder: Path) -> None:
    places = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
    marks = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *places)
    words = _letters(*marks, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=list(marks))
    start, image, end, video = (words.convert_tokens_to_ids(place) for place in places)
    text = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "initializer_range": 0.5,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e4},
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": (0,),
        "initializer_range": 0.5,
    }
    ids = {"image_token_id": image, "video_token_id": video, "vision_start_token_id": start, "vision_end_token_id": end}
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    )
    model.generation_config.update(eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, do_sample=True)
    model.generation_config.update(temperature=0.7, top_p=0.8, top_k=20)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    size = {"shortest_edge": 32 * 32, "longest_edge": 256 * 256}
    Qwen2VLImageProcessorPil(size=size, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        folder
    )


def _clipseg(folder: Path) -> None:
    words = tiny.tokenizer()
    heads = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    vocabulary = words.get_vocab()
    marks = {"eos_token_id": vocabulary["<|endoftext|>"], "bos_token_id": vocabulary["<|startoftext|>"]}
    text = {"vocab_size": len(vocabulary), **heads, **marks, "pad_token_id": vocabulary["<|endoftext|>"]}
    vision = {**heads, "image_size": 64, "patch_size": 16}
    config = CLIPSegConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=32,
        extract_layers=[0, 1, 2],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
        use_complex_transposed_convolution=True,
        conditional_layer=0,
    )
    model = CLIPSegForImageSegmentation(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(std=0.2)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
