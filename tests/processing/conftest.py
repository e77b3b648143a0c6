"""Tiny tokenizers, catalogues and models; nothing is downloaded."""

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil

from unimp import Catalog, UniMPConfig, UniMPForConditionalGeneration, UniMPProcessor

from .tables import EVENT_ROWS, ITEM_ROWS, write

TASK_NAMES = ("recommend", "search", "rate", "explain", "select")
ITEMS = [
    {"item_id": "shirt", "title": "Red shirt", "price": 19.5, "colours": ["red", "white"]},
    {"item_id": "hat", "title": "Straw hat 🎩", "price": None, "image": True},
    {"item_id": "shoes", "title": "Black shoes", "image": True, "in_stock": True},
    {"item_id": "scarf", "image": True},
    {"item_id": "coat", "title": "Grey coat", "price": 120.0},
    {"item_id": "socks", "title": "Wool socks", "image": True},
    {"item_id": "belt"},
    {"item_id": "gloves", "title": "Leather gloves", "image": True},
]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny tensors: a second thread only waits, for seconds a step where others use the same cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw_picture(seed, size=(24, 24)):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def byte_tokenizer():
    """A token a byte: any text can be written, and its length is known."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def word_tokenizer(words):
    """A token a word, number or sign; ids in the order of `words`, after padding, end and the unknown word."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def make_catalog():
    items = [dict(item) for item in ITEMS]
    for seed, item in enumerate(items):
        if "image" in item:
            item["image"] = draw_picture(seed)
    return Catalog.from_items(items)


def make_processor(catalog=None, **settings):
    image_processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    settings = {"full_chunks": 2, "behavior_kinds": ["purchase", "view"], "max_length": 1500, **settings}
    processor = UniMPProcessor(image_processor, byte_tokenizer(), **settings)
    processor.catalog = make_catalog() if catalog is None else catalog
    return processor


def make_model(processor, **settings):
    """Random weights that show: pictures, behaviours and biases count."""
    torch.manual_seed(0)
    vision = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    text = {
        "model_type": "llama",
        "vocab_size": processor.text_vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": processor.tokenizer.eos_token_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    config = UniMPConfig(
        vision_config={**vision, "layer_type": "basic"},
        text_config=text,
        num_behaviors=processor.num_behaviors,
        num_latents=2,
        initializer_range=0.2,
        **settings,
    )
    model = UniMPForConditionalGeneration(config).eval()
    for block in model.model.cross_attention:
        block.attention_gate.data.fill_(0.8)
        block.feed_forward_gate.data.fill_(-0.6)
    processor.index_catalog(model)
    return model


def make_request(task, history=("shirt", "hat", "socks"), answer=False):
    """A request of any task, of the items above, and the answer to train with."""
    sample = {"history": list(history)}
    if task == "search":
        sample["query"] = "warm hat"
    elif task == "select":
        sample["candidates"] = ["coat", "scarf", "belt"]
    elif task in ("rate", "explain"):
        sample["item"] = "shoes"
    if not answer:
        return sample
    if task in ("rate", "explain"):
        return {**sample, "item": {"item_id": "shoes", "rating": 4, "explanation": "They fit"}}
    return {**sample, "answer": ["scarf", "coat"] if task == "select" else "gloves"}


@pytest.fixture
def store_folder(tmp_path):
    write(tmp_path / "items.jsonl", ITEM_ROWS)
    write(tmp_path / "interactions.jsonl", EVENT_ROWS)
    return tmp_path


@pytest.fixture
def catalog():
    return make_catalog()


@pytest.fixture
def processor():
    return make_processor()


@pytest.fixture(scope="session")
def shared():
    """Model and processor that no test changes."""
    processor = make_processor()
    return make_model(processor), processor


@pytest.fixture(params=TASK_NAMES)
def task(request):
    return request.param


@pytest.fixture(params=["code_first", "code_last"])
def order(request):
    return request.param
