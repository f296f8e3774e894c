"""What `lora.py` does with text: windows of tokens, perplexity, writing, and what it copied."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

import hushgrad.keras  # noqa: F401  # isort: skip  (which finds Keras's backend)
import keras  # isort: skip
import keras_hub  # isort: skip  # pyright: ignore[reportMissingImports]


class Windows(NamedTuple):
    """Text as rows of tokens, each to be foreseen from those before it in its row.

    Attributes:
      x: the tokens and a mask of those that are there, as KerasHub's models take them.
      y: the token after each.
      weight: one where `y` is there, else zero.
      who: whose each row is.
      letters: characters in all of `y`.
    """

    x: dict[str, np.ndarray]
    y: np.ndarray
    weight: np.ndarray
    who: np.ndarray
    letters: int

    def some(self, rows: Any) -> Windows:
        """Those rows alone; `letters` is the share of them by tokens."""
        weight = self.weight[rows]
        letters = round(self.letters * float(weight.sum() / self.weight.sum()))
        x = {name: part[rows] for name, part in self.x.items()}
        return Windows(x, self.y[rows], weight, self.who[rows], letters)


def windows(tokenizer: Any, texts: Mapping[str, str], length: int) -> Windows:
    """Each one's text, cut into rows of `length` tokens; the last is filled up.

    Where the tokenizer has a token to start with that is not the one that it ends with (Gemma,
    Llama), each row starts with it; else with the last token of the row before.
    """
    first = start_token(tokenizer)
    rows, lengths, who, letters = [], [], [], 0
    for name, text in texts.items():
        ids = np.asarray(tokenizer(text), np.int32)
        if len(ids) < 2:
            continue
        letters += len(text) - (0 if first is not None else len(tokenizer.detokenize(ids[:1])))
        ahead = 0 if first is not None else 1
        for begin in range(0, len(ids) - ahead, length):
            body = ids[begin : begin + length + ahead]
            row = body if first is None else np.concatenate([[first], body])
            rows.append(np.pad(row, (0, length + 1 - len(row))))
            lengths.append(len(row) - 1)
            who.append(name)
    table = np.array(rows, np.int32).reshape(-1, length + 1)
    there = np.arange(length) < np.array(lengths).reshape(-1, 1)
    x = {"token_ids": table[:, :-1], "padding_mask": there.astype(np.int32)}
    return Windows(x, table[:, 1:], there.astype(np.float32), np.array(who), letters)


def start_token(tokenizer: Any) -> int | None:
    """The token that a text starts with, where that is not also the one that it ends with."""
    first = getattr(tokenizer, "start_token_id", None)
    return None if first is None or first == getattr(tokenizer, "end_token_id", None) else first


def parted(
    texts: Mapping[str, str], shares: tuple[float, float], seed: int = 0
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Whole roles to train with, to choose settings by, and to test with."""
    names = sorted(texts)
    np.random.default_rng(seed).shuffle(names)
    choose, test = (round(share * len(names)) for share in shares)
    parts = names[choose + test :], names[:choose], names[choose : choose + test]
    first, second, third = ({name: texts[name] for name in part} for part in parts)
    return first, second, third


def losses(model: keras.Model, data: Windows, block: int = 64) -> np.ndarray:
    """Nats of each row."""
    found = []
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    for begin in range(0, len(data.y), block):
        rows = slice(begin, begin + block)
        logits = model.predict_on_batch({name: part[rows] for name, part in data.x.items()})
        each = np.asarray(loss(data.y[rows], np.asarray(logits, np.float32)))
        found.append((each * data.weight[rows]).sum(axis=1))
    return np.concatenate(found)


class Measured(NamedTuple):
    """How well text is foreseen.

    Attributes:
      perplexity: exp of the mean nats of a token.
      bits: of a character, which compares between tokenizers.
      roles: nats of each role, and its tokens.
    """

    perplexity: float
    bits: float
    roles: dict[str, tuple[float, float]]


def measured(model: keras.Model, data: Windows) -> Measured:
    """How well a model foresees text."""
    nats, tokens = losses(model, data).astype(np.float64), data.weight.sum(axis=1)
    roles = {
        str(name): (float(nats[data.who == name].sum()), float(tokens[data.who == name].sum()))
        for name in np.unique(data.who)
    }
    bits = nats.sum() / math.log(2) / data.letters
    return Measured(float(np.exp(nats.sum() / tokens.sum())), float(bits), roles)


def written(lm: Any, count: int, length: int, *, seed: int, block: int = 128) -> list[str]:
    """Texts that a decoder writes, drawn as it weighs them (temperature 1).

    Each fills a window of `length` tokens, of which the first is the one that texts start with,
    or a new line; that is not part of what is returned.
    """
    tokenizer = lm.preprocessor.tokenizer
    first = start_token(tokenizer)
    begin = np.asarray(tokenizer("\n"), np.int32) if first is None else np.array([first], np.int32)
    writer = type(lm)(backbone=lm.backbone, preprocessor=None)
    writer.compile(sampler=keras_hub.samplers.RandomSampler(temperature=1.0, seed=seed))
    ids = np.zeros((block, length), np.int32)
    ids[:, : len(begin)] = begin
    given = np.broadcast_to(np.arange(ids.shape[1]) < len(begin), ids.shape).astype(np.int32)
    texts: list[str] = []
    while len(texts) < count:
        out = writer.generate({"token_ids": ids, "padding_mask": given}, stop_token_ids=None)
        rows = np.asarray(out["token_ids"])[:, len(begin) :]
        texts += [str(tokenizer.detokenize(row)) for row in rows]
    return texts[:count]


def longest_copy(texts: Iterable[str], source: str) -> str:
    """The longest stretch of characters that stands in one of the texts and in the source."""
    texts = list(texts)

    def copied(length: int) -> str | None:
        known = {source[i : i + length] for i in range(len(source) - length + 1)}
        for text in texts:
            for i in range(len(text) - length + 1):
                if text[i : i + length] in known:
                    return text[i : i + length]
        return None

    low, high, found = 0, max(map(len, texts), default=0), ""
    while low < high:
        middle = (low + high + 1) // 2
        piece = copied(middle)
        if piece is None:
            high = middle - 1
        else:
            low, found = middle, piece
    return found
