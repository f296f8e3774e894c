"""Ctrl-C in the middle of a step: the step is finished, and nothing is lost."""

import os
import signal

import keras
import numpy as np
import pytest

from hushgrad.training.ledger import Ledger


@pytest.fixture(autouse=True)
def _listening():
    """Shells start what runs in the background deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_loses_no_weights(private, data, weights, monkeypatch):
    made, charge = private(), Ledger.charge

    def interrupted(self, step, mark=None):
        charge(self, step, mark)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Ledger, "charge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.fit(*data, batch_size=20, verbose=0)
    assert made.account.steps == 3
    assert all(np.isfinite(w).all() for w in weights(made))
    monkeypatch.undo()
    # As many steps as were charged: the third was made.
    again = private(seed=5)
    calls = []
    stop = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            calls.append(batch),
            os.kill(os.getpid(), signal.SIGINT) if batch == 1 else None,
        )
    )
    with pytest.raises(KeyboardInterrupt):
        again.fit(*data, batch_size=20, callbacks=[stop], verbose=0)
    assert again.account.steps == len(calls) == 2
