"""What the server and all nodes agree on: the model, its training and its privacy."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flwr.app import Context

import hushgrad as hg

WRITERS = 539  # of MNIST's training images, by QMNIST
LAYERS = (784, 200, 200, 10)


def loss(params: Any, image: Any, label: Any) -> Any:
    """Of one image."""
    h = image.ravel()
    for layer in params[:-1]:
        h = jax.nn.relu(h @ layer["w"] + layer["b"])
    logits = h @ params[-1]["w"] + params[-1]["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def start(context: Context) -> list[dict[str, Any]]:
    """The parameters before the first round."""
    rng, pairs = np.random.default_rng(0), itertools.pairwise(LAYERS)
    return [
        {"w": jnp.asarray(rng.normal(size=p) / p[0] ** 0.5, jnp.float32), "b": jnp.zeros(p[1])}
        for p in pairs
    ]


def process(context: Context) -> hg.federated.LearningProcess:
    """Federated averaging; a writer with all their images is what is hidden."""
    config = context.run_config
    aggregator = hg.federated.dp_aggregator(
        noise_multiplier=float(config["noise-multiplier"]),
        clients_per_round=int(config["clients-per-round"]),
    )
    mechanism = aggregator.mechanism(
        clients=WRITERS, rounds=int(config["rounds"]), delta=float(config["delta"])
    )
    client, server = optax.sgd(0.02), optax.sgd(1.0, momentum=0.9)
    return hg.federated.fed_avg(loss, client, server, mechanism, batch_size=20)


def writers(context: Context) -> Mapping[int, Any]:
    """The images of the writers that this node speaks for, by the writer's number."""
    node = context.node_config
    folder, part, parts = Path(str(node["data-dir"])), int(node["part"]), int(node["parts"])
    mnist = hg.datasets.load_mnist(folder / "mnist")
    wrote, _ = hg.datasets.load_mnist_writers(folder / "qmnist")
    users = hg.sampling.Users(wrote, mnist.train)
    return hg.federated.Cohort(users, range(part, len(users), parts))
