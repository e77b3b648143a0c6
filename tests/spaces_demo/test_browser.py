"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import os
import shutil

import pytest

from .test_uploads import bomb, png, write

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no browser tests: the package `playwright` is not installed"
)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no browser tests: there is no `chromium` (Debian: apt-get install chromium)", allow_module_level=True)

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page for one more visitor; at the end, no page may have had an error."""
    contexts, errors = [], []

    def open_page(viewport=DESKTOP):
        contexts.append(browser.new_context(viewport=viewport))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))
        page.goto(address)
        page.wait_for_selector("#results [data-action=add]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def cards(page, part):
    return page.locator(f"{part} [data-action]").evaluate_all("all => all.map(one => one.dataset.id)")


def add(page, item_id):
    number = len(cards(page, "#strip"))
    page.click(f"#grid [data-action=add][data-id='{item_id}']")
    page.wait_for_selector(f"#strip li:nth-child({number + 1})")


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_recommend(visit, shop, viewport):
    page = visit(viewport)
    page.get_by_text("Nobody yet").first.wait_for()
    add(page, "hat")
    add(page, "coat")
    expected = [answer["item_id"] for answer in shop.ask("recommend", {"history": ["hat", "coat"]}, top_k=8)]
    assert cards(page, "#results")[::2] == expected  # each card has two buttons
    page.locator("#results [data-action=why]").first.click()
    page.locator("#why strong", has_text=shop.title(expected[0])).wait_for()
    page.locator("#results [data-action=add]").first.click()
    page.wait_for_selector("#strip li:nth-child(3)")
    assert expected[0] not in cards(page, "#results")
    page.locator("#strip [data-action=remove]").first.click()
    page.wait_for_selector("#strip li:nth-child(3)", state="detached")
    page.get_by_role("button", name="Clear history").click()
    page.locator("#strip .u-notice").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_person_heat_and_hidden_pictures(visit):
    page = visit()
    page.get_by_label("Begin with a person").click()
    page.get_by_role("option", name="Ada").click()
    page.wait_for_selector("#strip li:nth-child(2)")
    shown = page.inner_text("#results")
    page.get_by_label("Show which pictures it looked at").check()
    page.wait_for_selector("#strip .u-heat")
    assert page.locator("#strip .u-heat").count() == 1  # the shirt has no picture
    page.get_by_label("Hide all pictures from the model").check()
    page.wait_for_function("shown => document.querySelector('#results').innerText !== shown", arg=shown)
    page.wait_for_selector("#strip .u-heat", state="detached")
    page.get_by_text("Pictures are hidden from the model").wait_for()  # and not that there is none to look at
    assert page.locator("#results .u-moved").count() == page.locator("#results li").count()


def test_every_click_arrives_however_fast(visit):
    page = visit()
    ids = ["hat", "coat", "socks", "belt", "shirt"]
    page.evaluate(
        "ids => ids.forEach(id => document.querySelector(`#grid [data-id='${id}']`).click())", ids
    )  # all of them before any is answered
    page.wait_for_selector("#strip li:nth-child(5)")
    page.wait_for_function("document.querySelectorAll('#results li').length === 3")  # what is left of the eight
    page.evaluate(
        """() => {
            const strip = document.querySelector("#strip"), lengths = (window.lengths = []);
            const look = () => lengths.push(strip.querySelectorAll("li").length);
            new MutationObserver(look).observe(strip, { subtree: true, childList: true });
            [0, 2].forEach(place => strip.querySelectorAll("[data-action]")[place].click());
        }"""
    )
    page.wait_for_function("document.querySelectorAll('#results li').length === 5")
    assert cards(page, "#strip") == ["1", "3", "4"]  # those that were clicked are gone
    lengths = page.evaluate("lengths")
    assert lengths == sorted(lengths, reverse=True)  # and an older answer was never drawn over a later one
    page.locator("#grid [data-id=hat]").dblclick()
    page.wait_for_selector("#strip li:nth-child(4)")
    page.locator("#grid [data-id=coat]").click()
    page.wait_for_selector("#strip li:nth-child(5)")
    assert cards(page, "#strip") == ["1", "3", "4", "5", "6"]  # a double click is one


def test_on_a_phone_all_tabs_are_there(visit):
    tabs = visit(PHONE).get_by_role("tab")
    assert tabs.all_inner_texts() == ["Recommend", "Search", "Select", "Your items", "Imagine"]
    assert all(tab.is_visible() for tab in tabs.all())


def test_the_keyboard_is_enough(visit):
    page = visit()
    page.locator("#grid [data-id=hat]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#strip li:nth-child(1)")
    page.locator("#results [data-action=add]").nth(1).focus()
    page.keyboard.press("Space")
    page.wait_for_selector("#strip li:nth-child(2)")
    page.wait_for_function("document.activeElement.dataset.action === 'add'")  # it is still where it was
    assert page.evaluate("document.activeElement.closest('#results') !== null")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_what_is_drawn_anew_moves_nothing_else(visit, viewport):
    page = visit(viewport)
    page.evaluate(
        "window.shift = 0; new PerformanceObserver(list => list.getEntries().forEach(entry => {"
        " window.shift += entry.value; })).observe({ type: 'layout-shift', buffered: true })"
    )
    add(page, "hat")
    page.get_by_label("Show which pictures it looked at").check()
    page.wait_for_selector("#strip .u-heat")
    page.locator("#strip [data-action=remove]").click()
    page.locator("#strip .u-notice").wait_for()
    page.wait_for_timeout(700)
    assert page.evaluate("window.shift") < 0.1  # what web.dev calls good


def test_search(visit):
    page = visit()
    open_tab(page, "Search")
    page.get_by_role("button", name="Search").click()
    page.get_by_text("Nothing is asked yet").wait_for()
    page.get_by_label("What are they looking for?").fill("warm hat")
    page.get_by_role("button", name="Search").click()
    page.wait_for_selector("#anyone [data-action=add]")
    page.get_by_text("then this side is in their taste").wait_for()
    page.locator("#anyone [data-action=add]").first.click()
    page.wait_for_selector("#strip li")
    page.get_by_role("button", name="Search").click()
    page.wait_for_selector("#person-found [data-action=add]")


def test_select(visit):
    page = visit(PHONE)
    open_tab(page, "Select")
    page.get_by_role("button", name="Which one, and why?").click()
    page.get_by_text("Too few").wait_for()
    page.get_by_role("button", name="Pick three").click()
    page.wait_for_selector("#candidates li:nth-child(3)")
    page.locator("#candidates button").first.click()
    page.wait_for_selector("#candidates li:nth-child(3)", state="detached")
    page.get_by_role("button", name="Which one, and why?").click()
    page.wait_for_selector("#candidates .u-badge")
    page.wait_for_selector("#select-why .u-why")


def send(page, *paths):
    page.locator("input[type=file][multiple]").set_input_files(list(paths))
    page.wait_for_function("document.querySelectorAll('.file-preview tr, .file-preview-holder tr').length > 0")
    page.get_by_role("button", name="Add these").click()


def test_own_items_and_two_visitors(visit, tmp_path):
    evil = "<img src=x onerror=alert(1)> {{value}} ${alert(2)}"
    table = write(tmp_path / "items.csv", f"title,image\n{evil},green.png\nPlain,\n")
    picture = write(tmp_path / "green.png", png())
    page, stranger = visit(), visit()
    add(stranger, "coat")
    open_tab(page, "Your items")
    send(page, table, picture)
    page.wait_for_selector("#own-grid li:nth-child(2)")
    assert page.locator("#own-grid .u-title").first.inner_text() == evil
    page.get_by_label("recommend my items only").check()
    open_tab(page, "Recommend")
    page.wait_for_function("document.querySelectorAll('#results li').length === 2")
    assert set(cards(page, "#results")) == {"yours-1", "yours-2"}
    page.locator("#results [data-action=add]").first.click()
    page.wait_for_selector("#strip li")
    # Nobody else has seen any of it.
    add(stranger, "hat")
    assert cards(stranger, "#strip") == ["0", "1"]
    stranger.get_by_label("Words in the item").first.fill("plain")
    stranger.get_by_text("Nothing found").wait_for()
    assert not any(item_id.startswith("yours") for item_id in cards(stranger, "#results"))
    open_tab(page, "Your items")
    page.get_by_role("button", name="Forget my items").click()
    page.get_by_text("Forgotten", exact=True).wait_for()
    page.locator("#strip .u-notice").wait_for()


def test_a_sample_to_begin_with(visit):
    page = visit()
    open_tab(page, "Your items")
    page.get_by_role("button", name="Take a sample").click()
    page.get_by_text("sample-3").first.wait_for()
    page.get_by_role("button", name="Add these").click()
    page.get_by_text("3 items joined the catalogue").wait_for()
    page.get_by_text("on the tabs Recommend and Select").wait_for()
    assert all(title.startswith("My ") for title in page.locator("#own-grid .u-title").all_inner_texts())
    page.locator("#files").get_by_text("sample-3").wait_for(state="detached")  # what was added is not sent again
    page.get_by_role("button", name="Take a sample").click()
    page.locator("#files").get_by_text("sample-3").first.wait_for()
    page.get_by_role("button", name="Add these").click()
    page.get_by_text("took the place of those").wait_for()


def test_a_picture_of_something_unknown_and_a_bomb(visit, tmp_path):
    page = visit()
    page.get_by_text("Add something the catalogue has never seen").click()
    page.get_by_label("What is it?").fill("<b>Bold</b> scarf")
    single = page.locator("input[type=file]:not([multiple])").first
    single.set_input_files(write(tmp_path / "scarf.png", png()))
    page.get_by_text("Added").wait_for()
    assert page.locator("#strip .u-title").inner_text() == "<b>Bold</b> scarf"
    single.set_input_files(write(tmp_path / "bomb.png", bomb(6000)))
    page.get_by_text("6000 x 6000").wait_for()
    assert len(cards(page, "#strip")) == 1


def test_a_bad_upload_is_told(visit, tmp_path):
    page = visit()
    open_tab(page, "Your items")
    page.get_by_role("button", name="Add these").click()
    page.get_by_text("Nothing was added").wait_for()
    send(page, write(tmp_path / "bad.zip", b"no archive"))
    page.get_by_text("The .zip file is damaged").wait_for()
    assert page.locator("#own-grid li").count() == 0


def test_a_model_that_cannot_draw_says_how_it_could(visit):
    page = visit()
    open_tab(page, "Imagine")
    page.get_by_text("This model cannot draw").wait_for()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_while_a_model_is_made_becomes_the_demo(browser, folder, tmp_path, viewport):
    from unimp.spaces_demo.server import make_page, serve
    from unimp.spaces_demo.waiting import WaitingPage

    write(tmp_path / "store.png", png((1436, 1330)))
    context = browser.new_context(viewport=viewport)
    with WaitingPage("127.0.0.1", picture=tmp_path / "store.png") as waiting:
        page = context.new_page()
        errors = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(waiting.address)
        waiting.tell("Learning, step 3 of 10", 0.3, 100)
        page.get_by_text("step 3 of 10").wait_for()
        assert page.get_by_role("progressbar").evaluate("bar => bar.value") == 0.3
        page.get_by_text("about 2 minutes left").wait_for()
        page.wait_for_function("document.querySelector('#picture').naturalWidth === 1436")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.title().startswith("30%")
        assert errors == []
        demo = make_page(folder)
    assert serve(demo, "127.0.0.1", waiting.port, block=False).startswith(waiting.address)
    page.wait_for_selector("#results [data-action=add]")
    context.close()
    demo.close(verbose=False)
