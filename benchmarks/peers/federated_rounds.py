"""One round of federated averaging by other libraries, on the same clients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["ROUNDS"]

Round = Callable[[], Any]


def fedjax_round(clients: list[tuple[np.ndarray, np.ndarray]], params: Any, loss: Any) -> Round:
    """FedJAX 0.0.17, clients one after the other in compiled steps; it has no privacy."""
    import jax

    # It was written for older versions of JAX, whose names these were.
    for name in ("tree_map", "tree_flatten", "tree_unflatten", "tree_leaves"):
        if name not in vars(jax):
            setattr(jax, name, getattr(jax.tree_util, name))
    for name in {"KeyArray"} - set(vars(jax.random)):
        setattr(jax.random, name, jax.Array)
    import fedjax  # pyright: ignore[reportMissingImports]

    def mean(p: Any, batch: Any, rng: Any) -> Any:
        return jax.numpy.mean(jax.vmap(lambda x, y: loss(p, x, y))(batch["x"], batch["y"]))

    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        jax.grad(mean),
        fedjax.optimizers.sgd(0.02),
        fedjax.optimizers.sgd(1.0, momentum=0.9),
        fedjax.ShuffleRepeatBatchHParams(batch_size=20, num_epochs=1),
    )
    sets = [(str(i), fedjax.ClientDataset({"x": x, "y": y})) for i, (x, y) in enumerate(clients)]
    keys = jax.random.split(jax.random.PRNGKey(0), len(sets))
    cohort = [(name, data, key) for (name, data), key in zip(sets, keys, strict=True)]
    state = algorithm.init(params)

    def one() -> Any:
        nonlocal state
        state, _ = algorithm.apply(state, cohort)
        return jax.block_until_ready(state.params)

    return one


def pfl_round(clients: list[tuple[np.ndarray, np.ndarray]], params: Any, loss: Any) -> Round:
    """pfl 0.6 on PyTorch, with its central Gaussian mechanism."""
    import torch  # pyright: ignore[reportMissingImports]
    from pfl.aggregate.simulate import SimulatedBackend  # pyright: ignore[reportMissingImports]
    from pfl.algorithm.base import NNAlgorithmParams  # pyright: ignore[reportMissingImports]
    from pfl.algorithm.federated_averaging import FederatedAveraging  # pyright: ignore[reportMissingImports]
    from pfl.data.dataset import Dataset  # pyright: ignore[reportMissingImports]
    from pfl.data.federated_dataset import FederatedDataset  # pyright: ignore[reportMissingImports]
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams  # pyright: ignore[reportMissingImports]
    from pfl.internal.ops import pytorch_ops  # pyright: ignore[reportMissingImports] # noqa: F401
    from pfl.model.pytorch import PyTorchModel  # pyright: ignore[reportMissingImports]
    from pfl.privacy.gaussian_mechanism import GaussianMechanism  # pyright: ignore[reportMissingImports]
    from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism  # pyright: ignore[reportMissingImports]

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = (784, 200, 200, 10)
            layers: list[Any] = []
            for a, b in itertools.pairwise(sizes):
                layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
            self.layers = torch.nn.Sequential(*layers[:-1])

        def loss(self, x: Any, y: Any, eval: bool = False) -> Any:
            return torch.nn.functional.cross_entropy(self.layers(x), y)

        def metrics(self, x: Any, y: Any, eval: bool = False) -> Any:
            return {}

    net = Net()
    model = PyTorchModel(
        model=net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9),
    )
    users = {
        str(i): Dataset((torch.tensor(x), torch.tensor(y, dtype=torch.long)))
        for i, (x, y) in enumerate(clients)
    }
    turn = itertools.cycle(users)
    data = FederatedDataset(users.__getitem__, lambda: next(turn))
    mechanism = CentrallyAppliedPrivacyMechanism(
        GaussianMechanism(clipping_bound=0.1, relative_noise_stddev=1.0)
    )
    backend = SimulatedBackend(training_data=data, val_data=None, postprocessors=[mechanism])
    train = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=0.02, local_batch_size=20)
    settings = NNAlgorithmParams(
        central_num_iterations=1,
        evaluation_frequency=10**6,
        train_cohort_size=len(clients),
        val_cohort_size=0,
    )

    def one() -> Any:
        return FederatedAveraging().run(
            settings, backend, model, train, NNEvalHyperParams(local_batch_size=None)
        )

    return one


ROUNDS: dict[str, Callable[..., Round]] = {"FedJAX": fedjax_round, "pfl": pfl_round}
