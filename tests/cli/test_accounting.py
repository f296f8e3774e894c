"""`hushgrad epsilon` and `hushgrad plan`: numbers, forms, mistakes."""
# ruff: noqa: SIM905

import json
import re

import pytest
from typer.testing import CliRunner

import hushgrad as hg
from hushgrad import accounting
from hushgrad.cli.app import app
from hushgrad.errors import HushgradError

TUTORIAL = ["--batch-size", "256", "--noise-multiplier", "1.1", "--epochs", "60"]


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"}, catch_exceptions=True)
    if isinstance(done.exception, HushgradError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_epsilon_shows_every_bound_and_the_statement():
    text = run("epsilon", "--examples", "60000", *TUTORIAL)
    for name, worth in [
        ("moments accountant", "3.0092"),
        ("RDP", "2.5967"),
        ("PLD", "2.3818"),
        ("naive composition", "5,446"),
    ]:
        assert re.search(rf"{name}\s+{re.escape(worth)}", text)
    m = hg.dp_sgd(examples=60_000, batch_size=256, noise_multiplier=1.1, epochs=60, delta=1e-5)
    assert m.statement() in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_the_flags_of_another_command():
    ours = run("epsilon", "--examples", "60000", *TUTORIAL, "--delta", "1e-6")
    theirs = ["--N", "60000", "--batch_size", "256", "--noise_multiplier", "1.1"]
    assert run("epsilon", *theirs, "--epochs", "60", "--delta", "1e-6") == ours


def test_shuffled_batches_microbatches_and_users():
    shuffled = ["--N", "10000", "--batch_size", "64", "--noise_multiplier", "2", "--epochs", "5"]
    more = ["--delta", "1e-6", "--sampling", "shuffle", "--used_microbatching"]
    text = run("epsilon", *shuffled, *more, "--max_examples_per_user", "3")
    # TensorFlow Privacy's own statement says 13.376 and 1.616.
    assert "epsilon = 13.3764" in text
    assert "epsilon = 1.6164" in text
    assert "the noise counts half here" in " ".join(text.split())
    assert "For a user with up to 3 examples" in text


def test_json_is_for_machines():
    facts = json.loads(run("epsilon", "--examples", "60000", *TUTORIAL, "--json"))
    names = [row["name"] for row in facts["bounds"]]
    assert names[0] == "naive composition"
    assert names.index("RDP") < names.index("PLD")
    assert facts["readings"][0]["epsilon"] == pytest.approx(2.3818, abs=1e-4)


def test_plan_solves_for_the_noise():
    text = run(*"plan --examples 60000 --epsilon 3 --batch-size 256 --epochs 60".split())
    noise = float(re.search(r"noise multiplier (\S+)", text)[1])
    spent = accounting.epsilon(accounting.poisson_gaussian(256 / 60_000, noise, 14_063), 1e-5)
    assert 2.99 < spent < 3.001
    assert "14,063 steps" in text


def test_plan_without_a_batch_size_is_a_table():
    text = run(*"plan --examples 5000 --epsilon 3 --delta 1e-5 --epochs 10".split())
    assert text.count("*") == 2  # the mark, and what it means
    rows = re.findall(r"^\s+([\d,]+)\s+([\d.]+) \(([\d.]+)\)", text, re.M)
    batches = [int(row[0].replace(",", "")) for row in rows]
    assert batches == [64, 128, 256, 512, 1024]
    assert [float(row[1]) for row in rows] == sorted(float(row[1]) for row in rows)
    found = json.loads(run(*"plan --N 5000 --epsilon 3 --epochs 10 --json".split()))
    assert [row["batch_size"] for row in found] == batches
    assert all(2.99 < row["epsilon"] <= 3 for row in found)


def test_mechanisms_are_compared_by_the_noise_in_sums():
    plan = "plan --examples 2000 --batch-size 100 --epochs 2 --epsilon 3 --compare".split()
    text = run(*plan)
    assert max(len(line) for line in text.splitlines()) <= 80
    rows = re.findall(r"^  (\S.*?)  +(\S.*?)  +(\S+) +(\S+) +(\S+) +(\d+) x *$", text, re.M)
    found = json.loads(run(*plan, "--json"))
    assert [row[:2] for row in rows] == [(m["name"], m["batches"]) for m in found["mechanisms"]], (
        text
    )
    errors = [m["squared_error"] for m in found["mechanisms"]]
    assert errors == sorted(errors)
    assert [float(row[3]) for row in rows] == [float(f"{e / errors[0]:.3g}") for e in errors]
    best = found["recommended"]
    assert (best["name"], best["batches"]) == ("BandMF", "random draws")
    assert best["reason"].startswith("Take BandMF on random draws: nobody knows who was drawn")
    assert "cannot be drawn at random: Dense on rows in order" in text.replace("\n", " ")
    # The call that is shown makes the mechanism that was compared.
    call = re.search(r"hg\.dp_banded\((.*?)\)", best["reason"].replace("\n", " "))[1]
    m = hg.dp_banded(**eval(f"dict({call})"))
    assert 2.99 < m.epsilon() < 3.001


def test_cohorts_that_are_given_are_compared_too():
    plan = "plan --examples 2000 --batch-size 100 --steps 40 --epsilon 3 --compare".split()
    text = run(*plan, "--min-separation", "10", "--max-participations", "2")
    assert re.search(r"\w+ on whoever comes", text.replace("\n", " "))
    assert "whoever comes" not in run(*plan)


def test_a_picture_of_the_bounds(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'hushgrad[plot]'")
    file = tmp_path / "bounds.png"
    settings = [
        "plan",
        "--examples",
        "1000",
        "--epsilon",
        "3",
        "--batch-size",
        "50",
        "--epochs",
        "5",
        "--plot",
    ]
    assert str(file) in run(*settings, str(file))
    assert file.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(HushgradError, match="plot cannot be written"):
        run(*settings, str(tmp_path / "none" / "bounds.png"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("epsilon --N 10 --batch_size 20 --noise_multiplier 1 --epochs 1", "--batch-size must"),
        (
            "epsilon --N 10 --batch_size 5 --noise_multiplier 0 --epochs 1",
            "--noise-multiplier must",
        ),
        ("epsilon --N 10 --batch_size 5 --noise_multiplier 1 --epochs 1 --sampling x", "poisson"),
        ("plan --examples 100 --epsilon -1", "^--epsilon must"),
        ("plan --examples 100 --epsilon 1 --delta 2", "^--delta must"),
        ("plan --examples 100 --epsilon 1 --accountant x", "^--accountant must"),
        ("plan --examples 100 --epsilon 1 --batch-size 200", "--batch-size must"),
        ("plan --examples 100 --epsilon 1 --compare", "--compare needs --batch-size"),
        ("plan --examples 100 --epsilon 1 --steps 3", "--steps, .* need --compare"),
    ],
)
def test_mistakes(arguments, said):
    with pytest.raises(HushgradError, match=said):
        run(*arguments.split())
