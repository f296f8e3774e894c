"""The planner's page: its numbers, its code, who may see it, and how it works in a browser."""

import contextlib
import dataclasses
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest
from browser import browser, opened  # noqa: F401
from typer.testing import CliRunner

import hushgrad as hg
from hushgrad import accounting
from hushgrad.cli.app import app
from hushgrad.cli.planner.facts import Settings, code, facts, noise_for, ways
from hushgrad.errors import InputError

pytest.importorskip("nicegui", reason="needs hushgrad[ui]")

START = Settings(examples=5000, batch_size=100, epochs=10, noise_multiplier=1.3, delta=1e-4)


def mechanism(settings: Settings) -> hg.Mechanism:
    return hg.dp_sgd(**dataclasses.asdict(settings))


def test_facts_are_the_library_s():
    m, found = mechanism(START), facts(START)
    assert found.epsilon == m.epsilon()
    assert (found.steps, found.sampling_rate) == (500, 0.02)
    assert found.noise_to_batch == pytest.approx(0.013)
    # Who guesses by the most that any test can tell apart: half, and half the total variation.
    assert found.success == pytest.approx(0.5 + accounting.delta(m, 0.0) / 2)
    assert found.certainty == pytest.approx(accounting.posterior(m, 1e-4))
    assert not found.warnings
    assert ways(START) == accounting.bounds(m, 1e-4)


def test_an_attacker_s_success_is_that_of_the_gaussian_mechanism():
    # Everybody in one step: a Gaussian with noise 2, told apart in total variation
    # Phi(1/4) - Phi(-1/4) = 0.19741.
    one = Settings(examples=100, batch_size=100, epochs=1, noise_multiplier=2.0, delta=1e-3)
    assert facts(one).success == pytest.approx(0.5 + 0.19741 / 2, abs=1e-4)


def test_what_there_is_to_say_against_a_plan_is_shown():
    assert any("delta" in said for said in facts(dataclasses.replace(START, delta=1e-2)).warnings)


def test_the_noise_that_is_found_keeps_epsilon():
    noise = noise_for(START, 2.0)
    assert facts(dataclasses.replace(START, noise_multiplier=noise)).epsilon <= 2.0
    less = dataclasses.replace(START, noise_multiplier=noise - 2e-3)
    assert facts(less).epsilon > 2.0


def test_the_python_code_is_the_plan():
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as told:
        exec(code(START)["Python"], names)
    assert names["m"] == mechanism(START)
    assert "epsilon" in told.getvalue()


def test_the_command_is_the_plan():
    words = shlex.split(code(START)["Command line"].replace("\\\n", ""))
    assert words[0] == "hushgrad"
    told = json.loads(CliRunner().invoke(app, [*words[1:], "--json"]).stdout)
    tight = next(row["epsilon"] for row in told["bounds"] if row["name"] == "PLD")
    assert tight == facts(START).epsilon


def test_the_code_for_keras_is_the_plan(capsys):
    import hushgrad.keras  # noqa: F401, I001
    import keras
    import numpy as np

    # An epoch of 7.5 batches: Keras makes 8 of it, and the code says what that costs.
    start = Settings(examples=60, batch_size=8, epochs=2, noise_multiplier=1.3, delta=1e-3)
    written = code(start)["Keras"]
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
    names = {"model": model, "x": np.zeros((60, 3), "float32"), "y": np.zeros(60, "int32")}
    exec(written.replace("y, batch", "y, verbose=0, batch"), names)
    assert f"8 steps: epsilon {names['private'].epsilon():.4g}\n" in written
    assert "1.3" in capsys.readouterr().out
    even = dataclasses.replace(start, batch_size=10)
    assert "rounds" not in code(even)["Keras"]


# Who may see it.

PORT = 8123
GOOD = {"host": f"127.0.0.1:{PORT}"}


@pytest.fixture(scope="module")
def client():
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.testclient import TestClient

    from hushgrad.cli.planner.guard import Guard

    async def page(request):
        return PlainTextResponse("secret page")

    async def talk(websocket):
        await websocket.accept()
        await websocket.send_text("secret words")
        await websocket.close()

    inner = Starlette(routes=[Route("/", page), WebSocketRoute("/talk", talk)])
    return TestClient(Guard(inner, "the-token", PORT), base_url=f"http://127.0.0.1:{PORT}")


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("/", GOOD),
        ("/?token=", GOOD),
        ("/?token=the-tokem", GOOD),
        ("/?token=the-token", {"host": f"evil.example:{PORT}"}),
        ("/?token=the-token", {"host": f"127.0.0.1:{PORT + 1}"}),
        ("/?token=the-token", {**GOOD, "origin": "http://evil.example"}),
        ("/?token=the-token", {**GOOD, "origin": "null"}),
        ("/", {**GOOD, "cookie": f"hushgrad-planner-{PORT}=guess"}),
    ],
)
def test_who_has_no_token_or_comes_from_elsewhere_sees_nothing(client, address, headers):
    answer = client.get(address, headers=headers)
    assert answer.status_code == 403
    assert "secret" not in answer.text
    assert "the-token" not in str(answer.headers)


def test_the_token_opens_the_page_and_is_kept_where_scripts_cannot_read_it(client):
    answer = client.get("/?token=the-token", headers=GOOD)
    assert answer.text == "secret page"
    kept = answer.headers["set-cookie"]
    assert "HttpOnly" in kept
    assert "SameSite=Strict" in kept
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    again = client.get("/", headers={**GOOD, "cookie": kept.partition(";")[0]})
    assert again.text == "secret page"
    assert "set-cookie" not in again.headers
    client.cookies.clear()


def test_sockets_are_guarded_too(client):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect) as refused:
        client.websocket_connect("/talk", headers=GOOD).__enter__()
    assert refused.value.code == 1008
    with client.websocket_connect("/talk?token=the-token", headers=GOOD) as connected:
        assert connected.receive_text() == "secret words"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("plan --ui --examples 100 --batch-size 200", "--batch-size must"),
        ("plan --ui --epochs 2.5", "--epochs must be whole"),
        ("plan --ui --port 99999", "port 99999 cannot be served on"),
        ("plan --port 8000", "--port needs --ui"),
        ("plan --epsilon 3", "--examples must be given"),
        ("plan --examples 300", "--epsilon must be given"),
    ],
)
def test_mistakes_end_it_before_anything_is_served(arguments, said):
    failed = CliRunner().invoke(app, arguments.split()).exception
    assert isinstance(failed, InputError)
    assert said in str(failed)


# In a browser.


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a page that a process of its own serves."""
    folder = tmp_path_factory.mktemp("planner")
    given = ["--json", "--examples", "5000", "--batch-size", "100", "--epochs", "10"]
    command = [sys.executable, "-m", "hushgrad", "plan", "--ui", *given, "--epsilon", "2"]
    # NiceGUI serves nothing where it believes that it is being tested itself.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    served = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=env)
    assert served.stdout is not None
    url = json.loads(served.stdout.readline())["url"]
    port = int(url.partition("127.0.0.1:")[2].partition("/")[0])
    for _ in range(300):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.1)
    yield url
    served.send_signal(signal.SIGINT)
    assert served.wait(20) in (0, 130)
    assert not list(folder.iterdir()), "something was left behind"


@pytest.fixture
def page(browser, address):  # noqa: F811
    with opened(browser, address) as found:
        found.page.wait_for_selector("table.ways")
        yield found
        assert not found.errors
        assert not found.outside


def epsilon(found) -> float:
    return float(found.page.inner_text("#epsilon"))


def test_the_page_starts_with_what_was_given(page):
    assert 1.98 < epsilon(page) <= 2.0
    rows = page.page.locator("table.ways tbody tr").all_inner_texts()
    assert len(rows) == len(ways(START))
    assert "60,000" not in page.page.content()


def test_moving_a_slider_moves_everything(page):
    before = epsilon(page)
    slider = page.page.get_by_label("Noise multiplier, slider").locator("[tabindex]")
    slider.focus()
    for _ in range(40):
        page.page.keyboard.press("ArrowRight")
    page.page.wait_for_function(f"Number(document.querySelector('#epsilon').innerText) < {before}")
    # It comes to rest: what the table and the code say is what the number is of.
    page.page.wait_for_function(
        "document.querySelector('tr.tight td').innerText =="
        " document.querySelector('#epsilon').innerText"
    )
    noise = float(page.page.get_by_label("Noise multiplier", exact=True).input_value())
    settings = dataclasses.replace(START, noise_multiplier=noise, delta=1e-5)
    assert epsilon(page) == pytest.approx(facts(settings).epsilon, rel=1e-3)
    assert f"noise_multiplier={noise}" in page.page.locator("pre").first.inner_text()


def test_numbers_are_typed_and_mistakes_are_told(page):
    field = page.page.get_by_label("Delta", exact=True)
    field.fill("1e-7")
    field.press("Enter")
    page.page.wait_for_function("document.querySelector('#epsilon').innerText > 2.1")
    field.fill("2")
    field.press("Enter")
    page.page.wait_for_selector(".warning >> text=delta must lie strictly between 0 and 1")
    assert page.page.inner_text("#epsilon") == "—"
    field.fill("<b>x</b>")
    field.press("Enter")
    page.page.wait_for_selector(".warning >> text=Delta must be a number, got '<b>x</b>'")


def test_the_noise_for_an_epsilon_is_found(page):
    page.page.get_by_label("Epsilon to keep").fill("1")
    page.page.get_by_role("button", name="Find the noise").click()
    page.page.wait_for_function("document.querySelector('#epsilon').innerText <= 1")
    assert epsilon(page) > 0.98


def test_what_is_copied_is_what_is_shown(page):
    page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.page.get_by_role("tab", name="Command line").click()
    page.page.get_by_role("button", name="Copy: Command line").click(force=True)
    copied = page.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("hushgrad epsilon --examples 5000 --batch-size 100")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_reads_on_a_phone_and_by_a_screen_reader(browser, address, theme):  # noqa: F811
    with opened(browser, address, width=360, theme=theme) as found:
        found.page.wait_for_selector("table.ways")
        assert found.overflow == 0
        assert found.violations() == []
        assert not found.errors


def test_its_own_policy_lets_the_page_work(browser, address):  # noqa: F811
    context = browser.new_context()
    said = []
    shown = context.new_page()
    shown.on("console", lambda message: said.append(message.text))
    shown.goto(address)
    shown.wait_for_selector("table.ways")
    refused = shown.evaluate("fetch('http://127.0.0.1:1/').then(() => 0, () => 1)")
    context.close()
    assert refused
    # That one alone was held back.
    assert len(said) == len([text for text in said if "127.0.0.1:1/" in text]) > 0


def test_other_machines_are_not_served(address):
    port = int(address.partition("127.0.0.1:")[2].partition("/")[0])
    others = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None)}
    others -= {one for one in others if one.startswith("127.") or one == "::1"}
    for other in others:
        with pytest.raises(OSError), socket.create_connection((other, port), 2):  # noqa: PT011
            pass
