"""The token-weighted multi-task loss (UniMP, sections "Objective" and "Token re-weighting")."""

import torch


def token_weighted_loss(
    log_probs: torch.Tensor, weights: torch.Tensor, gamma: float, num_tokens: torch.Tensor | int
) -> torch.Tensor:
    """
    `sum_t w_t * (1 - p_t)^gamma * -log p_t / num_tokens`, with `w_t` the weight of the token's task and role.

    Args:
        log_probs (`torch.Tensor`): log-probability of each label.
        weights (`torch.Tensor` of the same shape): 0 where there is no label.
        gamma (`float`): 0 for plain weighted cross-entropy; the paper uses 2. `p_t` carries gradient, as in the paper.
        num_tokens (`int`): labelled tokens of the whole global batch, so that gradient accumulation and several
            processes give the same gradient as one large batch.
    """
    surprise = -log_probs
    if gamma:
        # 1 - exp(log p) without cancellation; kept off 0, where the power's gradient is not finite.
        surprise = surprise * (-torch.expm1(log_probs)).clamp(min=1e-12).pow(gamma)
    return (weights * surprise).sum() / torch.as_tensor(num_tokens).clamp(min=1)
