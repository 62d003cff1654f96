"""Page and report in a real browser (headless Chromium): slow tier, skipped where there is none."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backdrop.app.segmenter import Segmenter
from backdrop.report.report import write_report
from benchmarks.long_video import hear_ctrl_c
from tests.handmade_run import HEIGHT, WIDTH, scene
from tests.scored_project import scored_project
from tests.small_pipeline import ROOT, environment, write_model

pytestmark = pytest.mark.slow
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SIZES = ((1280, 900), (390, 800))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return scored_project(tmp_path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on PATH")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "segmenter")


@pytest.fixture(scope="module")
def address(browser: Any, model: Path) -> Iterator[str]:
    """The page of `backdrop demo`, served by a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "backdrop.app.cli", "demo", "--model", str(model), "--device", "cpu"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--params", str(ROOT / "params.yaml")],
        env=environment(PYTHONPATH=str(ROOT)),
        preexec_fn=hear_ctrl_c,  # noqa: PLW1509
    )
    url = f"http://127.0.0.1:{port}/"
    for _ in range(120):
        try:
            urllib.request.urlopen(url, timeout=2).close()
            break
        except OSError:
            assert server.poll() is None, "backdrop demo ended"
            time.sleep(1)
    yield url
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 0


def watched(browser: Any, size: tuple[int, int]) -> tuple[Any, list[str]]:
    """A page, and the addresses beyond this machine that it asks for."""
    page, foreign = browser.new_page(viewport={"width": size[0], "height": size[1]}), []
    local = ("http://127.0.0.1", "data:", "blob:", "file:")
    page.on("request", lambda request: None if request.url.startswith(local) else foreign.append(request.url))
    return page, foreign


def fits(page: Any, width: int) -> bool:
    return page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image_is_segmented_on_the_page(
    size: tuple[int, int], address: str, browser: Any, model: Path, tmp_path: Path
) -> None:
    picture = scene(1)[0][0]
    Image.fromarray(picture).save(tmp_path / "photo.png")
    (tmp_path / "zero.png").write_bytes(b"")
    page, foreign = watched(browser, size)
    page.goto(address)
    page.wait_for_selector("text=Nothing segmented")
    page.set_input_files("input[type=file]", tmp_path / "photo.png")
    page.wait_for_selector(f"text={WIDTH} × {HEIGHT}", timeout=60_000)
    assert fits(page, size[0])
    seen = page.inner_text("body").lower()
    assert not any(word in seen for word in ("crf", "cell", "probability")), "no jargon on the first view"
    before = page.inner_text(".numbers")
    page.locator("input[type=range]").first.focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("old => document.querySelector('.numbers').innerText !== old", arg=before, timeout=30_000)
    threshold = float(page.locator("input[type=number]").first.input_value())
    with page.expect_download() as download:
        page.click("text=Download the mask (PNG)")
    stored = np.asarray(Image.open(download.value.path()))
    assert np.array_equal(stored > 0, Segmenter.load(model, "cpu").predict(picture).mask > threshold)
    page.locator("button[aria-label='Clear'], button[aria-label='Remove this file']").first.click()
    page.wait_for_selector("text=Nothing segmented")
    page.set_input_files("input[type=file]", tmp_path / "zero.png")
    assert "zero.png" in page.wait_for_selector(".toast-body", timeout=30_000).inner_text()
    assert foreign == []
    page.close()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_report_opens_from_disk(size: tuple[int, int], browser: Any, project: Path) -> None:  # noqa: F811
    path = write_report(project, project / "report.html")
    page, foreign = watched(browser, size)
    page.goto(path.as_uri())
    assert "J 0.88" in page.inner_text("body")
    assert fits(page, size[0])
    broken = "Array.from(document.images).filter(image => !image.complete || !image.naturalWidth).length"
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for_function(f"({broken}) === 0", timeout=10_000)
    assert fits(page, size[0])
    assert foreign == []
    page.close()
