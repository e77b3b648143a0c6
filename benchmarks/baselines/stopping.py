"""Training step by step, with the best of what was seen on the way kept."""

import copy
from collections.abc import Callable

from torch import nn


class BestState:
    """Keeps a module's best weights, and tells when they have not got better for too long.

    Args:
        module (`nn.Module`): what is trained.
        validate (`Callable` or `None`): how good it is now, higher is better; without it the last weights stay.
        patience (`int`): of how many figures in a row none may be better than the best.
    """

    def __init__(self, module: nn.Module, validate: Callable[[], float] | None, patience: int) -> None:
        self.module, self.validate, self.patience = module, validate, patience
        self.best, self.state, self.worse = -float("inf"), None, 0

    def stop(self) -> bool:
        """Asks for a figure; whether it is time to stop."""
        if self.validate is None:
            return False
        figure = self.validate()
        self.worse += 1
        if figure > self.best:
            self.best, self.state, self.worse = figure, copy.deepcopy(self.module.state_dict()), 0
        return self.worse >= self.patience

    def restore(self) -> None:
        """Puts the best weights back."""
        if self.state is not None:
            self.module.load_state_dict(self.state)
