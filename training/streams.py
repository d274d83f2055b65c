"""The noise of evaluation: a stream for each kind of work and each piece of it, all from the one seed of a run.

So no number depends on how many threads work, nor on what else is measured. Training draws from the seed itself,
validation from the seed + 1.
"""

import numpy as np
import torch
from torch import Generator

EVALUATION, PIXELS, BOUND, ANNEALING, SIMULATION, GAPS, CHAINS = range(2, 9)


def generator_of(device: torch.device, seed: int, stream: int, piece: int) -> Generator:
    """The noise of one piece, on the device."""
    state = np.random.SeedSequence((seed, stream, piece)).generate_state(1, np.uint64)[0] >> 1
    return Generator(device).manual_seed(int(state))
