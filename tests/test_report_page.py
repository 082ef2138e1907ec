"""The report in a browser, its network cut: nothing asked for, no error, views that work, three widths."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from conftest import run, shared_by_workers
from test_make_report import MARKUP, SECTIONS, a_run, hostile_page  # noqa: F401  (fixtures)

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage"]


def chromium_path() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> str:
    """The machine's browser; a CI machine of Debian's that has none gets its package."""
    with open(shared_by_workers(tmp_path_factory, "chromium.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if chromium_path() is None and os.environ.get("CI") and os.geteuid() == 0 and shutil.which("apt-get"):
            for words in ("update", "install --no-install-recommends --yes chromium"):
                subprocess.run(["apt-get", "-qq", *words.split()], capture_output=True)
    if chromium_path() is None:
        pytest.skip("no Chromium: apt-get install chromium brings one")
    return chromium_path()


@pytest.fixture(scope="module")
def browser(chromium):
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is missing: requirements-dev.txt")
    with sync.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report_path(a_run, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("page")
    run("make_report.py", "--data", a_run, "--out", out)
    return out / "report.html"


class Watched:
    """A page of the browser, offline, with what it asked for and what went wrong."""

    def __init__(self, browser, path, width: int = 1024, height: int = 800):
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
        self.page, self.asked, self.wrong = context.new_page(), [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on(
            "console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else 0
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append("dialog"), dialog.dismiss()))
        began = time.time()
        self.page.goto(path.as_uri(), wait_until="load")
        self.seconds = time.time() - began

    def through(self) -> None:
        """Scroll through the page until each view has drawn itself."""
        for view in self.page.locator(".view").all():
            view.scroll_into_view_if_needed()
            self.page.wait_for_function(
                "view => view.dataset.ready", arg=view.element_handle(), timeout=60_000
            )

    def value(self, script: str):
        return self.page.evaluate(script)

    def close(self) -> None:
        outside = [url for url in self.asked if not url.startswith(("file:", "data:"))]
        assert not outside and sum(url.startswith("file:") for url in self.asked) == 1, self.asked
        assert not self.wrong, self.wrong
        self.page.context.close()


@pytest.mark.parametrize("width", [380, 1024, 1600])
def test_the_page_is_whole_at_three_widths(browser, report_path, width):
    watched = Watched(browser, report_path, width)
    assert watched.seconds < 10  # about 1; machines that run tests may be busy
    first = watched.page.locator(".verdicts li li").first.bounding_box()
    assert first["y"] < 500, "a verdict stands on the first screen"
    watched.through()
    assert watched.value("document.documentElement.scrollWidth <= innerWidth")
    for name in SECTIONS:
        assert watched.page.locator(f"section#{name} h2").is_visible()
    views = "[...document.querySelectorAll('.view')].map(view => view.dataset.view + view.dataset.ready)"
    assert watched.value(views) == ["chipsyes", "pairsyes", "seriesyes"]
    assert watched.value("[...document.images].every(i => !i.src || (i.complete && i.naturalWidth))")
    going_on = "[...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth + 2)"
    said = watched.value(going_on + ".map(b => [b.className, b.nextElementSibling.textContent])")
    assert all("right" in name and "scroll sideways" in words for name, words in said), said
    assert bool(said) == (width == 380), "a phone shows a part of wide tables"
    captions = "[...document.querySelectorAll('.caption')].every(c => !c.closest('.scroll'))"
    assert watched.value(captions)
    watched.page.emulate_media(media="print")
    assert watched.value(
        "[...document.querySelectorAll('table')].every(t => t.parentNode.clientHeight >= t.clientHeight)"
    )
    watched.close()


def test_sliders_move_by_keys_and_show_another_picture(browser, report_path):
    watched = Watched(browser, report_path)
    watched.through()
    view = watched.page.locator(".chips-view")
    large, (chip, layer) = view.locator(".large"), view.locator("input[type=range]").all()
    seen = {large.get_attribute("src")}
    for _ in range(5):
        layer.focus()
        watched.page.keyboard.press("ArrowRight")
        seen.add(large.get_attribute("src"))
    assert len(seen) == 6 and large.get_attribute("alt").startswith("errors of")
    assert view.locator("button[aria-pressed=true]").inner_text() == "errors"
    chip.focus()
    watched.page.keyboard.press("ArrowRight")
    assert large.get_attribute("src") not in seen and "2 of 2" in view.inner_text()
    assert watched.value("document.querySelector('.chips-view .large').naturalWidth") > 20
    outline = watched.value("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "focus can be seen"
    watched.close()


def test_hover_shows_the_chips_and_so_do_keys(browser, report_path):
    watched = Watched(browser, report_path)
    watched.through()
    view = watched.page.locator(".pairs-view")
    view.scroll_into_view_if_needed()
    assert view.locator(".side img").count() == 0
    view.locator(".plane .points path").nth(3).hover(force=True)
    view.locator(".side img").first.wait_for()
    assert view.locator(".side img").count() == 2 and "id: pair-3" in view.inner_text()
    assert watched.value("[...document.querySelectorAll('.side img')].every(i => i.naturalWidth > 0)")
    view.locator("input[type=range]").focus()
    watched.page.keyboard.press("End")
    assert "id: pair-11" in view.inner_text()
    view.get_by_role("button", name="snow fraction").press("Enter")
    assert view.get_by_role("button", name="snow fraction").get_attribute("aria-pressed") == "true"
    watched.close()


def test_series_change_with_the_site_and_tabs_reach_the_main_part(browser, report_path):
    watched = Watched(browser, report_path)
    watched.page.keyboard.press("Tab")
    assert watched.value("document.activeElement.textContent") == "Skip to the verdicts"
    watched.through()
    assert watched.page.locator(".series-view .scatterlayer .trace").count() >= 2
    options = watched.page.locator(".series-view option").all_inner_texts()
    assert options == ["site-0"]
    watched.close()


def test_static_figures_stand_in_for_views_on_paper_and_without_scripts(browser, report_path):
    watched = Watched(browser, report_path)
    watched.through()
    assert not watched.page.locator(".chips-view .fallback img").is_visible()
    watched.page.emulate_media(media="print")
    assert watched.page.locator(".chips-view .fallback img").is_visible()
    assert not watched.page.locator(".chips-view .controls").is_visible()
    watched.close()
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(report_path.as_uri())
    assert page.locator(".chips-view .fallback img").is_visible()
    context.close()


def test_a_hostile_page_runs_nothing_of_the_files(browser, hostile_page):  # noqa: F811
    watched = Watched(browser, hostile_page[1], width=380)
    watched.through()
    assert watched.value("document.documentElement.scrollWidth <= innerWidth")
    assert watched.value("document.querySelectorAll('[onerror], main script:not([type])').length") == 0
    options = watched.page.locator(".series-view option").all_inner_texts()
    assert any(MARKUP in option for option in options)
    view = watched.page.locator(".pairs-view").first
    view.locator("input[type=range]").focus()
    watched.page.keyboard.press("ArrowRight")
    assert MARKUP in view.inner_text()
    watched.close()


def test_without_any_network_the_page_opens(chromium, report_path):
    """In a network namespace of its own, where not even the loopback is up."""
    alone = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("unshare -n is not allowed here")
    words = [chromium, "--headless", *FLAGS, "--dump-dom", "--virtual-time-budget=3000", report_path.as_uri()]
    done = subprocess.run([*alone, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and 'id="provenance"' in done.stdout
    assert "<svg" in done.stdout and 'data-view="chips"' in done.stdout


if __name__ == "__main__":  # pictures to look at: python tests/test_report_page.py report.html folder
    from pathlib import Path

    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        for wide in (380, 1024, 1600):
            shown = Watched(opened, Path(sys.argv[1]).resolve(), wide)
            shown.through()
            shown.page.screenshot(path=Path(sys.argv[2]) / f"report_{wide}.png", full_page=True)
            print(json.dumps({"width": wide, "seconds": round(shown.seconds, 2)}))
            shown.close()
        opened.close()
