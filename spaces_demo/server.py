"""From a model and people to a page that is served."""

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import torch

from .look import CSS, THEME
from .page import Page
from .shop import Shop
from .uploads import MAX_FILE_BYTES

logger = logging.getLogger(__name__)

# Sessions whose state is kept; of more, the oldest are forgotten.
MAX_SESSIONS = 200


def make_page(model: str, people: Mapping[str, Sequence[str]] | None = None, device: str | None = None) -> gr.Blocks:
    """
    The page of a model.

    Args:
        model: folder or Hub id.
        people: histories to begin with, by name.
        device: where it runs; a GPU if there is one.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Page(Shop.load(model, device), people or {}, os.path.basename(model.rstrip("/"))).build()


def serve(page: gr.Blocks, host: str = "127.0.0.1", port: int | None = None, block: bool = True) -> str:
    """Serve a page; returns its address. Where the package `mcp` is there, its endpoints are MCP tools, too."""
    tools = importlib.util.find_spec("mcp") is not None
    if not tools:
        logger.info("No MCP server: the package `mcp` is not installed.")
    options: dict[str, Any] = {"theme": THEME, "css": CSS, "mcp_server": tools, "footer_links": ["api"]}
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=not block,
        quiet=True,
        inbrowser=False,
        share=False,
        run_history=False,  # what somebody tried stays with them alone
        enable_monitoring=False,
        max_file_size=MAX_FILE_BYTES,
        state_session_capacity=MAX_SESSIONS,
        ssr_mode=False,
        **options,
    )
    return address
