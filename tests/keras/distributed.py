"""A private training on several devices, in a process of its own: prints its weights.

    python distributed.py KIND

where KIND is "one", "data" or "model": no distribution, or one of Keras's.
"""

import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import keras
import numpy as np

import hushgrad as hg

kind = sys.argv[1]
if kind == "data":
    keras.distribution.set_distribution(keras.distribution.DataParallel())
elif kind == "model":
    mesh = keras.distribution.DeviceMesh((2, 4), ["batch", "model"])
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*dense.*kernel"] = ("model", None)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    )
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x = rng.normal(size=(203, 8)).astype(np.float32)
y = (x[:, 0] > 0).astype(np.int32)
stack = [keras.layers.Dense(1024, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(4)]
model = keras.Sequential([keras.Input((8,)), *stack])
private = hg.keras.privatize(
    model, clip=1.0, noise_multiplier=1.0, delta=1e-3, seed=1, block_size=16, ledger=sys.argv[2]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
private.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"])
private.fit(x, y, batch_size=40, epochs=2, verbose=0)
kernel = model.layers[0].kernel.value
print(len(kernel.sharding.device_set), kernel.sharding.is_fully_replicated, jax.device_count())
print(private.epsilon())
# Floating-point operations of one device for a release, most of them of noise.
step = next(iter(private._steps.values()))
kept = [
    [v.value for v in variables]
    for variables in (
        private.trainable_variables,
        private.non_trainable_variables,
        private.optimizer.variables,
    )
]
key, carried = np.arange(8, dtype=np.uint32), (None, step.noise(kept[0], step._mechanism))
places = step._layout.places((*kept, carried))
lowered = step._releasing.lower(*kept, step.zeros(kept[0]), key, carried, places=places)
print(lowered.compile().cost_analysis()["flops"])
for value in private.get_weights():
    print(*value.ravel().tolist())
