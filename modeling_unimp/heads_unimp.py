"""The two heads of the model: what follows a position, a text token or an item code, and how probable it is."""

import torch
from torch import nn

from .configuration_unimp import MARKERS
from .log_probs_unimp import linear_log_probs
from .queries_unimp import answers_query


class HeadsMixin:
    """Heads of [`UniMPForConditionalGeneration`]."""

    def item_logits(self, hidden_states: torch.Tensor, output_rows: torch.Tensor, level: int = 0) -> torch.Tensor:
        """
        `[..., hidden_size]` to logits of a level's codes: `[..., 1 + level_sizes[0]]`, with the end of the chunk
        first, as that may stand in an item's place; `[..., level_sizes[level]]` for the levels after it.
        """
        hidden_states = self._item_states(hidden_states)
        return nn.functional.linear(hidden_states, *self._level_table(hidden_states, output_rows, level))

    def _item_states(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Hidden states as they meet the item rows; what the history is like, beside them, stays as it is."""
        states = self.item_norm(hidden_states[..., : self.row_size])
        likeness = hidden_states[..., self.row_size :]
        return torch.cat([states, likeness.to(states)], dim=-1) if likeness.shape[-1] else states

    def _level_table(
        self, hidden_states: torch.Tensor, output_rows: torch.Tensor, level: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and biases of `item_logits`, like `hidden_states`."""
        rows, bias = self._level_rows(output_rows, level)
        if level == 0:
            end = self.model.markers.weight[MARKERS.index("<|endofchunk|>")]
            end = nn.functional.pad(end, (0, rows.shape[1] - len(end)))
            rows, bias = torch.cat([end[None], rows]), nn.functional.pad(bias, (1, 0))
        return rows.to(hidden_states), bias.to(hidden_states)

    def _level_rows(self, output_rows: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and biases of a level's codes."""
        head = self.model.item_rows if self.item_head is None else self.item_head
        first = self.config.level_starts[level]
        own = slice(first, first + self.config.level_sizes[level])
        return output_rows[own], head.bias[own]

    def level_log_probs(
        self,
        hidden_states: torch.Tensor,
        level: int,
        output_rows: torch.Tensor,
        added_scores: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Log-probability of each code of a level where an item is to be named (the end of the chunk is ruled out),
        `[..., hidden_size]` to `[..., level_sizes[level]]` in float32. An item's is the sum over its levels.
        `added_scores` are added to the logits, `[..., num_items]`.
        """
        rows, bias = self._level_rows(output_rows, level)
        hidden_states = self._item_states(hidden_states)
        logits = nn.functional.linear(hidden_states, rows.to(hidden_states), bias.to(hidden_states)).float()
        if added_scores is not None:
            logits = logits + added_scores
        return logits.log_softmax(-1)

    def _add_up(self, query_matches: torch.Tensor | None, history_scores: torch.Tensor | None) -> torch.Tensor | None:
        """What is added to the items' logits, see [`UniMPForConditionalGeneration.forward`]; `None` for nothing."""
        parts = [] if history_scores is None else [history_scores.float()]
        parts += [] if query_matches is None else [self.query_weight(query_matches)]
        return sum(parts) if parts else None

    def _add_up_at(
        self, input_ids: torch.Tensor, query_matches: torch.Tensor | None, history_scores: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The same for each token, `[batch, tokens, num_items]`, as each counts at one token of a row alone."""
        if query_matches is not None:
            query_matches = answers_query(input_ids, self.config)[..., None] * query_matches[:, None]
        if history_scores is not None:
            history_scores = nn.functional.pad(history_scores[:, None], (0, 0, input_ids.shape[1] - 1, 0))
        return self._add_up(query_matches, history_scores)

    def text_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[..., hidden_size]` to `[..., text vocabulary]`, as the backbone computes them."""
        logits = self.lm_head(hidden_states[..., : self.row_size])
        cap = getattr(self.config.text_config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _next_levels(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Level of the item code that follows each token, -1 where text does."""
        config = self.config
        starts = torch.tensor(config.level_starts[1:], device=input_ids.device)
        level = torch.bucketize(input_ids - config.first_item_id, starts, right=True)
        # A never-seen item has as many tokens as any other.
        level = torch.where(input_ids < config.vocab_size, level, (input_ids - config.vocab_size) % config.code_levels)
        follows = (level + 1) % config.code_levels
        markers = (input_ids == config.marker_id("<|endofchunk|>")) | (input_ids == config.marker_id("<|item|>"))
        return follows.masked_fill(markers, 0).masked_fill(~markers & (input_ids < config.first_item_id), -1)

    def _joint_logits(
        self,
        hidden_states: torch.Tensor,
        next_levels: torch.Tensor,
        output_rows: torch.Tensor,
        added_scores: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Logits over text vocabulary, markers and items, with the kind that cannot follow ruled out. `added_scores` have
        a row a position, `[batch, tokens, num_items]`.
        """
        text = self.text_logits(hidden_states)
        never = torch.finfo(text.dtype).min
        logits = text.new_full((*text.shape[:-1], self.config.vocab_size), never)
        next_levels = next_levels[..., None]
        logits[..., : text.shape[-1]] = text.masked_fill(next_levels >= 0, never)
        first = self.config.first_item_id
        for level, (start, size) in enumerate(zip(self.config.level_starts, self.config.level_sizes, strict=True)):
            items = self.item_logits(hidden_states, output_rows, level).to(text.dtype)
            items = items.masked_fill(next_levels != level, never)
            if level == 0:
                logits[..., self.config.marker_id("<|endofchunk|>")] = items[..., 0]
                items = items[..., 1:]
                if added_scores is not None:
                    items = items + added_scores.to(items)
            logits[..., first + start : first + start + size] = items
        return logits

    def _label_log_probs(
        self,
        hidden_states: torch.Tensor,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        later_labels: torch.Tensor | None,
        output_rows: torch.Tensor,
        query_matches: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Log-probability of every label, `[batch, tokens]`, and of what `later_labels` has beside them; only labelled
        positions reach a vocabulary.
        """
        labelled = labels[:, 1:] != -100
        next_levels = self._next_levels(input_ids[:, :-1])
        log_probs = hidden_states.new_zeros(labels.shape, dtype=torch.float32)
        text = labelled & (next_levels < 0)
        text_log_probs = self.text_logits(hidden_states[:, :-1][text]).float().log_softmax(-1)
        picked = text_log_probs.gather(-1, labels[:, 1:][text][:, None])
        log_probs[:, 1:] = log_probs[:, 1:].masked_scatter(text, picked)
        if query_matches is None:
            query_matches = hidden_states.new_zeros(0, self.config.num_items)
            answering = torch.zeros_like(labelled)
        else:
            answering = labelled & answers_query(input_ids[:, :-1], self.config)
        matches = query_matches[answering.nonzero()[:, 0]]
        later_log_probs = None
        for level in range(self.config.code_levels):
            items = labelled & (next_levels == level)
            wanted = labels[:, 1:][items][:, None]  # with the later items beside it: all in one pass over the rows
            if level == 0 and later_labels is not None:
                wanted = torch.cat([wanted, later_labels[:, 1:][items]], dim=-1)
            states = self._item_states(hidden_states[:, :-1][items])
            table = self._level_table(states, output_rows, level)
            targets = self._item_targets(wanted, level).clamp(min=0)
            picked = linear_log_probs(states, *table, targets, self.row_size)
            if self.config.code_sizes is None:
                # One a row at most: all their logits are held. None at all still is a gradient of the weight, which
                # processes that train together wait for.
                answers = answering[items]
                logits = nn.functional.linear(states[answers], *table).float()
                logits = logits + nn.functional.pad(self.query_weight(matches), (1, 0))
                answered = logits.log_softmax(-1).gather(-1, targets[answers])
                picked = picked.masked_scatter(answers[:, None], answered)
            picked = picked * (wanted != -100)
            log_probs[:, 1:] = log_probs[:, 1:].masked_scatter(items, picked[:, :1])
            if level == 0 and later_labels is not None:
                later_log_probs = log_probs.new_zeros(later_labels.shape)
                later_log_probs[:, 1:] = later_log_probs[:, 1:].masked_scatter(items[..., None], picked[:, 1:])
        return log_probs, later_log_probs

    def _item_targets(self, labels: torch.Tensor, level: int) -> torch.Tensor:
        """Columns of a level's `item_logits` for labels: its codes, on the first level after the end of the chunk."""
        codes = labels - self.config.first_item_id - self.config.level_starts[level]
        if level > 0:
            return codes
        return (codes + 1).masked_fill(labels == self.config.marker_id("<|endofchunk|>"), 0)
