"""A report in a real browser: it loads whole, without a word on the console.

On a desktop and on a phone, light and dark.
"""

import shutil

import pytest

import pass_transfer as pt

selenium = pytest.importorskip(
    "selenium", reason="the browser's test needs selenium: pip install '.[test]'"
)
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 300  # seconds for a page, on a machine that has other work
# Of the content, of the room for it, and of the window with its scroll bar.
WIDTH = """
const page = document.documentElement;
return [page.scrollWidth, page.clientWidth, innerWidth];
"""
PICTURES = """
const seen = i => [i.naturalWidth, i.alt, i.currentSrc === i.src, !!i.closest('picture')];
return Promise.all([...document.images].map(i => i.decode().then(() => seen(i))));
"""
# How bright the background and the letters are.
COLOURS = r"""
const style = getComputedStyle(document.body);
const sum = colour => colour.match(/\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0);
return [sum(style.backgroundColor), sum(style.color)];
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("no chromium with chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    started.command_executor.client_config.timeout = PATIENCE
    started.set_page_load_timeout(PATIENCE)
    started.set_script_timeout(PATIENCE)
    yield started
    started.quit()


@pytest.fixture(scope="module")
def page(original, tmp_path_factory):
    """The address of a report with names that are long, odd, or HTML."""
    run = shutil.copytree(original, tmp_path_factory.mktemp("shown") / "a run")
    model = pt.load_pruned(run)
    odd = {"class 3": "long_" * 20, "class 5": "<script>alert(1)</script>", "class 7": "$a"}
    model.class_names = tuple(odd.get(name, name) for name in model.class_names)
    model.save(run)
    pt.write_report(run)
    return (run / "report.html").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_shows_whole(browser, page, width, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get(page)
    pictures = browser.execute_script(PICTURES)
    assert len(pictures) == 7 + 4 and all(shown > 0 and alt for shown, alt, _, _ in pictures)
    assert all(plain == (scheme == "light") for _, _, plain, themed in pictures if themed)
    content, room, window = browser.execute_script(WIDTH)
    assert window == width and content <= room
    background, letters = browser.execute_script(COLOURS)
    assert (background > letters) == (scheme == "light")
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script(WIDTH)[0] <= room
    assert browser.get_log("browser") == []
