"""Models that people use: of keras.applications and keras_hub, small and untrained."""

import keras
import numpy as np
import pytest

import hushgrad as hg

CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def trained(model, x, y, steps=2, loss=CROSSENTROPY):
    before = [np.array(v.value) for v in model.trainable_variables]
    made = hg.keras.privatize(model, clip=1.0, noise_multiplier=0.5, delta=1e-3, block_size=4)
    made.compile(keras.optimizers.SGD(0.1), loss)
    made.fit(x, y, batch_size=4, steps_per_epoch=steps, verbose=0)
    after = [np.array(v.value) for v in model.trainable_variables]
    assert all(np.isfinite(a).all() for a in after)
    assert not any(np.array_equal(a, b) for a, b in zip(after, before, strict=True))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VGG16", "ConvNeXtTiny"])
def test_applications(name):
    backbone = getattr(keras.applications, name)(
        weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg"
    )
    model = keras.Sequential([backbone, keras.layers.Dense(2)])
    x = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
    trained(model, x, np.arange(8) % 2, steps=1)


@pytest.mark.slow
def test_an_application_whose_batchnorm_is_replaced():
    backbone = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg", alpha=0.35
    )
    model = keras.Sequential([hg.keras.replace_batchnorm(backbone), keras.layers.Dense(2)])
    x = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
    trained(model, x, np.arange(8) % 2, steps=1)


@pytest.fixture
def hub():
    return pytest.importorskip(
        "keras_hub", reason="needs KerasHub, which brings TensorFlow: pip install keras-hub"
    )


def tokens(vocabulary=50, length=12):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, vocabulary, (16, length)).astype(np.int32)
    mask = np.arange(length) < rng.integers(4, length, (16, 1))
    return ids, mask.astype(np.int32)


def test_bert(hub):
    backbone = hub.models.BertBackbone(
        vocabulary_size=50,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=12,
    )
    model = hub.models.BertTextClassifier(backbone=backbone, num_classes=2, preprocessor=None)
    ids, mask = tokens()
    x = {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": mask}
    trained(model, x, np.arange(16) % 2)


@pytest.mark.parametrize("name", ["gpt2", "gemma"])
@pytest.mark.parametrize("adapters", [False, True])
def test_language_models(hub, name, adapters):
    if name == "gpt2":
        backbone = hub.models.GPT2Backbone(
            vocabulary_size=50,
            num_layers=1,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=16,
            max_sequence_length=12,
        )
        model = hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    else:
        backbone = hub.models.GemmaBackbone(
            vocabulary_size=50,
            num_layers=1,
            num_query_heads=2,
            num_key_value_heads=1,
            hidden_dim=8,
            intermediate_dim=16,
            head_dim=4,
        )
        model = hub.models.GemmaCausalLM(backbone=backbone, preprocessor=None)
    if adapters:
        backbone.enable_lora(2)
    ids, mask = tokens()
    made = trained(model, {"token_ids": ids, "padding_mask": mask}, np.roll(ids, -1, 1))
    assert any("lora" in v.path for v in made.trainable_variables) == adapters
