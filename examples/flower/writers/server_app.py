"""The server: draws the cohorts, adds the noise, keeps the ledger."""

import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

import hushgrad as hg
from hushgrad.federated import flower
from writers.task import process, start

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds that are left, then the weights with their statement."""
    config, begun = context.run_config, time.monotonic()
    directory = Path(str(config["directory"]))

    def told(metrics: hg.federated.RoundMetrics) -> None:
        """A line for each round; its number of writers is not private."""
        print(
            f"round {metrics.round} of {metrics.steps}: {metrics.unprotected_clients} writers, "
            f"epsilon {metrics.epsilon():.3f}, {time.monotonic() - begun:.1f} s",
            flush=True,
        )

    with process(context) as made:
        state = made.initialize(start(context), directory=directory)
        run = flower.serve(
            grid,
            made,
            state,
            callback=told,
            timeout=float(config["timeout"]),
            min_nodes=int(config["nodes"]),
        )
    file = run.export(directory / "weights.safetensors")
    print(f"{run.statement()}\n\nweights: {file}", flush=True)
