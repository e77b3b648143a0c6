"""The `unimp push` command: a trained model, or a data set, to the Hugging Face Hub in one commit."""

import json
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    HfApi,
    ModelCard,
    RepoCard,
)
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .processing.columns_unimp import Columns
from .processing.dataset_card import CARD_FILE, stated_license
from .processing.imagine_pipeline_unimp import IMAGINE_FOLDER

CATALOG_FILE = "catalog.parquet"
# What of a model's folder is uploaded, by kind; nothing that begins with `_` or `.`, no checkpoint and no figures.
MODEL_FILES = {
    "weights": ("model*.safetensors", "model.safetensors.index.json"),
    "pictures": ("picture_latents.safetensors",),
    "code": ("*_unimp.py",),
    "config": ("config.json", "generation_config.json"),
    "processor": (
        "processor_config.json",
        "preprocessor_config.json",
        "tokenizer*.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.*",
        "merges.txt",
        "*.model",
        "*.jinja",
    ),
    "catalogue": (CATALOG_FILE,),
    "drawing": (f"{IMAGINE_FOLDER}/*.json", f"{IMAGINE_FOLDER}/*.safetensors", f"{IMAGINE_FOLDER}/*.txt"),
    "card": (CARD_FILE,),
}
OPTIONAL = ("pictures", "drawing", "card")
# Parts of the pipeline that draws which are there already: the recommender itself.
DRAWN_WITH = ("model", "processor")
TABLES = ("items", "interactions")
DATASET_FILES = {"table": tuple(f"{name}.*" for name in TABLES), "card": (CARD_FILE,)}
# Of an earlier upload, what would be read instead of or beside the new one.
REPLACED = {
    "model": tuple(chain.from_iterable(MODEL_FILES[kind] for kind in ("weights", "pictures", "code", "drawing"))),
    "dataset": DATASET_FILES["table"],
}
# Files of a kind that are listed one by one.
MOST_SHOWN = 4


@dataclass(kw_only=True)
class PushArguments:
    """Options of `unimp push`."""

    repo_id: str = field(metadata={"help": "Where to, as NAME or OWNER/NAME; made if it is not there."})
    model: str | None = field(default=None, metadata={"help": "Folder of a trained model."})
    dataset: str | None = field(
        default=None, metadata={"help": "Folder with items.*, interactions.* and, if there are any, images/."}
    )
    private: bool = field(default=False, metadata={"help": "Make the repository private; a public one is refused."})
    revision: str | None = field(default=None, metadata={"help": "Branch; `main` by default."})
    yes: bool = field(default=False, metadata={"help": "Upload without asking."})
    allow_unlicensed_pictures: bool = field(
        default=False, metadata={"help": "Upload pictures although no licence is stated for them."}
    )

    def __post_init__(self) -> None:
        if bool(self.model) == bool(self.dataset):
            raise ValueError("Give `--model DIR` or `--dataset FOLDER`, one of them.")


@dataclass(frozen=True)
class Upload:
    """
    What is to be uploaded.

    Attributes:
        kind (`str`): of repository, `"model"` or `"dataset"`.
        files (`dict[str, Path]`): by their name there; the card is not among them.
        card (`RepoCard`): to be written as `README.md`.
        pictures (`int`): how many of the items have one.
    """

    kind: str
    files: dict[str, Path]
    card: RepoCard
    pictures: int

    def card_for(self, repo_id: str) -> bytes:
        """The card, in which the model's examples load what is uploaded, not the folder it came from."""
        card = type(self.card)(str(self.card), ignore_metadata_errors=True)
        if name := card.data.get("model_name"):
            card.data.model_name = repo_id
            card.text = re.sub(rf"^# {re.escape(name)}$", f"# {repo_id}", card.text, count=1, flags=re.MULTILINE)
            card.text = card.text.replace(f'"{name}"', f'"{repo_id}"')
        return str(card).encode()


def main(arguments: Sequence[str]) -> int:
    """
    Run `unimp push`; returns the exit status.

    Raises:
        ValueError: an option or the folder is wrong, no licence is stated for pictures, or the Hub refuses.
        OSError: a file is missing, or the connection broke; the same command again goes on.
    """
    from .cli import parse

    options = parse(arguments, PushArguments)[0]
    with tempfile.TemporaryDirectory() as folder:
        if options.model is not None:
            upload = model_upload(Path(options.model), options.repo_id)
        else:
            upload = dataset_upload(Path(options.dataset), options.repo_id, Path(folder))
        _show(upload, options)
        _check_license(upload, options)
        if not options.yes and not _agreed():
            sys.stdout.write("Nothing was uploaded.\n")
            return 1
        url = push(upload, options.repo_id, options.private, options.revision)
    sys.stdout.write(f"Uploaded: {url}\n")
    return 0


# What is uploaded


def model_upload(folder: Path, repo_id: str) -> Upload:
    """
    What of a model's folder is uploaded. A folder without a card gets one.

    Raises:
        `ValueError`: the folder is not a whole model: weights, code, processor and catalogue.
    """
    config = _read_config(folder)
    places = [*sorted(folder.iterdir()), *_drawing_files(folder / IMAGINE_FOLDER)]
    names = {path.relative_to(folder).as_posix(): path for path in places if path.is_file()}
    files = {name: path for name, path in names.items() if _kind("model", name)}
    kinds = {_kind("model", name) for name in files}
    missing = [kind for kind in MODEL_FILES if kind not in (*kinds, *OPTIONAL)]
    if missing := missing or _missing_code(folder, config):
        raise ValueError(
            f"`model` {folder} has no {', '.join(missing)}: save both parts into it, `model.save_pretrained(folder)` "
            "and `processor.save_pretrained(folder)`."
        )
    path = files.pop(CARD_FILE, None)
    card = _plain_model_card(folder, repo_id) if path is None else _load_card(ModelCard, path)
    return Upload("model", files, card, _num_pictures(folder / CATALOG_FILE))


def _drawing_files(folder: Path) -> list[Path]:
    """Of the pipeline that draws, what `unimp-imagine` reads; nothing of one whose training was interrupted."""
    if not (folder / "model_index.json").is_file():
        return []
    parts = [part for part in sorted(folder.iterdir()) if part.is_dir() and part.name not in DRAWN_WITH]
    return [folder / "model_index.json", *chain.from_iterable(sorted(part.iterdir()) for part in parts)]


def _load_card(kind: type[RepoCard], path: Path) -> RepoCard:
    try:
        return kind.load(path, ignore_metadata_errors=True)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"The front matter of {path} cannot be read: {error}") from error


def _missing_code(folder: Path, config: dict) -> list[str]:
    """Files that the folder's own classes are in, or that those import, and that are not there."""
    processor = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    entries = [*config.get("auto_map", {}).values(), *processor.get("auto_map", {}).values()]
    entries += [entry["impl"] for entry in config.get("custom_pipelines", {}).values()]
    needed = {entry.rpartition("--")[2].partition(".")[0] for entry in entries}
    for path in folder.glob(MODEL_FILES["code"][0]):
        needed.update(re.findall(r"^from \.(\w+) import", path.read_text(encoding="utf-8"), re.MULTILINE))
    return sorted(f"{name}.py" for name in needed if not (folder / f"{name}.py").is_file())


def _read_config(folder: Path) -> dict:
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"`model` {folder} is an adapter, of no use without the model it was trained on: save "
            "`trainer.model.merge_and_unload()` and the processor into a folder, and push that."
        )
    if not (folder / "config.json").is_file():
        raise ValueError(f"`model` must be the folder of a trained model, but {folder} has no config.json.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "unimp":
        raise ValueError(f"`model` {folder} is of type {config.get('model_type')!r}, and not a UniMP model.")
    return config


def _plain_model_card(folder: Path, repo_id: str) -> ModelCard:
    import torch
    from transformers import AutoConfig, AutoModel

    from .modeling_unimp.card_unimp import model_card

    with torch.device("meta"):  # its shape is all that the card tells
        return model_card(AutoModel.from_config(AutoConfig.from_pretrained(folder)), repo_id)


def dataset_upload(folder: Path, repo_id: str, place: Path) -> Upload:
    """
    A data set as the Hub shows it: both tables checked and written as parquet into `place`, pictures inside. A folder
    without a card gets one; one of the user's own is told where the tables are, if it does not say.
    """
    from .processing.loaders.card import CONFIGS, dataset_card
    from .processing.store import read_store, write_store

    store = read_store(folder)
    write_store(store.items, store.interactions, place)
    name = repo_id.rpartition("/")[2]
    card = dataset_card(store, name)
    if (folder / CARD_FILE).is_file():
        card = _load_card(DatasetCard, folder / CARD_FILE)
        card.data.configs = card.data.get("configs") or CONFIGS
    files = {f"{table}.parquet": place / f"{table}.parquet" for table in TABLES}
    return Upload("dataset", files, card, _num_pictures(files["items.parquet"]))


def _kind(repo_type: str, name: str) -> str | None:
    """What a file of a repository is; `None` for one that does not belong there."""
    if name.startswith(("_", ".")):
        return None
    kinds = MODEL_FILES if repo_type == "model" else DATASET_FILES
    return next((kind for kind, patterns in kinds.items() if any(fnmatch(name, p) for p in patterns)), None)


def _num_pictures(path: Path) -> int:
    """Items of a parquet file that have a picture; the pictures themselves are not read."""
    file = pq.ParquetFile(path)
    if Columns.IMAGE not in file.schema_arrow.names:
        return 0
    batches = file.iter_batches(columns=[f"{Columns.IMAGE}.path"])
    return sum(len(batch) - batch.column(0).null_count for batch in batches)


# Before anything is sent


def _show(upload: Upload, options: PushArguments) -> None:
    """Files, sizes, licence, destination."""
    sizes = {name: path.stat().st_size for name, path in upload.files.items()}
    sizes[CARD_FILE] = len(upload.card_for(options.repo_id))
    where = f"{upload.kind} {options.repo_id}" + (f", branch {options.revision}" if options.revision else "")
    table = Table(title=Text(f"To {HfApi().endpoint}: {where}"))
    for column in ("", "files", "size"):
        table.add_column(column, justify="right" if column == "size" else "left")
    for kind in MODEL_FILES if upload.kind == "model" else DATASET_FILES:
        names = [name for name in sizes if _kind(upload.kind, name) == kind]
        if not names:
            continue
        shown = f"{names[0]} ... {names[-1]} ({len(names)} files)" if len(names) > MOST_SHOWN else "\n".join(names)
        table.add_row(kind, Text(shown), _readable(sum(sizes[name] for name in names)))
    table.add_section()
    table.add_row("", f"{len(sizes)} files", _readable(sum(sizes.values())))
    console = Console()
    console.print(table)
    licence = stated_license(upload.card.data) or "not stated"
    console.print(Text(f"{upload.pictures:,} items with a picture; licence: {licence}."), soft_wrap=True)
    if upload.kind == "dataset":
        console.print("The interactions are people's histories: be sure that you may pass them on.", soft_wrap=True)


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _check_license(upload: Upload, options: PushArguments) -> None:
    if not upload.pictures or stated_license(upload.card.data) or options.allow_unlicensed_pictures:
        return
    folder = options.model or options.dataset
    raise ValueError(
        f"{folder} has pictures of {upload.pictures:,} items, and nothing says under which licence: state it as "
        f"`license: ...` in the front matter of {Path(folder, CARD_FILE)} (`unimp train` takes it over from the data "
        f"set's {CARD_FILE}), or upload them all the same with `--allow_unlicensed_pictures`."
    )


def _agreed() -> bool:
    try:
        return input("Upload? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        raise ValueError("Nobody is there to answer: give `--yes` to upload without being asked.") from None


# Upload


def push(upload: Upload, repo_id: str, private: bool = False, revision: str | None = None) -> str:
    """
    Upload in one commit, and take away what an earlier upload left that would be read instead. Nothing is there before
    all is there; large files that an interrupted upload has sent are not sent again.

    Args:
        upload ([`Upload`]): what.
        repo_id (`str`): `NAME` or `OWNER/NAME`; made if it is not there.
        private (`bool`): whether a repository that is made is private; one that is there must be.
        revision (`str`, *optional*): a branch, made if it is not there.

    Returns:
        `str`: where it is.

    Raises:
        `ValueError`: the Hub refuses, or the repository is public and is to be private.
        `OSError`: the connection broke, or the Hub has an error.
    """
    api = HfApi()
    with _explained(repo_id):
        # None and not False: an organisation may want all of its repositories private.
        made = api.create_repo(repo_id, private=private or None, repo_type=upload.kind, exist_ok=True)
        if private and not api.repo_info(made.repo_id, repo_type=upload.kind).private:
            raise ValueError(
                f"`private`: {made.repo_id} is there already, and public. Make it private in its settings, or take "
                "another name."
            )
        where = {"repo_id": made.repo_id, "repo_type": upload.kind, "revision": revision}
        if revision is not None:
            api.create_branch(made.repo_id, branch=revision, repo_type=upload.kind, exist_ok=True)
        operations = [CommitOperationAdd(name, str(path)) for name, path in upload.files.items()]
        operations.append(CommitOperationAdd(CARD_FILE, upload.card_for(made.repo_id)))
        old = {name for name in api.list_repo_files(**where) if any(fnmatch(name, p) for p in REPLACED[upload.kind])}
        operations += [CommitOperationDelete(name) for name in sorted(old - set(upload.files))]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
            api.create_commit(operations=operations, commit_message=f"Upload a UniMP {upload.kind}", **where)
    return f"{made.url}/tree/{revision}" if revision else str(made.url)


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Errors of the Hub and of the connection, with what to do."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise ValueError("The Hub does not know you: log in with `hf auth login`, or set HF_TOKEN.") from error
        if status == 403:
            raise ValueError(
                f"`repo_id` {repo_id!r}: your token may not write there. Take one that may (`hf auth login`), or "
                "another name."
            ) from error
        raise
    except (HTTPError, RuntimeError) as error:  # the latter where a large file broke off
        reason = " ".join(str(error.__cause__ or error).split())
        raise OSError(
            f"The upload to {repo_id} broke off ({reason}). Nothing of it is visible there; the same command again "
            "goes on from here."
        ) from error
