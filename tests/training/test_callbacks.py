"""Scores, logs and exports; what carries no noise says so."""

import json

import numpy as np
import pytest
from jobs import EXAMPLES, Stop, mechanism
from safetensors import safe_open
from tensorboardX.proto import event_pb2

import hushgrad as hg
from hushgrad.errors import InputError
from hushgrad.training.checkpoint import Checkpoints
from hushgrad.training.secret import RunSecret

SCORES = {2: 0.1, 4: 0.5, 6: 0.3, 8: 0.5, 10: 0.2, 12: 0.4}


def scored(**settings):
    """A validation that gives the scores above by the number of calls, and what it saw."""
    seen = []

    def score(params):
        seen.append(np.asarray(params["w"]).copy())
        return SCORES[2 * len(seen) + score.skipped]

    score.skipped = 0
    return hg.callbacks.Validation(score, every=2, **{"public": True, **settings}), seen, score


def test_the_best_is_kept_and_the_run_goes_on(train):
    best, seen, _ = scored()
    run = train(callback=best)
    assert best.history == sorted(SCORES.items())
    assert (best.score, best.step) == (0.5, 4)  # the first of two as good
    np.testing.assert_array_equal(best.params["w"], seen[1])
    assert run.steps == 12
    assert run.validation == "public"
    assert "on a public set that is no part of" in " ".join(run.statement().split())


def test_patience_ends_the_run(train):
    best, _, _ = scored(patience=2, public=False)
    run = train(callback=best)
    assert run.steps == best.history[-1][0] == 8
    assert run.epsilon == mechanism().epsilon(steps=8)
    text = " ".join(run.statement().split())
    assert "on a private set that is no part of" in text
    assert "8 steps" in text
    # It is over: the same call gives the same run.
    again = train(callback=scored(patience=2, public=False)[0])
    np.testing.assert_array_equal(again.params["w"], run.params["w"])
    assert (again.steps, again.validation) == (8, "private")


@pytest.mark.parametrize("sets", [(False, True), (True, False)])
def test_a_private_validation_set_is_told_beside_a_public_one(train, sets):
    both = [hg.callbacks.Validation(lambda p: 0.0, public=public, every=5) for public in sets]
    assert train(callback=both).validation == "private"


def test_an_interrupted_run_keeps_its_best(train, tmp_path):
    whole, _, _ = scored()
    train(seed=3, callback=whole, directory=tmp_path / "whole")
    first, _, _ = scored()

    def stop(progress):
        if progress.step == 7:
            raise Stop

    with pytest.raises(Stop):
        train(seed=3, callback=[first, stop])
    second, _, score = scored()
    score.skipped = 4  # it goes on after the checkpoint of step 5: the next score is that of 6
    train(seed=3, callback=[second])
    assert second.history == whole.history
    assert (second.score, second.step) == (whole.score, whole.step)
    np.testing.assert_array_equal(second.params["w"], whole.params["w"])


def test_the_average_is_what_is_scored_where_there_is_one(train):
    seen = []
    best = hg.callbacks.Validation(
        lambda p: seen.append(np.asarray(p["w"])) or 1.0, public=True, every=12
    )
    run = train(callback=best, average=0.9)
    np.testing.assert_array_equal(seen[-1], run.average["w"])


def test_lines_of_json(train, tmp_path):
    file = tmp_path / "logs" / "run.jsonl"
    train(callback=hg.callbacks.JsonLines(file, every=5))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert lines[-1]["epsilon"] == mechanism().epsilon()
    unprotected = lines[0]["unprotected"]
    assert set(unprotected) == {"loss", "examples", "clipped", "nonfinite", "sum_norm"}
    assert set(lines[0]) == {"run", "step", "epsilon", "delta", "noise_norm", "unprotected"}
    assert 0 <= unprotected["clipped"] <= unprotected["examples"] <= EXAMPLES
    assert file.stat().st_mode & 0o777 == 0o600


def test_norms_of_the_sum_and_of_the_noise(train, data, tmp_path):
    """No norm of the sum exceeds what the clip lets through; that of the noise is expected."""
    seen, file = [], tmp_path / "run.jsonl"

    def norm(progress):
        grads = progress.unprotected_sums.grads
        flat = np.concatenate([np.ravel(grads[name]) for name in ("w", "b")])
        seen.append((np.linalg.norm(flat), progress.unprotected_examples))

    train(
        callback=hg.callbacks.JsonLines(file, every=1),
        audit=hg.audit.Canaries(32),
        data=tuple(np.concatenate([part, part]) for part in data),
        mechanism=mechanism(examples=2 * EXAMPLES, batch_size=30),
        directory=tmp_path / "audited",
    )
    for line in map(json.loads, file.read_text().splitlines()):
        # What an audit adds beside the sum is no part of it.
        facts = line["unprotected"]
        assert facts["sum_norm"] <= facts["examples"] * (1 + 1e-6)
    train(callback=[norm, hg.callbacks.JsonLines(file, every=1)], directory=tmp_path / "plain")
    lines = [json.loads(line) for line in file.read_text().splitlines()][-12:]
    for line, (expected, examples) in zip(lines, seen, strict=True):
        assert line["unprotected"]["sum_norm"] == pytest.approx(expected, rel=1e-5)
        assert expected <= examples * mechanism().clip.sensitivity * (1 + 1e-6)
        assert line["noise_norm"] == pytest.approx(mechanism().noise_stddev * np.sqrt(5))


def test_scores_in_lines_of_json(train, tmp_path):
    file = tmp_path / "run.jsonl"
    log = hg.callbacks.JsonLines(file, every=5, score=lambda p: 0.5, public=False, score_every=4)
    run = train(callback=log)
    assert run.validation is None  # they chose nothing
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 5, 8, 10, 12]
    assert [line.get("score") for line in lines] == [0.5, None, 0.5, None, 0.5]
    assert lines[0]["score_set"] == "private"
    with pytest.raises(InputError, match="public must be True or False"):
        hg.callbacks.JsonLines(file, score=lambda p: 0.5)
    with pytest.raises(InputError, match="score must be a function"):
        hg.callbacks.JsonLines(file, score=3, public=True)


def test_lines_of_repeated_steps_are_replaced(train, tmp_path):
    file = tmp_path / "run.jsonl"
    log = hg.callbacks.JsonLines(file, every=1)

    def stop(progress):
        if progress.step == 8:
            raise Stop

    with pytest.raises(Stop):
        train(callback=[log, stop])
    with file.open("a") as stream:
        stream.write('{"run": "another", "step": 9}\n{"step": 9, "eps')
    train(callback=[log])
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines if line["run"] != "another"] == list(range(1, 13))
    assert {"run": "another", "step": 9} in lines


def points(folder):
    """All scalars in TensorBoard's files: records of length, check, event, check."""
    found = {}
    for file in sorted(folder.glob("events*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
            at += 16 + length
    return found


def test_tensorboard(train, tmp_path):
    train(callback=hg.callbacks.TensorBoard(tmp_path / "tb", every=6))
    found = points(tmp_path / "tb")
    assert {step for _, step in found} == {6, 12}
    assert found["privacy/epsilon", 12] == pytest.approx(mechanism().epsilon(), rel=1e-6)
    assert {tag for tag, _ in found} == {
        "privacy/epsilon",
        "unprotected/loss",
        "unprotected/clipped",
        "unprotected/nonfinite",
        "unprotected/examples",
        "unprotected/sum_norm",
    }


def test_exported_parameters_carry_their_statement(train, tmp_path):
    run = train(average=0.9)
    for average, want in ((False, run.params), (True, run.average)):
        file = run.export(tmp_path / "out" / f"{average}.safetensors", average=average)
        with safe_open(file, "numpy") as stored:
            assert set(stored.keys()) == {"w", "b"}
            np.testing.assert_array_equal(stored.get_tensor("w"), want["w"])
            metadata = stored.metadata()
        assert metadata["privacy_statement"] == run.statement()
        facts = json.loads(metadata["privacy_facts"])
        assert facts["readings"][0]["epsilon"] == run.epsilon
        # No secret in it, nor anything un-noised.
        assert "secret" not in file.read_bytes().decode("latin1").replace("holds the secret", "")
    with pytest.raises(InputError, match="average=True needs"):
        train(directory=tmp_path / "other").export(tmp_path / "x", average=True)


def test_a_bar_for_people_and_lines_for_files(train, tmp_path):
    from io import StringIO

    from rich.console import Console

    for terminal in (False, True):
        out = StringIO()
        console = Console(file=out, force_terminal=terminal, width=80, color_system=None)
        with pytest.raises(Stop):
            train(
                callback=[hg.callbacks.ProgressBar(console), stop_at(8)],
                directory=tmp_path / str(terminal),
            )
        train(callback=hg.callbacks.ProgressBar(console), directory=tmp_path / str(terminal))
        text = out.getvalue()
        assert "Going on after step 5." in text
        assert f"epsilon {mechanism().epsilon():.3f}" in text
        assert "/s" in text or not terminal
        assert ("step 12 of 12: loss" in text) == (not terminal)


def stop_at(step):
    def stop(progress):
        if progress.step == step:
            raise Stop

    return stop


def test_the_secret_is_in_its_file_alone(train, tmp_path):
    """Neither it nor what steps derive from it is in a ledger, a log, a checkpoint or an export."""
    callbacks = [
        hg.callbacks.JsonLines(tmp_path / "log.jsonl", every=1),
        hg.callbacks.TensorBoard(tmp_path / "tb", every=1),
        hg.callbacks.Validation(lambda p: 0.0, public=True, every=2),
    ]
    url = f"sqlite:///{tmp_path / 'b.sqlite'}"
    budget = hg.Budget("b", 100.0, 1e-3, url=url)
    with pytest.raises(Stop):
        train(callback=[*callbacks, stop_at(7)], budget=budget)
    file = tmp_path / "run" / "secret.key"
    assert file.stat().st_mode & 0o777 == 0o600
    secret = RunSecret(bytes.fromhex(file.read_text().strip()))
    known = [secret.content]
    known += [secret.derive(what, t) for what in ("noise", "batch", "rows") for t in range(12)]
    train(callback=callbacks, budget=budget).export(tmp_path / "out.safetensors")
    assert not file.exists()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        for secret_bytes in known:
            for form in (secret_bytes, secret_bytes.hex().encode(), secret_bytes[:16]):
                assert form not in content, path


def test_no_step_is_left_untold_by_a_crash_at_a_checkpoint(train, monkeypatch):
    """Killed just when a checkpoint is on disk: the step before it was told already."""
    told, save = [], Checkpoints.save

    def saved_then_killed(self, step, state):
        save(self, step, state)
        if step == 12 and not told.count("killed"):
            told.append("killed")
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", saved_then_killed)
    with pytest.raises(KeyboardInterrupt):
        train(callback=lambda p: told.append(p.step))
    train(callback=lambda p: told.append(p.step))
    assert {step for step in told if step != "killed"} == set(range(1, 13))


def test_several_callbacks_in_turn(train):
    order = []
    train(callback=[lambda p: order.append(("a", p.step)), lambda p: order.append(("b", p.step))])
    assert order[:4] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    with pytest.raises(InputError, match="callback must be a function"):
        train(callback=[print, 3])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"score": 3}, "score must be a function"),
        ({"public": "yes"}, "public must be True or False"),
        ({"every": 0}, "every must be a whole number"),
        ({"patience": 0}, "patience must be a whole number"),
    ],
)
def test_validations_that_are_none(wrong, told):
    with pytest.raises(InputError, match=told):
        hg.callbacks.Validation(**{"score": max, "public": True, "every": 1, **wrong})
