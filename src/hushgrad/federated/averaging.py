"""`fed_avg`, `fed_prox` and `fed_sgd`: a model, two optimizers and a mechanism as a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax
from jax.sharding import Mesh

from hushgrad._check import positive, whole
from hushgrad.errors import InputError
from hushgrad.federated.models import work_of
from hushgrad.federated.process import LearningProcess
from hushgrad.federated.work import Gradient, Local
from hushgrad.mechanism import Mechanism

__all__ = ["fed_avg", "fed_prox", "fed_sgd"]


def fed_avg(
    loss: Callable[..., Any],
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation,
    mechanism: Mechanism,
    *,
    batch_size: int = 32,
    epochs: int = 1,
    client_weighting: str = "uniform",
    block_size: int | None = None,
    lanes: int | None = None,
    mesh: Mesh | None = None,
) -> LearningProcess:
    """Federated averaging with user-level privacy (McMahan et al. 2018, arXiv 1710.06963).

    ```python
    m = hg.dp_sgd(examples=3383, batch_size=120, steps=100, unit="user", delta=1e-5,
                  clip=hg.clip.Adaptive(), noise_multiplier=1.2)
    process = hg.federated.fed_avg(loss, optax.sgd(0.01), optax.sgd(1.0, momentum=0.9), m)
    state = process.initialize(params)
    for _ in range(m.steps):
        state, metrics = process.next(state, process.cohort(state, users))
    process.finish(state).statement()
    ```

    In each round some clients train the server's model on their own examples; the change of each
    is clipped, the changes are summed, noise is added, and the server's optimizer takes the
    sum, divided by the expected number of clients, as a gradient (Reddi et al. 2021, arXiv
    2003.00295).

    Formal guarantee: that of `mechanism`, for any one client and all of their examples, and for
    all states together; not for what is named `unprotected_...`.

    Args:
      loss: of one example, `loss(params, *example) -> scalar`; or a Keras model, built and
        compiled, whose own optimizer is not used and whose weights stay: `run.params` has what
        was learned, in the order of `model.trainable_variables`.
      client_optimizer: any optax optimizer; begins afresh on every client.
      server_optimizer: any optax optimizer: `optax.sgd(1.0)` takes the mean itself.
      mechanism: from `hg.dp_sgd`, `hg.dp_ftrl` or `dp_aggregator(...).mechanism(...)`; its
        examples are clients, and its steps are rounds.
      batch_size: of a client's local batches.
      epochs: passes over a client's examples.
      client_weighting: "uniform" alone: weights by the number of examples would let a client
        with many move the mean by more than its noise hides.
      block_size: clients whose examples are on the device at once.
      lanes: clients that work at once; see `LearningProcess`.
      mesh: of devices, among which a round's clients are shared out.

    Raises:
      InputError: if an argument is wrong.
    """
    return _local(
        loss,
        client_optimizer,
        server_optimizer,
        mechanism,
        (batch_size, epochs, 0.0, client_weighting),
        {"block_size": block_size, "lanes": lanes, "mesh": mesh},
    )


def fed_prox(
    loss: Callable[..., Any],
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation,
    mechanism: Mechanism,
    *,
    proximal: float,
    batch_size: int = 32,
    epochs: int = 1,
    client_weighting: str = "uniform",
    lanes: int | None = None,
    mesh: Mesh | None = None,
) -> LearningProcess:
    """`fed_avg` whose clients are held near the server's parameters (arXiv 1812.06127).

    Args:
      loss: as `fed_avg`; so with all but `proximal`.
      client_optimizer: as there.
      server_optimizer: as there.
      mechanism: as there.
      proximal: weight of half the squared distance to them, in each client's loss.
      batch_size: as there.
      epochs: as there.
      client_weighting: as there.
      lanes: as there.
      mesh: as there.

    Raises:
      InputError: if an argument is wrong.
    """
    return _local(
        loss,
        client_optimizer,
        server_optimizer,
        mechanism,
        (batch_size, epochs, positive("proximal", proximal), client_weighting),
        {"lanes": lanes, "mesh": mesh},
    )


def fed_sgd(
    loss: Callable[..., Any],
    server_optimizer: optax.GradientTransformation,
    mechanism: Mechanism,
    *,
    batch_size: int = 32,
    client_weighting: str = "uniform",
    lanes: int | None = None,
    mesh: Mesh | None = None,
) -> LearningProcess:
    """Each client gives the gradient of its mean loss ("FedSGD", arXiv 1602.05629).

    Args:
      loss: as `fed_avg`; so with all others.
      server_optimizer: as there.
      mechanism: as there.
      batch_size: examples whose gradients are made at once; changes nothing else.
      client_weighting: as there.
      lanes: as there.
      mesh: as there.

    Raises:
      InputError: if an argument is wrong.
    """
    _uniform(client_weighting)
    function, draws, start = work_of(loss)
    work = Gradient(function, whole("batch_size", batch_size), draws=draws)
    return LearningProcess(work, server_optimizer, mechanism, start=start, lanes=lanes, mesh=mesh)


def _local(
    loss: Any,
    client_optimizer: Any,
    server_optimizer: Any,
    mechanism: Any,
    settings: tuple[int, int, float, str],
    options: dict[str, Any],
) -> LearningProcess:
    batch_size, epochs, proximal, weighting = settings
    _uniform(weighting)
    if not isinstance(client_optimizer, optax.GradientTransformation):
        raise InputError(f"client_optimizer must be an optax optimizer, got {client_optimizer!r}")
    function, draws, start = work_of(loss)
    work = Local(
        function,
        whole("batch_size", batch_size),
        client_optimizer,
        whole("epochs", epochs),
        proximal,
        draws=draws,
    )
    return LearningProcess(work, server_optimizer, mechanism, start=start, **options)


def _uniform(weighting: Any) -> None:
    if weighting != "uniform":
        raise InputError(
            f"client_weighting must be 'uniform', got {weighting!r}: noise is for clients that "
            "move the sum by one clip each. A client with a hundred times the examples would move "
            "it by a hundred times as much, and the noise would hide a hundredth"
        )
