"""The editor in headless Chromium: every control is used. No console message, no request to another host, in any test."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from editor_server import EditorServer, draw, png
from PIL import Image

from anycost.runtime.server.app import create_app
from anycost.runtime.server.errors import OverloadedError
from anycost.runtime.server.settings import Settings

CHROMIUM = "/usr/bin/chromium"
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
expect = playwright.expect
expect.set_options(timeout=15_000)  # a busy machine takes its time, and a page that is right costs none of it
pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs Chromium at {CHROMIUM}")
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    # Of the module: while it is open, no other test of this process could run an event loop.
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def server(request):
    real = getattr(request, "param", "") == "real"
    server = RealServer(request.getfixturevalue("tiny_bundle")) if real else EditorServer()
    with server.running():
        yield server


class RealServer(EditorServer):
    """All of the application, with its workers, over a bundle."""

    def __init__(self, bundle):
        super().__init__()
        self.settings = Settings(bundle=bundle, port=self.port, threads=1, drain_s=1)

    def application(self):
        return create_app(self.settings)


@pytest.fixture
def open_page(browser, server):
    """Opens the editor; at the end no page may have had a console message, an error or a request to another host."""
    contexts, wrong = [], []

    def opened(ready=True, expected="", **options):
        context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
        context.set_default_timeout(8000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: wrong.append(m.text) if not (expected and re.search(expected, m.text)) else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        own = (server.address, f"blob:{server.address}", server.address.replace("http", "ws"))
        page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(own) else None)
        page.on("websocket", lambda s: wrong.append(s.url) if not s.url.startswith(own) else None)
        page.goto(server.address)
        if ready:
            expect(page.locator("#fact-stage")).to_have_text("Final")
            expect(page.locator("#samples [data-drawn]")).to_have_count(12)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def pixels(page, name):
    """What a canvas shows, uint8 [H, W, 3]."""
    url = page.evaluate("(name) => document.getElementById(name).toDataURL()", name)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))


def last(server, **wanted):
    """The newest job with these arguments."""
    return next(job for job in reversed(server.dispatcher.jobs) if wanted.items() <= job.arguments.items())


def asked(page, server, kind, count):
    """The fields of the newest request of a kind, once there were so many."""
    for _ in range(400):
        found = [fields for one, fields in server.seen if one == kind]
        if len(found) >= count:
            return found[-1]
        page.wait_for_timeout(20)
    raise AssertionError(f"{kind} was asked for {len(found)} times, not {count}")


def show(page, name, value):
    """Move a range as a person does: both events."""
    page.locator(f"#{name}").fill(str(value))


def test_both_pictures_and_the_samples(open_page, server):
    page = open_page()
    assert np.array_equal(pixels(page, "original"), draw(64, 0, {}))
    assert np.array_equal(pixels(page, "edited"), draw(64, 0, {}))
    expect(page.locator("#fact-subnet")).to_have_text("1@64")
    expect(page.locator("#fact-engine")).to_have_text("fake-fp16")
    expect(page.locator("#fact-time")).to_have_text("12 ms")
    expect(page.locator("#connection")).to_have_text("Connected")
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#network-hint")).to_contain_text("p95 \N{LESS-THAN OR EQUAL TO} 30 ms")
    # The samples are drawn by the best sub-network of the smallest size that is enough.
    assert [fields["subnet"] for _, fields in server.seen] == ["1@64"] * 12
    page.get_by_role("button", name="Sample of seed 4").click()
    expect(page.locator("#original-note")).to_have_text("seed 4")
    expect(page.get_by_role("button", name="Sample of seed 4")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Sample of seed 0")).to_have_attribute("aria-pressed", "false")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("4")


def test_sliders_preview_finalize_and_reset(open_page, server):
    page = open_page()
    slider = page.get_by_role("slider", name=re.compile("Smiling"))
    slider.fill("60")
    expect(page.locator("#edited-note")).to_have_text("1 edit")
    expect(page.locator("#fact-stage")).to_have_text("Final")
    assert np.array_equal(pixels(page, "edited"), draw(64, 0, {"smiling": 60}))
    assert np.array_equal(pixels(page, "original"), draw(64, 0, {}))
    # By the keyboard, and another direction beside it.
    page.get_by_role("slider", name=re.compile("Young")).press("ArrowLeft")
    expect(page.locator("#edited-note")).to_have_text("2 edits")
    expect(page.locator("output[for=direction-1]")).to_have_text("\N{MINUS SIGN}1")
    # Without the automatic one, only the button finalizes.
    page.get_by_label("Finalize when I pause").uncheck()
    slider.fill("20")
    expect(page.locator("#fact-stage")).to_have_text("Preview")
    expect(page.locator("#fact-subnet")).to_have_text("0.5@32")
    page.get_by_role("button", name="Finalize").click()
    expect(page.locator("#fact-stage")).to_have_text("Final")
    expect(page.locator("#announcer")).to_have_text("Final picture, 1@64, fake-fp16, 12 ms")
    slider.dblclick()
    expect(page.locator("#edited-note")).to_have_text("1 edit")
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#edited-note")).to_have_text("as the original")
    expect(slider).to_have_value("0")


def test_each_resolution_is_shown_on_the_way(open_page, server):
    page = open_page()
    server.dispatcher.budget_choice, server.dispatcher.further = "1@16", ("1@32", "1@64")
    server.dispatcher.delay_s = 0.7
    page.get_by_role("slider", name=re.compile("Smiling")).fill("60")
    expect(page.locator("#fact-stage")).to_have_text("Drawing")
    expect(page.locator("#fact-subnet")).to_have_text("1@32")
    assert np.array_equal(pixels(page, "edited"), draw(32, 0, {"smiling": 60}))
    expect(page.locator("#fact-stage")).to_have_text("Final")
    assert np.array_equal(pixels(page, "edited"), draw(64, 0, {"smiling": 60}))


def test_dragging_shows_pictures_all_the_time(open_page, server):
    page = open_page()
    server.dispatcher.delay_s = 0.05
    box = page.get_by_role("slider", name=re.compile("Smiling")).bounding_box()
    middle = box["y"] + box["height"] / 2
    before = server.dispatcher.done
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    for i in range(40):
        page.mouse.move(box["x"] + box["width"] * (0.5 + i / 100), middle)
        page.wait_for_timeout(10)
    during = server.dispatcher.done - before
    page.mouse.up()
    assert during >= 3
    expect(page.locator("#fact-stage")).to_have_text("Final")
    # Each preview was waited for, so none was begun in vain.
    assert server.dispatcher.cancelled <= 2


def test_channels_and_resolution_by_hand(open_page, server):
    page = open_page()
    page.get_by_label("Auto (budget)").uncheck()
    expect(page.locator("#network-hint")).to_contain_text("1@64")
    page.get_by_role("radio", name="half of the channels").check(force=True)
    page.get_by_role("radio", name="16 pixels").check(force=True)
    expect(page.locator("#fact-subnet")).to_have_text("0.5@16")
    expect(page.locator("#fact-stage")).to_have_text("Preview")
    assert pixels(page, "original").shape == (16, 16, 3)
    page.get_by_role("button", name="Finalize").click()
    expect(page.locator("#fact-subnet")).to_have_text("0.5@64")
    # What the bundle does not hold cannot be chosen, and the nearest choice that is there is made.
    page.get_by_role("radio", name="a quarter of the channels").check(force=True)
    expect(page.get_by_role("radio", name="16 pixels")).to_be_disabled()
    expect(page.locator("#fact-subnet")).to_have_text("0.25@64")
    page.get_by_role("radio", name="sub-network odd").check(force=True)
    expect(page.locator("#fact-subnet")).to_have_text("odd")
    page.get_by_label("Auto (budget)").check()
    expect(page.locator("#fact-subnet")).to_have_text("1@64")


def test_a_budget(open_page, server):
    page = open_page()
    page.get_by_label("Budget, ms").fill("25")
    page.get_by_label("Budget, ms").press("Enter")
    page.wait_for_function("document.getElementById('edited').getAttribute('aria-label').includes('seed 0')")
    page.get_by_role("button", name="Sample of seed 2").click()
    expect(page.locator("#edited")).to_have_attribute("aria-label", re.compile("seed 2"))
    expect(page.locator("#fact-stage")).to_have_text("Final")
    expect(page.locator("#network-hint")).to_contain_text("p95 \N{LESS-THAN OR EQUAL TO} 25 ms")
    budgets = [job.budget and job.budget.latency_ms for job in server.dispatcher.jobs if job.subnet is None]
    assert budgets[-2:] == [25, 25]


def test_seed_and_truncation(open_page, server):
    page = open_page()
    page.get_by_label("Seed", exact=True).fill("4321")
    page.get_by_label("Seed", exact=True).press("Enter")
    expect(page.locator("#original-note")).to_have_text("seed 4321")
    page.get_by_role("button", name="Random", exact=True).click()
    expect(page.locator("#original-note")).not_to_have_text("seed 4321")
    show(page, "psi", 0.5)
    expect(page.locator("#psi-value")).to_have_text("0.50")
    expect(page.locator("#original-frame")).to_have_attribute("aria-busy", "false")
    assert last(server, psi=0.5)
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#psi-value")).to_have_text("1.00")


def photo(width=90, height=60):
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = (200, 120, 40)
    return png(image)


def test_a_loaded_picture_is_encoded_and_edited(open_page, server):
    page = open_page()
    page.locator("#file").set_input_files({"name": "me.png", "mimeType": "image/png", "buffer": photo()})
    expect(page.locator("#original-note")).to_have_text("me.png")
    expect(page.locator("#edited-note")).to_have_text("reconstructed")
    assert pixels(page, "original").shape == (60, 90, 3)
    assert ("encode", {"size": (90, 60)}) in server.seen
    assert server.dispatcher.jobs[-1].arrays["w_plus"].shape == (1, 10, 16)
    page.get_by_role("slider", name=re.compile("Smiling")).fill("-30")
    expect(page.locator("#edited-note")).to_have_text("1 edit")
    # Its codes are lost with the connection, and sent again.
    server.stop()
    expect(page.locator("#connection")).to_contain_text("Connection lost")
    server.start()
    expect(page.locator("#connection")).to_have_text("Connected")
    page.get_by_role("slider", name=re.compile("Young")).fill("10")
    expect(page.locator("#edited-note")).to_have_text("2 edits")


def test_a_dropped_and_a_pasted_picture(open_page, server):
    page = open_page()
    data = base64.b64encode(photo()).decode()
    files = page.evaluate_handle(
        """(data) => { const held = new DataTransfer();
        held.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], "drop.png", {type: "image/png"}));
        return held; }""",
        data,
    )
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": files})
    expect(page.locator("#drop")).to_have_class(re.compile("over"))
    page.dispatch_event("#drop", "drop", {"dataTransfer": files})
    expect(page.locator("#original-note")).to_have_text("drop.png")
    expect(page.locator("#drop")).not_to_have_class(re.compile("over"))
    page.get_by_role("button", name="Sample of seed 1", exact=True).click()
    expect(page.locator("#original-note")).to_have_text("seed 1")
    page.evaluate("(held) => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: held}))", files)
    expect(page.locator("#original-note")).to_have_text("drop.png")


def test_what_is_no_picture(open_page):
    page = open_page()
    page.locator("#file").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    expect(page.get_by_role("alert")).to_contain_text("a.txt is not a picture")
    page.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_painting_a_mask_and_filling_it(open_page, server):
    page = open_page()
    expect(page.locator("#mask")).to_be_hidden()
    page.get_by_role("tab", name="Inpaint").click()
    fill, clear = page.get_by_role("button", name="Fill"), page.get_by_role("button", name="Clear mask")
    expect(fill).to_be_disabled()
    box = page.locator("#mask").bounding_box()
    show(page, "brush", 20)
    expect(page.locator("#brush-value")).to_have_text("20%")
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    expect(page.locator("#cursor")).to_be_visible()
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
    page.mouse.up()
    fill.click()
    expect(page.locator("#fact-stage")).to_have_text("Filled")
    expect(page.locator("#fact-engine")).to_have_text("fake")
    fields = asked(page, server, "inpaint", 1)
    assert fields["same"]
    assert fields["mask"] == pytest.approx(0.5 * 0.2 + np.pi * 0.01, abs=0.02)
    made = pixels(page, "edited")
    assert np.array_equal(made[32, 32], (20, 160, 90))
    assert np.array_equal(made[2], draw(64, 0, {})[2])
    # Erase the half of it.
    page.get_by_role("radio", name="Erase").check(force=True)
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"], steps=3)
    page.mouse.up()
    page.locator("#inpainter").select_option("inpainting-2")
    fill.click()
    assert asked(page, server, "inpaint", 2)["mask"] < fields["mask"] - 0.02
    clear.click()
    expect(fill).to_be_disabled()
    page.get_by_role("radio", name="Paint").check(force=True)
    page.get_by_role("button", name="Mask the middle").click()
    fill.click()
    assert asked(page, server, "inpaint", 3)["mask"] == pytest.approx(0.25, abs=0.01)
    # A slider goes back to editing.
    page.get_by_role("tab", name="Edit").click()
    page.get_by_role("slider", name=re.compile("Smiling")).fill("10")
    expect(page.locator("#fact-stage")).to_have_text("Final")


def test_painting_with_the_keyboard(open_page, server):
    page = open_page()
    page.get_by_role("tab", name="Inpaint").click()
    mask = page.locator("#mask")
    mask.focus()
    for key in ("ArrowLeft", "Shift+ArrowUp", "ArrowRight", "ArrowDown", "Space"):
        mask.press(key)
    expect(page.get_by_role("button", name="Fill")).to_be_enabled()
    mask.press("Delete")
    expect(page.get_by_role("button", name="Fill")).to_be_disabled()


def test_a_mask_over_a_wide_picture(open_page, server):
    page = open_page()
    page.get_by_role("tab", name="Inpaint").click()
    page.locator("#file").set_input_files({"name": "wide.png", "mimeType": "image/png", "buffer": photo(200, 100)})
    expect(page.locator("#original-note")).to_have_text("wide.png")
    page.get_by_role("button", name="Mask the middle").click()
    page.get_by_role("button", name="Fill").click()
    expect(page.locator("#fact-stage")).to_have_text("Filled")
    made = pixels(page, "edited")
    assert made.shape == (100, 200, 3)
    assert np.array_equal(made[50, 100], (20, 160, 90))
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#fact-stage")).to_have_text("Final")


def test_styles(open_page, server):
    page = open_page()
    page.get_by_role("tab", name="Style").click()
    page.get_by_label("Style seed").fill("7")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#edited-note")).to_have_text("style 7")
    expect(page.locator("#fact-stage")).to_have_text("Styled")
    assert server.seen[-1] == ("translate", {"network": "roses", "seeds": "7"})
    page.get_by_role("button", name="Random style").click()
    expect(page.locator("#edited-note")).not_to_have_text("style 7")
    page.get_by_label("Style network").select_option("cycle")
    expect(page.get_by_label("Style seed")).to_be_hidden()
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#edited-note")).to_have_text("cycle")
    assert server.seen[-1] == ("translate", {"network": "cycle"})


@pytest.mark.parametrize("server", ["real"], indirect=True)
def test_the_real_server(open_page, server):
    page = open_page()
    expect(page.locator("#fact-subnet")).to_have_text("1@32")
    expect(page.locator("#fact-engine")).to_have_text(re.compile("onnxruntime|openvino"))
    expect(page.locator("#bundle")).to_have_text("tiny")
    expect(page.locator("#edit-hint")).to_contain_text("no editing directions")
    page.get_by_label("Auto (budget)").uncheck()
    page.get_by_role("radio", name="sub-network odd").check(force=True)
    expect(page.locator("#fact-subnet")).to_have_text("odd")
    assert pixels(page, "edited").shape == (32, 32, 3)
    before = pixels(page, "original")
    page.get_by_label("Seed", exact=True).fill("3")
    page.get_by_label("Seed", exact=True).press("Enter")
    expect(page.locator("#original-note")).to_have_text("seed 3")
    assert not np.array_equal(pixels(page, "original"), before)
    page.locator("#file").set_input_files({"name": "me.png", "mimeType": "image/png", "buffer": photo()})
    expect(page.locator("#edit-hint")).to_contain_text("no encoder")


def test_saving(open_page):
    page = open_page()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").click()
    assert download.value.suggested_filename == "anycost-seed-0.png"
    assert np.array_equal(np.asarray(Image.open(download.value.path())), draw(64, 0, {}))


def test_a_lost_connection_comes_back(open_page, server):
    page = open_page(expected="WebSocket connection")
    server.stop()
    expect(page.locator("#connection")).to_contain_text("Connection lost, retry in")
    page.get_by_role("slider", name=re.compile("Smiling")).fill("50")
    server.start()
    expect(page.locator("#connection")).to_have_text("Connected")
    expect(page.locator("#edited-note")).to_have_text("1 edit")
    expect(page.locator("#fact-stage")).to_have_text("Final")


def test_refusals_are_told_in_words(open_page, server):
    page = open_page(expected="503")
    server.dispatcher.fail = OverloadedError("64 requests are waiting: try again later", retry_after=3)
    page.get_by_role("slider", name=re.compile("Smiling")).fill("50")
    expect(page.get_by_role("alert")).to_contain_text("64 requests are waiting: try again later.")
    page.get_by_role("tab", name="Inpaint").click()
    page.get_by_role("button", name="Mask the middle").click()
    page.get_by_role("button", name="Fill").click()
    expect(page.get_by_role("alert")).to_contain_text("Try again in 3 s.")
    server.dispatcher.fail = None
    page.get_by_role("tab", name="Edit").click()
    page.get_by_role("button", name="Sample of seed 3").click()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_the_token_is_asked_for_and_kept(browser, open_page, server):
    server.stop()
    object.__setattr__(server.settings, "token", "secret")
    server.start()
    page = open_page(ready=False, expected="401|REFUSED|WebSocket connection")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.get_by_label("Token", exact=True).fill("wrong")
    page.get_by_label("Token", exact=True).press("Enter")
    expect(dialog).to_contain_text("was not accepted")
    page.get_by_label("Token", exact=True).fill("secret")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#fact-stage")).to_have_text("Final")
    expect(dialog).to_be_hidden()
    assert page.evaluate("sessionStorage.getItem('anycost-token')") == "secret"
    page.reload()
    expect(page.locator("#fact-stage")).to_have_text("Final")
    expect(dialog).to_be_hidden()
    # One that is not valid any more: told by the socket.
    server.stop()
    object.__setattr__(server.settings, "token", "other")
    server.start()
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#connection")).to_have_text("Not connected")


def test_only_what_the_bundle_holds_is_offered(open_page, server):
    server.models = {**server.models, "networks": []}
    server.stop()
    server.start()
    page = open_page()
    for name in ("Inpaint", "Style"):
        expect(page.get_by_role("tab", name=name)).to_be_hidden()
    page.locator("#file").set_input_files({"name": "me.png", "mimeType": "image/png", "buffer": photo()})
    expect(page.locator("#edit-hint")).to_contain_text("no encoder")
    expect(page.get_by_role("slider", name=re.compile("Smiling"))).to_be_disabled()
    page.get_by_role("button", name="Sample of seed 1", exact=True).click()
    expect(page.get_by_role("slider", name=re.compile("Smiling"))).to_be_enabled()


def test_a_bundle_without_a_generator(open_page, server):
    server.models = {**server.models, "generator": None}
    server.stop()
    server.start()
    page = open_page(ready=False)
    expect(page.get_by_role("tab", name="Inpaint")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tab", name="Edit")).to_be_hidden()
    expect(page.locator(".generator")).to_be_hidden()
    page.locator("#file").set_input_files({"name": "me.png", "mimeType": "image/png", "buffer": photo()})
    page.get_by_role("button", name="Mask the middle").click()
    page.get_by_role("button", name="Fill").click()
    expect(page.locator("#fact-stage")).to_have_text("Filled")


def test_the_keyboard_reaches_everything_and_shows_where_it_is(open_page):
    page = open_page()
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(45):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => { const it = document.activeElement; if (it === document.body) return null;
            const seen = (one) => one && getComputedStyle(one).outlineStyle !== "none";
            const shown = seen(it) || seen(it.nextElementSibling) || seen(it.closest(".drop"));
            return [it.id || it.getAttribute("aria-label") || it.textContent, shown]; }"""
        )
        if found is None:
            break
        reached.append(found)
    names = [name for name, _ in reached]
    order = ["Skip to the controls", "finalize", "reset", "save", "Sample of seed 0", "Sample of seed 11", "seed"]
    order += ["random-seed", "psi", "file", "auto", "budget", "finish", "tab-edit", "direction-0", "direction-2"]
    assert [name for name in names if name in order] == order
    assert [name for name, shown in reached if not shown] == []
    # Tabs are moved between by arrows.
    page.get_by_role("tab", name="Edit").press("ArrowLeft")
    expect(page.get_by_role("tab", name="Style")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Style")).to_be_visible()
    page.keyboard.press("Home")
    expect(page.get_by_role("tabpanel", name="Edit")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["desktop", "phone"])
def test_accessibility_rules(open_page, scheme, viewport):
    """The rules of axe-core, which know names, roles, labels, contrast and target sizes."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page = open_page(color_scheme=scheme, viewport=viewport)
    tags = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]}
    for name in ("Inpaint", "Style", "Edit"):
        page.get_by_role("tab", name=name).click()
        if name == "Style":
            page.get_by_label("Auto (budget)").uncheck()
        found = axe.run(page, options=tags).response["violations"]
        assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found] == []


def test_the_pictures_stay_in_view_beside_many_sliders(open_page, server, monkeypatch):
    monkeypatch.setattr("editor_server.DIRECTIONS", [f"direction {i}" for i in range(40)])
    page = open_page()
    page.get_by_role("slider", name=re.compile("Direction 39")).scroll_into_view_if_needed()
    box = page.locator("#edited").bounding_box()
    assert 0 <= box["y"] < 100


@pytest.mark.parametrize("name", ["Edit", "Inpaint", "Style"])
def test_a_phone_needs_no_sideways_scrolling(open_page, name):
    page = open_page(viewport=PHONE, has_touch=True)
    page.get_by_label("Auto (budget)").uncheck()
    page.get_by_role("tab", name=name).click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    # The two pictures stay side by side and in view.
    left, right = page.locator("#original").bounding_box(), page.locator("#edited").bounding_box()
    assert left["y"] == right["y"] and left["width"] == right["width"] > 140
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(page.locator("#edited")).to_be_in_viewport(ratio=1)
