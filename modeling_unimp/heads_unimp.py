"""The two heads of the model: what follows a position, a text token or an item code, and how probable it is."""

import torch
from torch import nn

from .configuration_unimp import MARKERS


class HeadsMixin:
    """Heads of [`UniMPForConditionalGeneration`]."""

    def item_logits(self, hidden_states: torch.Tensor, output_rows: torch.Tensor) -> torch.Tensor:
        """`[..., hidden_size]` to `[..., 1 + num_items]`: the end of the chunk, then the catalogue's item codes."""
        head = self.model.item_rows if self.item_head is None else self.item_head
        end = self.model.markers.weight[MARKERS.index("<|endofchunk|>")]
        rows, bias = torch.cat([end[None], output_rows]), nn.functional.pad(head.bias, (1, 0))
        hidden_states = self.item_norm(hidden_states)
        return nn.functional.linear(hidden_states, rows.to(hidden_states), bias.to(hidden_states))

    def text_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[..., hidden_size]` to `[..., text vocabulary]`, as the backbone computes them."""
        logits = self.lm_head(hidden_states)
        cap = getattr(self.config.text_config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _precedes_item(self, input_ids: torch.Tensor) -> torch.Tensor:
        config = self.config
        markers = (input_ids == config.marker_id("<|endofchunk|>")) | (input_ids == config.marker_id("<|item|>"))
        return markers | (input_ids >= config.first_item_id)

    def _joint_logits(
        self, hidden_states: torch.Tensor, precedes_item: torch.Tensor, output_rows: torch.Tensor
    ) -> torch.Tensor:
        """Logits over text vocabulary, markers and items, with the kind that cannot follow ruled out."""
        text, items = self.text_logits(hidden_states), self.item_logits(hidden_states, output_rows)
        never = torch.finfo(text.dtype).min
        logits = text.new_full((*text.shape[:-1], self.config.vocab_size), never)
        precedes_item = precedes_item[..., None]
        logits[..., : text.shape[-1]] = text.masked_fill(precedes_item, never)
        items = items.to(text.dtype).masked_fill(~precedes_item, never)
        logits[..., self.config.marker_id("<|endofchunk|>")] = items[..., 0]
        logits[..., self.config.first_item_id :] = items[..., 1:]
        return logits

    def _label_log_probs(
        self,
        hidden_states: torch.Tensor,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        later_labels: torch.Tensor | None,
        output_rows: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Log-probability of every label, `[batch, tokens]`, and of what `later_labels` has beside them; only labelled
        positions reach a vocabulary.
        """
        labelled = labels[:, 1:] != -100
        precedes_item = self._precedes_item(input_ids[:, :-1])
        text, items = labelled & ~precedes_item, labelled & precedes_item
        log_probs = hidden_states.new_zeros(labels.shape, dtype=torch.float32)
        text_log_probs = self.text_logits(hidden_states[:, :-1][text]).float().log_softmax(-1)
        item_log_probs = self.item_logits(hidden_states[:, :-1][items], output_rows).float().log_softmax(-1)
        picked = text_log_probs.gather(-1, labels[:, 1:][text][:, None])
        log_probs[:, 1:] = log_probs[:, 1:].masked_scatter(text, picked)
        picked = item_log_probs.gather(-1, self._item_targets(labels[:, 1:][items])[:, None])
        log_probs[:, 1:] = log_probs[:, 1:].masked_scatter(items, picked)
        if later_labels is None:
            return log_probs, None
        later = later_labels[:, 1:][items]
        picked = item_log_probs.gather(-1, self._item_targets(later).clamp(min=0)) * (later != -100)
        later_log_probs = log_probs.new_zeros(later_labels.shape)
        later_log_probs[:, 1:] = later_log_probs[:, 1:].masked_scatter(items[..., None], picked)
        return log_probs, later_log_probs

    def _item_targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Columns of `item_logits` for item labels: 0 for the end of the chunk, then the items."""
        end = labels == self.config.marker_id("<|endofchunk|>")
        return (labels - self.config.first_item_id + 1).masked_fill(end, 0)
