"""What SASRec and BERT4Rec share: a small transformer over items, and cross-entropy over the whole catalogue."""

import torch
from torch import nn
from torch.nn import functional as F

# Rows of the catalogue's logits that are in memory at a time.
_ROWS = 128


class ItemTransformer(nn.Module):
    """
    Layers of self-attention (pre-norm) over item embeddings with learned positions, counted from the last item: what
    comes next is then always asked for in a place that was trained. The embeddings are also the output layer; number
    `num_items` stands for padding or for a hidden item.
    """

    def __init__(self, num_items: int, width: int, layers: int, heads: int, dropout: float, window: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, width)
        self.positions = nn.Embedding(window, width)
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(num_items))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, items: torch.Tensor, real: torch.Tensor, causal: bool) -> torch.Tensor:
        """`(batch_size, length)` items, padding on the right where not `real`, to `(batch_size, length, width)`."""
        hidden = self.items(items) * self.items.embedding_dim**0.5
        age = (real.sum(1, keepdim=True) - 1 - torch.arange(items.shape[1])).clamp(min=0)
        hidden = self.dropout(hidden + self.positions(age))
        mask = None if causal else real[:, None, None]  # no item looks at padding, which comes after it, if causal
        for block in self.blocks:
            hidden = block(hidden, causal, mask)
        return self.norm(hidden)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(rows, width)` to `(rows, num_items)`."""
        return F.linear(hidden, self.items.weight[:-1], self.bias)

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """[`catalogue_cross_entropy`] of `(rows, width)` states."""
        return catalogue_cross_entropy(hidden, self.items.weight[:-1], self.bias, targets, weights)


class Block(nn.Module):
    """Self-attention, then a network of one hidden layer, each added to what comes in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor, causal: bool, mask: torch.Tensor | None) -> torch.Tensor:
        split = self.project(self.attention_norm(hidden)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (batch_size, heads, length, width / heads)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        hidden = hidden + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return hidden + self.dropout(self.network(self.network_norm(hidden)))


def catalogue_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy over all items, the mean over the targets of all rows by their weights.

    Several targets of one row share one softmax, and the gradient is made with the loss, some rows at a time: the
    logits of a whole batch are never in memory.

    Args:
        hidden (`torch.Tensor` of shape `(rows, width)`): states.
        weight (`torch.Tensor` of shape `(num_items, width)`): output embeddings.
        bias (`torch.Tensor` of shape `(num_items,)`): output bias.
        targets (`torch.Tensor` of shape `(rows, targets_per_row)`): item numbers.
        weights (`torch.Tensor` of shape `(rows, targets_per_row)`): of the targets; 0 leaves one out.
    """
    return _CatalogueCrossEntropy.apply(hidden, weight, bias, targets, weights)


class _CatalogueCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, weights):  # noqa: ANN001, ANN205
        grad_hidden, grad_weight, grad_bias = (torch.zeros_like(tensor) for tensor in (hidden, weight, bias))
        total, loss = weights.sum(), 0.0
        for rows in torch.arange(len(hidden)).split(_ROWS):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            own, share = targets[part], weights[part] / total
            logits = torch.addmm(bias, hidden[part], weight.T)
            log_sum = logits.logsumexp(1, keepdim=True)
            loss += (share * (log_sum - logits.gather(1, own))).sum()
            gradient = logits.sub_(log_sum).exp_().mul_(share.sum(1, keepdim=True)).scatter_add_(1, own, -share)
            torch.mm(gradient, weight, out=grad_hidden[part])
            grad_weight.addmm_(gradient.T, hidden[part])
            grad_bias += gradient.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return loss

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        return *(grad * saved for saved in ctx.saved_tensors), None, None
