"""What pythae's own trainer makes of 784-400-40 on statically binarized MNIST, in pythae's own numbers.

The layers, loss, trainer, choice of the best weights by validation and estimate of the likelihood are pythae's;
the learning rate and its schedule are those of its reproduction, examples/scripts/reproducibility/vae.py there.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, AutoModel, VAEConfig
from pythae.trainers import BaseTrainer, BaseTrainerConfig

from benchmarks.contenders.training_job import LATENT_DIMS, SHAPE, Job, networks, prepare
from benchmarks.contenders.training_pythae import Decoder, Encoder

SAMPLES = 200
PIECE = 500
LEARNING_RATE = 1e-4
# Epochs after which the learning rate is lowered, and by how much.
LOWERED: dict[str, Any] = {"milestones": [200, 350, 500, 750, 1000], "gamma": 10 ** (-1 / 5)}


def main(data: str, folder: str, epochs: int, batch: int) -> None:
    """Train, and tell -ELBO and -L_200 of the test images, in nats per image."""
    job = Job("mlp", batch, 0, epochs, 1, data, folder)
    prepare(job)
    with np.load(data, allow_pickle=False) as arrays:
        train, valid, test = (
            torch.from_numpy(arrays[name].reshape(-1, *SHAPE).astype(np.float32)) for name in ("train", "valid", "test")
        )
    encoder, decoder = networks(job)
    config = VAEConfig(input_dim=SHAPE, latent_dim=LATENT_DIMS["mlp"], reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(encoder), decoder=Decoder(decoder))
    training = BaseTrainerConfig(
        output_dir=folder,
        num_epochs=epochs,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=PIECE,
        learning_rate=LEARNING_RATE,
        scheduler_cls="MultiStepLR",
        scheduler_params=LOWERED,
        no_cuda=True,
    )
    labelled = [BaseDataset(images, torch.ones(len(images))) for images in (train, valid)]
    BaseTrainer(model=model, train_dataset=labelled[0], eval_dataset=labelled[1], training_config=training).train()
    (final,) = Path(folder).glob("*/final_model")
    best = AutoModel.load_from_folder(str(final)).eval()
    with torch.no_grad():
        losses = [best({"data": piece})["loss"].item() for piece in torch.split(test, PIECE)]
        likelihood = best.get_nll(test, n_samples=SAMPLES)
    print(f"-ELBO {np.mean(losses):.2f}, -L_{SAMPLES} {-likelihood:.2f} nats per image, {len(test):,} test images")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
