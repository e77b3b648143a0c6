"""From a store to something that can be trained: tokenizer, processor and a small model, or one on given backbones."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    BaseImageProcessor,
    GPTNeoXConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ViTImageProcessorPil,
)

from ..modeling_unimp import UniMPConfig, UniMPForConditionalGeneration
from ..modeling_unimp.configuration_unimp import check_one_way_to_show_pictures
from ..processing import TASKS, Catalog, Columns, UniMPProcessor
from ..processing.catalog_unimp import flatten_attributes
from ..processing.chunks_unimp import FIRST_KIND, PERIOD_BUCKETS
from ..processing.indexing_unimp import check_room
from ..processing.scores_unimp import CHOICE_SIMILARITY, WORD_SIMILARITY
from ..processing.store import Store, as_table
from ..processing.tasks_unimp import ANSWER_LENGTH, check_prompt_length
from .continued import continue_with
from .item_encoder import item_features
from .item_start import cooccurrence_rows
from .neighbours import find_neighbours
from .pictures import training_pictures
from .semantic_codes import MAX_ATOMIC_ITEMS, code_report, default_code_sizes, describe_codes, fit_codebooks

if TYPE_CHECKING:
    from .trainer import UniMPTrainingConfig

logger = logging.getLogger(__name__)

# What may be said beside `model`; the rest is settled by the model that is continued.
BESIDE_MODEL = ("model", "item_encoder")
SIZES = ("hidden_size", "num_layers", "num_heads", "vocab_size", "image_size", "num_latents")
SIZES += ("prompt_length", "item_text_length")
CHOICES = {
    "order": ("code_first", "code_last"),
    "visual_scope": ("last", "all"),
    "item_codes": ("auto", "atomic", "semantic"),
    "item_start": ("random", "cooccurrence"),
}


@dataclass
class ModelArguments:
    """What to build, or the `model` to continue from; all but `item_encoder` is then settled by that."""

    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of a UniMP model to continue from."})
    vision: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a pretrained vision encoder; a tiny new one by default."}
    )
    text: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a pretrained decoder, beside `vision`; a tiny new one by default."},
    )
    hidden_size: int = field(default=128, metadata={"help": "Width of the tiny decoder."})
    num_layers: int = field(default=3, metadata={"help": "Layers of the tiny decoder."})
    num_heads: int = field(default=4, metadata={"help": "Attention heads of the tiny decoder."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout of the tiny decoder, in every place it has one."})
    vocab_size: int = field(default=2000, metadata={"help": "Largest text vocabulary of the tiny decoder."})
    image_size: int = field(default=64, metadata={"help": "Pictures are resized to this many pixels, square."})
    item_dropout: float = field(default=0.1, metadata={"help": "How often an item is known by its content alone."})
    feature_similarity: float = field(
        default=0.0,
        metadata={
            "help": "How much an item's likeness to the history adds to its score, as `item_encoder` sees it. 2 is "
            "good where items have few events and their texts tell something."
        },
    )
    word_similarity: float = field(
        default=WORD_SIMILARITY,
        metadata={
            "help": "How much it adds to an item's score, when items are recommended, that it has words of the "
            "history's items; 0 for nothing. Not with semantic codes."
        },
    )
    choice_similarity: float = field(
        default=CHOICE_SIMILARITY,
        metadata={
            "help": "How much it adds that people choose it close to the history's items; 0 for nothing. Not with "
            "semantic codes."
        },
    )
    cross_attention_every: int = field(
        default=1, metadata={"help": "Cross-attention before every n-th layer; 0 for none."}
    )
    visual_prompt_tokens: int = field(
        default=0,
        metadata={
            "help": "Show each picture as this many tokens of the sequence instead, with `cross_attention_every` 0."
        },
    )
    num_latents: int = field(default=4, metadata={"help": "Latents a picture becomes for cross-attention."})
    visual_scope: str = field(
        default="last", metadata={"help": "Cross-attention to the `last` picture before a token, or to `all` of them."}
    )
    order: str = field(default="code_first", metadata={"help": "`code_first`, or the paper's `code_last`."})
    full_chunks: int | None = field(
        default=0,
        metadata={
            "help": "Most recent items shown with picture and attributes beside their codes, which know both; all of "
            "them for null (YAML). A tiny new decoder learns to read on many people only; give a pretrained one some."
        },
    )
    prompt_length: int = field(default=512, metadata={"help": "Tokens of a prompt; the oldest chunks are left out."})
    item_encoder: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a text encoder whose embeddings of the items join their codes' content, "
            "beside what the model's own backbones make of text and picture. A model made with one needs it again for "
            "items that are new or have changed."
        },
    )
    item_text_length: int = field(default=64, metadata={"help": "Tokens of an item's text."})
    item_codes: str = field(
        default="auto",
        metadata={
            "help": "`atomic`: one token an item, with a row of its own; `semantic`: several tokens, of which items "
            f"that are alike share the first ones. `auto`: atomic up to {MAX_ATOMIC_ITEMS:,} items."
        },
    )
    code_sizes: list[int] | None = field(
        default=None,
        metadata={
            "help": "How many codes each level of a semantic code has; the last level only tells apart items that "
            "share all others. By default chosen by the number of items, such as 256 256 256 256 for 12,000."
        },
    )
    item_start: str = field(
        default="cooccurrence",
        metadata={
            "help": "Where the learned part of the items' codes starts: `random`, or `cooccurrence`, with which items "
            "that people choose close together start alike; a code that several items share, at their mean."
        },
    )

    def __post_init__(self) -> None:
        if self.model is not None:
            self._check_nothing_beside_model()
        if self.model is None and self.text is not None and self.vision is None:
            raise ValueError("`text` needs `vision`: give a pretrained vision encoder beside the decoder.")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        for name in ("feature_similarity", "word_similarity", "choice_similarity"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be a number of at least 0, got {getattr(self, name)}.")
        if self.feature_similarity and self.item_encoder is None:
            raise ValueError("`feature_similarity` needs an `item_encoder`, whose embeddings it compares: give both.")
        if self.code_sizes is not None and self.item_codes == "atomic":
            raise ValueError(f"`code_sizes` {self.code_sizes} have no use with `item_codes` atomic: leave one out.")
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("cross_attention_every", "visual_prompt_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}.")
        check_one_way_to_show_pictures(self.cross_attention_every, self.visual_prompt_tokens)
        if self.visual_prompt_tokens * (self.full_chunks or 1) >= self.prompt_length:
            raise ValueError(
                f"`visual_prompt_tokens` {self.visual_prompt_tokens} of each item in full leave no room in "
                f"`prompt_length` {self.prompt_length}: give fewer, or a longer prompt."
            )
        if self.full_chunks is not None and self.full_chunks < 0:
            raise ValueError(f"`full_chunks` must be at least 0, or null for all, got {self.full_chunks}.")
        if self.hidden_size % (2 * self.num_heads):  # rotary positions turn pairs of channels
            raise ValueError(
                f"`hidden_size` must be a multiple of twice `num_heads`, got {self.hidden_size} and {self.num_heads}."
            )
        for name in ("dropout", "item_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie between 0 and 1, got {getattr(self, name)}.")

    def _check_nothing_beside_model(self) -> None:
        for option in fields(self):
            if option.name not in BESIDE_MODEL and getattr(self, option.name) != option.default:
                raise ValueError(
                    f"`{option.name}` cannot be given beside `model`: the model that is continued settles it. Leave "
                    "one of the two out."
                )


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of these texts (any text can be written with it)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def store_texts(store: Store, train: Dataset | None = None) -> Iterator[str]:
    """
    Every text a tokenizer for this store should know; of what people wrote, what is in the sequences of `train`, or
    everything without them.
    """
    for task in TASKS.values():
        yield from (*task.instructions, task.held_out_instruction)
    for item in store.items.remove_columns([c for c in (Columns.IMAGE,) if c in store.items.column_names]):
        yield flatten_attributes({key: value for key, value in item.items() if key != Columns.ITEM_ID})
    for column in (Columns.EXPLANATION, Columns.QUERY):
        if column in store.interactions.column_names:
            texts = store.interactions[column] if train is None else chain.from_iterable(train[column])
            yield from (f": {text}" for text in texts if text)
    yield from ("query: ", "candidates:", *(f"{stars / 2:g}" for stars in range(21)))


def build_processor(
    store: Store,
    tokenizer: PreTrainedTokenizerBase,
    image_processor: BaseImageProcessor,
    arguments: ModelArguments,
    text_vocab_size: int,
    train: Dataset | None = None,
) -> UniMPProcessor:
    """A processor without a catalogue; its ratings, kinds of behaviour and periods are those of the data."""
    levels = _rating_levels(store.interactions)
    return UniMPProcessor(
        image_processor,
        tokenizer,
        text_vocab_size=text_vocab_size,
        order=arguments.order,
        full_chunks=arguments.full_chunks,
        max_length=arguments.prompt_length,
        rating_range=(levels[0], levels[-1]),
        rating_levels=levels,
        behavior_kinds=_kinds(store.interactions),
        periods=_periods(train),
        item_text_length=arguments.item_text_length,
        word_similarity=arguments.word_similarity,
        choice_similarity=arguments.choice_similarity,
    )


def _rating_levels(interactions: Dataset) -> list[float]:
    """The ratings that occur; 21 steps from the lowest to the highest where there are more."""
    if Columns.RATING not in interactions.column_names:
        return [1.0, 2.0, 3.0, 4.0, 5.0]
    levels = sorted(rating for rating in interactions.unique(Columns.RATING) if rating is not None)
    if len(levels) > 21:
        levels = np.linspace(levels[0], levels[-1], 21).tolist()
    return levels or [1.0, 2.0, 3.0, 4.0, 5.0]


def _periods(train: Dataset | None) -> list[float]:
    """Times that part the training events into equally many; none without training events."""
    if train is None or not len(train):
        return []
    times = as_table(train)[Columns.TIMESTAMP].combine_chunks().flatten().to_numpy()
    shares = np.arange(1, PERIOD_BUCKETS) / PERIOD_BUCKETS
    return np.unique(np.quantile(times, shares, method="lower")).astype(float).tolist()


def _kinds(interactions: Dataset) -> list[str]:
    if Columns.BEHAVIOR not in interactions.column_names:
        return []
    return sorted(kind for kind in interactions.unique(Columns.BEHAVIOR) if kind)


def build(
    store: Store,
    arguments: ModelArguments,
    train: Dataset | None = None,
    training: "UniMPTrainingConfig | None" = None,
) -> tuple[UniMPForConditionalGeneration, UniMPProcessor]:
    """
    Model and processor for a store, as `arguments` say: one to continue from (see [`continue_with`]), one on
    pretrained backbones, or a tiny new one. The model has a code row for every item. Pictures that cannot be read are
    left out, counted and logged.

    Args:
        store ([`Store`]): the items and events.
        arguments ([`ModelArguments`]): what to build.
        train (`datasets.Dataset`, *optional*): the sequences that will be trained on. A new tokenizer learns from the
            items and from what people wrote there, and from nothing held out; from all events without it.
        training ([`UniMPTrainingConfig`], *optional*): how it will be trained: what training needs of the pictures is
            then kept for it, so that they are encoded once.
    """
    if arguments.model is not None:
        model, processor = load(arguments.model)
        _tell_what_stays(processor.catalog, store)
        model, processor = continue_with(model, processor, store, arguments.item_encoder, training)
        if processor.code_sizes is None and train is not None:
            known, found = processor.catalog.neighbours, find_neighbours(train, processor.catalog)
            processor.catalog.set_neighbours(found if known is None else found.merged(known))
        return model, processor
    sizes = _code_sizes(arguments, len(store.items))
    if sizes is not None and arguments.feature_similarity:
        raise ValueError(
            f"`feature_similarity` {arguments.feature_similarity} compares items with a code each, but this "
            "catalogue's have semantic codes: leave it out, or give `--item_codes atomic`."
        )
    readers = [name for name in ("text", "visual_prompt_tokens") if getattr(arguments, name)]
    if readers and arguments.full_chunks == 0:
        logger.warning(
            "`full_chunks` 0 shows a history's codes, and neither its texts nor its pictures: beside `%s` give it "
            "some, such as 3.",
            readers[0],
        )
    catalog = Catalog(as_table(store.items))
    catalog.embed_images()
    features = None
    if arguments.item_encoder is not None:
        features = item_features(arguments.item_encoder, catalog, range(len(catalog)))
    new_part = _new_part(store, arguments) | {"item_feature_size": 0 if features is None else features.shape[1]}
    new_part["code_sizes"] = sizes
    build_new = _build_tiny if arguments.vision is None else _build_on_backbones
    model, processor = build_new(store, arguments, new_part, train)
    processor.catalog = catalog
    pictures = None if training is None else training_pictures(model, processor, training)
    fit_codes = partial(fit_codebooks, code_sizes=sizes)
    processor.index_catalog(model, features=features, fit_codes=fit_codes, pictures=pictures)
    if sizes is not None:
        logger.info("%s", describe_codes(code_report(model.model.item_codes)))
    if sizes is None and train is not None:
        catalog.set_neighbours(find_neighbours(train, catalog))
    if arguments.item_start == "cooccurrence" and train is not None:
        logger.info("The items' codes start from what people choose close together ...")
        _start_items(model, cooccurrence_rows(train, catalog, model.get_input_embeddings().embedding_dim))
    return model, processor


def _tell_what_stays(catalog: Catalog, store: Store) -> None:
    """A store without an item says nothing of it: it may be a part of the shop."""
    there = set(store.items[Columns.ITEM_ID])
    stays = [i for i, left in zip(catalog.item_ids, catalog.available, strict=True) if left and i not in there]
    if stays:
        logger.warning(
            "%d items of the model are not in the store, such as %s, and are still recommended: those that are not to "
            "be must be there with `available` no.",
            len(stays),
            stays[0],
        )


@torch.no_grad()
def _start_items(model: UniMPForConditionalGeneration, rows: torch.Tensor) -> None:
    if model.model.item_codes is not None:
        rows = _mean_rows(rows, model.model.item_codes.codes, model.config)
    known = rows.any(dim=-1).nonzero()[:, 0]
    for module in model.row_modules():
        module.learned[known, : rows.shape[1]] = (rows[known] * model.config.initializer_range).to(module.learned)


def _mean_rows(rows: torch.Tensor, codes: torch.Tensor, config: UniMPConfig) -> torch.Tensor:
    """Of rows of items, the mean of those that share a code, `[config.num_code_rows, size]`, scaled as they were."""
    known = rows.any(dim=-1)
    if not known.any():
        return rows.new_zeros(config.num_code_rows, rows.shape[1])
    places = (codes + codes.new_tensor(config.level_starts))[known].flatten().long()
    sums = rows.new_zeros(config.num_code_rows, rows.shape[1])
    sums.index_add_(0, places, rows[known].repeat_interleave(config.code_levels, dim=0))
    means = sums / places.bincount(minlength=len(sums)).clamp(min=1)[:, None]
    return means / means[means.any(dim=-1)].square().mean().sqrt().clamp(min=1e-6)


def _code_sizes(arguments: ModelArguments, num_items: int) -> list[int] | None:
    """`None` for atomic codes. Raises `ValueError` for sizes that are too few for the items."""
    if arguments.code_sizes is not None:
        check_room(arguments.code_sizes, num_items)
        return arguments.code_sizes
    if arguments.item_codes == "semantic" or (arguments.item_codes == "auto" and num_items > MAX_ATOMIC_ITEMS):
        return default_code_sizes(num_items)
    return None


def load(folder: str) -> tuple[UniMPForConditionalGeneration, UniMPProcessor]:
    """Model and processor of a checkpoint."""
    return UniMPForConditionalGeneration.from_pretrained(folder), UniMPProcessor.from_pretrained(folder)


def _new_part(store: Store, arguments: ModelArguments) -> dict[str, Any]:
    """What UniMP adds, as [`UniMPConfig`] arguments."""
    return {
        "num_behaviors": FIRST_KIND + len(_kinds(store.interactions)),
        "item_text_length": arguments.item_text_length,
        "item_dropout": arguments.item_dropout,
        "feature_similarity": arguments.feature_similarity,
        "cross_attention_every": arguments.cross_attention_every,
        "visual_prompt_tokens": arguments.visual_prompt_tokens,
        "num_latents": arguments.num_latents,
        "visual_scope": arguments.visual_scope,
    }


def _build_on_backbones(
    store: Store, arguments: ModelArguments, new_part: dict[str, Any], train: Dataset | None
) -> tuple[UniMPForConditionalGeneration, UniMPProcessor]:
    if arguments.text is None:
        tokenizer = train_tokenizer(store_texts(store, train), arguments.vocab_size)
        text = AutoModelForCausalLM.from_config(_tiny_decoder(arguments, tokenizer))
        new_part = new_part | {"item_embedding_scale": arguments.hidden_size**0.5}  # as in a model that is all new
    else:
        text = arguments.text
        check_prompt_length(
            arguments.prompt_length, AutoConfig.from_pretrained(text).get_text_config(), "prompt_length"
        )
        tokenizer = AutoTokenizer.from_pretrained(text)
    try:
        image_processor = AutoImageProcessor.from_pretrained(arguments.vision, backend="pil")
    except OSError:
        logger.warning("`vision` %r has no image processor: pictures are scaled as for ImageNet.", arguments.vision)
        image_processor = _image_processor(arguments.image_size, imagenet=True)
    model = UniMPForConditionalGeneration.from_backbones(arguments.vision, text, **new_part)
    vocab_size = model.config.text_config.vocab_size
    return model, build_processor(store, tokenizer, image_processor, arguments, vocab_size, train)


def _image_processor(image_size: int, imagenet: bool = False) -> ViTImageProcessorPil:
    statistics = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]} if imagenet else {}
    return ViTImageProcessorPil(size={"height": image_size, "width": image_size}, **statistics)


def _build_tiny(
    store: Store, arguments: ModelArguments, new_part: dict[str, Any], train: Dataset | None
) -> tuple[UniMPForConditionalGeneration, UniMPProcessor]:
    tokenizer = train_tokenizer(store_texts(store, train), arguments.vocab_size)
    image_processor = _image_processor(arguments.image_size)
    processor = build_processor(store, tokenizer, image_processor, arguments, len(tokenizer), train)
    # A random convolutional encoder: its pooled channels tell colours and textures apart without any training.
    vision_config = ResNetConfig(
        embedding_size=128, hidden_sizes=[512], depths=[1], layer_type="basic", downsample_in_first_stage=False
    )
    config = UniMPConfig(vision_config=vision_config, text_config=_tiny_decoder(arguments, tokenizer), **new_part)
    return UniMPForConditionalGeneration(config), processor


def _tiny_decoder(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> GPTNeoXConfig:
    # A decoder with rotary positions and, unlike Llama, dropout of what every layer adds: on small data it decides.
    return GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=arguments.hidden_size,
        intermediate_size=4 * arguments.hidden_size,
        num_hidden_layers=arguments.num_layers,
        num_attention_heads=arguments.num_heads,
        attention_dropout=arguments.dropout,
        hidden_dropout=arguments.dropout,
        use_parallel_residual=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        max_position_embeddings=max(2048, arguments.prompt_length + ANSWER_LENGTH),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
