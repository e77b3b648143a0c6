"""The pipelines: `pipeline("unimp-recommend", model=FOLDER_OR_ID, trust_remote_code=True)` and its sisters."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import Pipeline

from .catalog_unimp import AVAILABLE, shown
from .columns_unimp import Columns
from .live_unimp import UniMPLiveSession
from .tasks_unimp import ANSWER_LENGTH, is_list


class UniMPPipeline(Pipeline):
    """
    Requests in, answers out; a list of requests is answered in batches (`batch_size=`).

    A request is a dictionary, see [`UniMPProcessor`].
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    task_name: str
    parameters: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("`processor` is needed: give the `UniMPProcessor` that was saved with the `model`.")
        self._check_match()
        self.model.eval()
        self.pictures = self.processor.open_pictures(self.model)

    def _check_match(self) -> None:
        self.processor.check_model(self.model)
        self._checked = self.processor.catalog.table

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Answer one request (a dictionary), a list of them, or an iterator of them (one answer after the other)."""
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        elif isinstance(inputs, Iterator):
            inputs = (sample for sample in inputs)  # a generator, which transformers reads as it goes
        return [] if isinstance(inputs, list) and not inputs else super().__call__(inputs, **kwargs)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write model and processor, catalogue included, so that every UniMP pipeline can be made of the folder."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def get_iterator(
        self,
        inputs: Iterable[dict[str, Any]],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        """One answer a request, `batch_size` requests at a time: they share the pictures they have in common."""
        batch_size = whole_number("batch_size", batch_size)
        requests = iter(inputs)
        while samples := list(islice(requests, batch_size)):
            model_inputs = self.preprocess(samples, **preprocess_params)
            yield from self.postprocess(self.forward(model_inputs, **forward_params), **postprocess_params)

    def run_single(self, inputs: Any, *params: dict[str, Any]) -> Any:
        """Answer one request."""
        return next(self.get_iterator([inputs], 0, 1, *params))

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if kwargs:
            allowed = ", ".join(f"`{name}`" for name in (*self.parameters, "batch_size"))
            raise ValueError(
                f"`{next(iter(kwargs))}` is not a parameter of unimp-{self.task_name}: there are {allowed}."
            )
        return {}, {}, {}

    def preprocess(self, samples: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Requests to tensors."""
        samples = list(samples)
        if self.processor.catalog is None or self.processor.catalog.table is not self._checked:
            self._check_match()  # the catalogue has changed
        model_inputs = self.processor(samples, task=self.task_name, catalog_features=self.pictures)  # checks them
        return {"codes": [self._codes(sample) for sample in samples], "model_inputs": model_inputs}

    def _codes(self, sample: dict[str, Any]) -> list[int]:
        """Codes of items that a request's answer depends on besides the prompt. No more of it goes to the model."""
        return []


def whole_number(name: str, number: Any) -> int:
    """A number of at least 1, of whatever type whole numbers come in."""
    try:
        whole = 0 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        whole = 0
    if whole < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {shown(number)}.")
    return whole


class UniMPRecommendPipeline(UniMPPipeline):
    """
    `{"history": [...]}` to the next items, best first: `[{"item_id", "score", "item"}, ...]`.

    Parameters:
        top_k (`int`, defaults to 10): how many; fewer where the catalogue has no more.
        exclude_seen (`bool`, defaults to `True`): leave out the items of the history.
        candidates (`list[str]`, *optional*): a shop's filter, ids of the only items that may be answered; of these,
            too, the seen ones and those that are not available are left out.

    A score is the item's log-probability over the whole catalogue, whatever is left out; with semantic codes over all
    that codes could name, some of which is no item. An empty history is answered with what people begin with.
    """

    task_name = "recommend"
    parameters = ("top_k", "exclude_seen", "candidates")
    exclude_seen = True
    _unavailable: tuple[Any, torch.Tensor] | None = None

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        given = {name: kwargs.pop(name) for name in self.parameters if name in kwargs}
        super()._sanitize_parameters(**kwargs)
        if "top_k" in given:
            given["top_k"] = whole_number("top_k", given["top_k"])
        candidates = given.get("candidates")
        if not (candidates is None or is_list(candidates)):
            raise ValueError(f"`candidates` must be a list of item ids, got {shown(candidates)}.")
        return {}, given, {}  # only what was given: it joins what the pipeline was made with

    def _forward(self, inputs: dict[str, Any], **parameters: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self._rank(partial(self.model.rank_items, **inputs["model_inputs"]), inputs["codes"], **parameters)

    def _rank(
        self,
        rank: Callable[..., tuple[torch.Tensor, torch.Tensor]],
        seen: list[list[int]],
        top_k: int = 10,
        exclude_seen: bool | None = None,
        candidates: Sequence[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        exclude_seen = self.exclude_seen if exclude_seen is None else exclude_seen
        seen = seen if exclude_seen else [[] for _ in seen]
        return rank(top_k=top_k, **self._limits(seen, candidates))

    def start_session(self, history: Sequence[Any] = ()) -> UniMPLiveSession:
        """
        A session of one person, for recommendations while they click: what was read of the history stays read.

        Args:
            history (`Sequence`): as in a request.
        """
        return UniMPLiveSession(self, history)

    def _limits(self, seen: list[list[int]], candidates: Sequence[str] | None) -> dict[str, torch.Tensor | None]:
        """What the model's answers are limited by, as it takes it: `seen` are each sample's items to leave out."""
        rows = [torch.tensor(row, dtype=torch.long) for row in seen]
        rows = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        exclude = torch.cat([rows.to(self.device), self._unavailable_items().expand(len(seen), -1)], dim=1)
        if candidates is None:
            return {"exclude": exclude, "candidates": None}
        for entry in candidates:
            if entry not in self.processor.catalog:
                raise ValueError(f"`candidates` must be item ids of the catalogue, got {shown(entry)}.")
        positions = torch.tensor([self.processor.catalog.position(entry) for entry in candidates], dtype=torch.long)
        return {"exclude": exclude, "candidates": positions.to(self.device).expand(len(seen), -1)}

    def _unavailable_items(self) -> torch.Tensor:
        """Positions of the items that may not be recommended; a catalogue that changes has another table."""
        table = self.processor.catalog.table
        if self._unavailable is None or self._unavailable[0] is not table:
            unavailable = torch.from_numpy(~table[AVAILABLE].to_numpy()).nonzero()[:, 0]
            self._unavailable = table, unavailable.to(self.device)
        return self._unavailable[1]

    def _codes(self, sample: dict[str, Any]) -> list[int]:
        """Of the items that the person has seen."""
        catalog = self.processor.catalog
        entries = (entry.get(Columns.ITEM_ID) if isinstance(entry, Mapping) else entry for entry in sample["history"])
        return [catalog.position(item_id) for item_id in entries if item_id in catalog]

    def postprocess(self, ranked: tuple[torch.Tensor, torch.Tensor]) -> list[list[dict[str, Any]]]:
        """Codes to items."""
        scores, positions = (tensor.tolist() for tensor in ranked)
        return [
            [self._answer(score, position) for score, position in zip(*row, strict=True) if score > -float("inf")]
            for row in zip(scores, positions, strict=True)
        ]

    def _answer(self, score: float, position: int) -> dict[str, Any]:
        item = self.processor.catalog.item(position)
        return {"item_id": item[Columns.ITEM_ID], "score": score, "item": item}


class UniMPSearchPipeline(UniMPRecommendPipeline):
    """
    `{"history": [...], "query": "..."}` to the items that fit the query and the person, as `unimp-recommend`.

    Items of the history are not left out unless `exclude_seen=True`: a search may be for something known.
    """

    task_name = "search"
    exclude_seen = False


class UniMPRatePipeline(UniMPPipeline):
    """
    `{"history": [...], "item": ...}` to `{"rating"}`: the mean of what the person may rate the item, each rating as
    probable as the model finds it. It need not be a rating that can be given, and errs least.
    """

    task_name = "rate"

    def _forward(self, inputs: dict[str, Any]) -> list[float]:
        levels, texts = self.processor.rating_answers()
        probabilities = self.model.score_texts(texts, **inputs["model_inputs"]).softmax(-1)
        return (probabilities.cpu() @ levels).tolist()

    def postprocess(self, ratings: list[float]) -> list[dict[str, Any]]:
        """A rating a request."""
        return [{"rating": rating} for rating in ratings]


class UniMPExplainPipeline(UniMPPipeline):
    """
    `{"history": [...], "item": ...}` to `{"rating", "explanation"}`: one text, both its parts; `None` for a part that
    is not in it.
    """

    task_name = "explain"

    def _forward(self, inputs: dict[str, Any]) -> list[list[int]]:
        prompt = inputs["model_inputs"]
        generated = self.model.generate(
            **prompt,
            do_sample=False,
            max_new_tokens=ANSWER_LENGTH,
            eos_token_id=self.processor.tokenizer.eos_token_id,
            pad_token_id=self.processor.tokenizer.eos_token_id,
        )
        return generated[:, prompt["input_ids"].shape[1] :].tolist()

    def postprocess(self, generated: list[list[int]]) -> list[dict[str, Any]]:
        """Tokens to a rating and an explanation."""
        answers = (self.processor.read_answer(answer) for answer in generated)
        return [{"rating": rating, "explanation": explanation} for rating, explanation in answers]


class UniMPSelectPipeline(UniMPPipeline):
    """
    `{"history": [...], "candidates": [item ids]}` to those the person will choose, `[{"item_id", "item"}, ...]`: at
    least one, in the order the model names them. Who names a removed item as a candidate may get it.
    """

    task_name = "select"

    def _forward(self, inputs: dict[str, Any]) -> list[list[int]]:
        return self.model.select_items(inputs["codes"], **inputs["model_inputs"])

    def _codes(self, sample: dict[str, Any]) -> list[int]:
        """Of the candidates."""
        return [self.processor.catalog.position(entry) for entry in sample["candidates"]]

    def preprocess(self, samples: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Requests to tensors; candidates must have a code to be chosen by."""
        samples = list(samples)
        for sample in samples:
            candidates = sample.get("candidates") if isinstance(sample, Mapping) else None
            for entry in candidates if isinstance(candidates, list | tuple) else ():  # the processor refuses the rest
                if entry not in self.processor.catalog:
                    raise ValueError(f"`candidates` must be item ids of the catalogue, got {shown(entry)}.")
        return super().preprocess(samples)

    def postprocess(self, chosen: list[list[int]]) -> list[list[dict[str, Any]]]:
        """Codes to items."""
        items = ([self.processor.catalog.item(position) for position in row] for row in chosen)
        return [[{"item_id": item[Columns.ITEM_ID], "item": item} for item in row] for row in items]
