"""A small pre-trained decoder, as a preset of KerasHub: the stand-in for a checkpoint.

    python examples/lora_checkpoint.py --data-dir DATA [--output runs/lora/checkpoint]

Trained without privacy on what is public: Shakespeare's histories and tragedies. Its tokens are
learned from the same plays, so nothing of it has seen the fourteen comedies, which `lora.py`
takes for private. A folder that Gemma's or Llama's `save_to_preset` made takes its place there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import characters
import numpy as np
import tokenizers  # pyright: ignore[reportMissingImports]

import hushgrad.keras  # noqa: F401  # isort: skip  (which finds Keras's backend)
import keras  # isort: skip
import keras_hub  # isort: skip  # pyright: ignore[reportMissingImports]

# Those of the First Folio.
COMEDIES = (
    "allswellthatendswell",
    "asyoulikeit",
    "comedyoferrors",
    "loveslabourslost",
    "measureforemeasure",
    "merchantofvenice",
    "merrywivesofwindsor",
    "midsummersnightsdream",
    "muchadoaboutnothing",
    "tamingoftheshrew",
    "tempest",
    "twelfthnight",
    "twogentlemenofverona",
    "winterstale",
)
END = "<|endoftext|>"


def roles(data_dir: Path, comedies: bool) -> dict[str, str]:
    """What each role of the comedies, or of all other plays, says."""
    found = characters.plays(data_dir / "shakespeare_plays" / "plays.tar.xz")
    return {
        f"{play}/{role}": said
        for play, spoken in sorted(found.items())
        for role, said in sorted(spoken.items())
        # Headings of scenes look like speeches in that archive.
        if (play in COMEDIES) == comedies and not role.startswith(("ACT ", "SCENE"))
    }


def tokenizer_of(texts: Iterable[str], size: int) -> Any:
    """Byte pairs that are frequent in public texts."""
    learned = tokenizers.Tokenizer(tokenizers.models.BPE())
    learned.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learned.train_from_iterator(texts, trainer)
    model = json.loads(learned.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    return keras_hub.models.GPT2Tokenizer(vocabulary=model["vocab"], merges=merges)


def decoder(words: int, length: int, width: int, layers: int, preprocessor: Any = None) -> Any:
    """GPT-2 in small, untrained."""
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=words,
        num_layers=layers,
        num_heads=4,
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=length,
        dropout=0.0,
    )
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor)


def pretrained(
    texts: Iterable[str],
    *,
    size: int = 512,
    length: int = 64,
    width: int = 96,
    layers: int = 2,
    epochs: int = 2,
    batch_size: int = 32,
    verbose: Any = 2,
) -> Any:
    """A decoder trained, without privacy, on public texts."""
    texts = list(texts)
    tokenizer = tokenizer_of(texts, size)
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=length)
    lm = decoder(tokenizer.vocabulary_size(), length, width, layers, preprocessor)
    ids = np.concatenate([np.asarray(tokenizer(text + "\n\n"), np.int32) for text in texts])
    rows = characters.windows(ids, length)
    x = {"token_ids": rows[:, :-1], "padding_mask": np.ones_like(rows[:, :-1])}
    steps = -(-len(rows) // batch_size) * epochs
    rate: Any = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=3e-3, warmup_steps=min(100, steps // 10), alpha=0.05
    )
    # KerasHub's own fit would ask for TensorFlow or Grain, to read texts.
    model = keras.Model(lm.input, lm.output)
    model.compile(
        keras.optimizers.AdamW(rate, beta_2=0.99, weight_decay=0.01, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, rows[:, 1:], batch_size=batch_size, epochs=epochs, verbose=verbose)
    return lm


def make(data_dir: Path, folder: str, epochs: int = 2) -> None:
    """Trains the decoder on the public plays and saves it."""
    keras.utils.set_random_seed(0)
    lm = pretrained(roles(data_dir, comedies=False).values(), epochs=epochs)
    part = Path(f"{folder}.part")
    lm.save_to_preset(str(part))
    part.rename(folder)  # so that a folder of that name is whole
    print(f"{lm.count_params():,} parameters, saved to {folder}")


def main() -> None:
    """Trains the decoder and saves it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("runs/lora/checkpoint"))
    args = parser.parse_args()
    make(args.data_dir, str(args.output), args.epochs)


if __name__ == "__main__":
    main()
