"""The limit: the layers alone, forward and backward, on batches that lie ready. No loss, no noise, no update.

What a training loop in float32 could be at most, if all that it does beside took no time.
"""

import sys

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders.training_job import LATENT_DIMS, Clock, Job, Outcome, networks, prepare


def main(job: Job) -> Outcome:
    """Run, and tell how long it took; nothing is learned, so there is no -ELBO."""
    prepare(job)
    encoder, decoder = networks(job)
    with np.load(job.data, allow_pickle=False) as arrays:
        images = torch.from_numpy((arrays["train"][:, None] / 255).astype(np.float32))
    assert len(images) == job.images
    latents = torch.randn(job.batch, LATENT_DIMS[job.network], requires_grad=True)
    backwards = [torch.randn_like(encoder(images[: job.batch])), torch.randn_like(decoder(latents))]
    clock = Clock()
    for _ in range(job.epochs + 1):
        for batch in torch.split(images, job.batch):
            _step(encoder, decoder, batch, latents, backwards)
        clock.read()
    versions = {"torch": torch.__version__, "precision": "float32"}
    return clock.outcome(None, (encoder, decoder), versions)


def _step(
    encoder: torch.nn.Module, decoder: torch.nn.Module, batch: Tensor, latents: Tensor, backwards: list[Tensor]
) -> None:
    for network in (encoder, decoder):
        network.zero_grad(set_to_none=True)
    latents.grad = None
    torch.autograd.backward([encoder(batch), decoder(latents)], backwards)


if __name__ == "__main__":
    main(Job.parse(sys.argv[1])).tell()
