"""The pages as a user meets them, in headless Chromium. Skipped where there is none."""

import json
import shlex
import shutil

import httpx
import pytest
from pydantic import SecretStr
from scipy import stats

from reward_service.errors import Overloaded
from reward_service.rewards.base import Reward, Scores
from reward_service.settings import Settings
from shared.schemas import ItemError, RewardInfo
from tests.conftest import RULES, running_service

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage""".split()
KEY = "a-key-of-some-length"
PHONE_WIDTH = 375

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no Chromium with its driver: make browser")


class FakeReward(Reward):
    """Scores a text by its length; fails on `broken`, cuts off past 40 characters, refuses `busy` the first time."""

    info = RewardInfo(name="length", kind="rule", description="Counts `characters`", revision="1", range=(-20.0, 60.0))

    def __init__(self):
        self.batch_sizes = []

    async def score(self, items):
        texts = list(items.completions)
        self.batch_sizes.append(len(texts))
        if "busy" in texts and len(self.batch_sizes) == 1:
            raise Overloaded("the queue is full", retry_after_s=1.0)
        scores = [None if text == "broken" else len(text) - 20.0 for text in texts]
        errors = {i: ItemError(code="no_luck", message="it broke") for i, text in enumerate(texts) if text == "broken"}
        truncated = [i for i, text in enumerate(texts) if len(text) > 40]
        return Scores(scores=scores, details=[None] * len(texts), errors=errors, truncated=truncated)


class Page:
    """A page in the browser, with the few things a user does there."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, url, width=1280):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE_WIDTH}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(url)
        return self

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        return [element.text for element in self.all(selector)]

    def until(self, condition):
        WebDriverWait(self.driver, 20, poll_frequency=0.02).until(lambda _: condition())

    def wait_idle(self):
        self.until(lambda: self.find("#output").get_attribute("aria-busy") == "false")
        return self

    def choose(self, *rewards):
        for box in self.all("#rewards input"):
            if box.is_selected() != (box.get_attribute("value") in rewards):
                box.click()

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def enter(self, text, field="completions"):
        self.driver.execute_script("arguments[0].value = arguments[1]", self.find(f"#{field}"), text)

    def score(self):
        """Press Ctrl+Enter in the texts and wait for the end of the run."""
        self.find("#completions").send_keys(Keys.CONTROL, Keys.ENTER)
        return self.wait_idle()

    def view(self, name):
        self.driver.execute_script("arguments[0].click()", self.find(f"input[value={name}]"))

    def column(self, reward):
        return self.texts(f"td[data-label={reward}] .score .value")


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver):
    """A page whose console stays free of errors; a status that the service answered with is none."""
    driver.get_log("browser")
    yield Page(driver)
    assert [entry for entry in driver.get_log("browser") if entry["source"] != "network"] == []


@pytest.fixture
def keyed_url():
    with running_service(Settings(config=RULES, api_keys=[SecretStr(KEY)])) as url:
        yield url


def test_scores_and_parts(page, rules_url):
    """Each text has a row with the score of each chosen reward, and the parts of a composite below its sum."""
    page.open(rules_url).wait_idle()
    page.choose("banana", "banana_answer")
    page.enter("Sure: it is yellow banana\n\nno fruit")
    page.score()
    assert page.texts("tbody .text") == ["Sure: it is yellow banana", "no fruit"]
    assert page.column("banana") == ["1.975", "-0.510"]
    assert page.column("banana_answer") == ["2.175", "-0.310"]
    parts = page.texts("td[data-label=banana_answer] .part-name")
    assert parts == ["banana", "content_words"] * 2
    assert page.find("#status").text.startswith("2 texts scored by 2 rewards.")
    page.find("#show-parts").click()
    assert not page.all(".parts")


def test_bars_diverge_around_zero(page):
    """A bar grows from zero in the reward's range, to the left for a negative score."""
    with running_service(rewards={"length": FakeReward()}) as url:
        page.open(url).wait_idle()
        page.enter(f"{'a' * 10}\n{'b' * 40}")
        page.score()
        low, high = page.all("td .fill")
        bars = [
            [round(float(bar.value_of_css_property(side).removesuffix("px")), 1) for side in ("left", "width")]
            for bar in (low, high)
        ]
        width = page.find("td .bar").size["width"]
    assert bars == [pytest.approx([width / 8, width / 8], abs=0.6), pytest.approx([width / 4, width / 4], abs=0.6)]
    assert ["negative" in bar.get_attribute("class") for bar in (low, high)] == [True, False]


def test_missing_and_cut_off(page):
    """A score that is missing is shown with its code and message, a text that was read in part is marked."""
    with running_service(rewards={"length": FakeReward()}) as url:
        page.open(url).wait_idle()
        page.enter(f"broken\n{'a' * 50}")
        page.score()
    assert page.find(".missing").text == "no score no_luck"
    assert page.find(".reason").text == "it broke"
    assert page.texts(".tag") == ["cut off"]
    assert "1 score missing, 1 text cut off" in page.find("#status").text


def test_sorting_by_score(page, rules_url):
    """The header of a reward sorts the texts by its scores, highest first, then lowest first, then as given."""
    page.open(rules_url).wait_idle()
    page.choose("content_words")
    page.enter("yellow\nyellow fruit grows\nyellow fruit")
    page.score()
    orders = []
    for _ in range(3):
        page.find("button.sort").click()
        orders.append("".join(page.texts("tbody .number")))
    assert orders == ["231", "132", "123"]


def test_json_lines_file(page, rules_url, tmp_path):
    """A file may hold strings, chats, and objects with a prompt and further columns; they are scored in its order."""
    rows = [
        {"prompt": "Which fruit?", "completion": "Sure: banana", "answer": "banana"},
        {"prompt": [{"role": "user", "content": "And?"}], "completion": [{"role": "assistant", "content": "no"}]},
    ]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    page.open(rules_url).wait_idle()
    page.find("#file").send_keys(str(file))
    page.until(lambda: page.find("#loaded").is_displayed())
    assert page.find("#loaded-name").text == "texts.jsonl: 2 texts with prompts."
    page.find("#submit").click()
    page.wait_idle()
    assert page.column("banana") == ["1.990", "-0.505"]
    assert page.texts(".prompt") == ["Prompt:\nWhich fruit?", "Prompt:\nuser: And?"]


@pytest.mark.parametrize(
    ("pasted", "sentence"),
    [
        ("", "There is no text to score"),
        ("{", "Line 1 is not JSON"),
        ('"a"\n{"text": "b"}', 'Line 2 has no "completion"'),
        ('"a"\n\n{"completion": "b", "prompt": "c"}', "Line 3 has a prompt, line 1 has none"),
        ("3", "Line 1 is neither a string"),
    ],
)
def test_wrong_texts_are_refused(page, rules_url, pasted, sentence):
    """Texts that cannot be read are refused with one sentence that names the line."""
    page.open(rules_url).wait_idle()
    page.view("jsonl")
    page.enter(pasted)
    page.score()
    assert page.find("#problem").text.startswith(sentence)


def test_prompts_must_match_texts(page, rules_url):
    """Prompts are one for all texts or one a line; another number is refused."""
    page.open(rules_url).wait_idle()
    page.enter("one\ntwo\nthree")
    page.enter("a\nb", field="prompts")
    page.score()
    assert page.find("#problem").text.startswith("There are 2 prompt lines for 3 text lines")
    page.enter("a", field="prompts")
    page.score()
    assert page.texts(".prompt") == ["Prompt:\na"] * 3


def test_no_reward_is_refused(page, rules_url):
    """Without a chosen reward nothing is sent."""
    page.open(rules_url).wait_idle()
    page.choose()
    page.score()
    assert page.find("#problem").text == "Choose at least one reward."


def test_comparison_of_rewards(page, rules_url):
    """Two rewards are compared by a point for each text and the correlations that scipy computes."""
    texts = ["Sure: a banana", "Sure: yellow fruit grows", "banana", "much said of nothing fruitful", "so", "so"]
    body = {"completions": texts, "rewards": ["banana", "content_words"]}
    rewards = httpx.post(f"{rules_url}/v1/score", json=body).json()["rewards"]
    xs, ys = rewards["banana"]["scores"], rewards["content_words"]["scores"]
    page.open(rules_url).wait_idle()
    page.choose("banana", "content_words")
    page.enter("\n".join(texts))
    page.score()
    page.view("compare")
    spearman, pearson, n = page.texts(".figures dd")
    assert float(spearman) == pytest.approx(stats.spearmanr(xs, ys).statistic, abs=5e-4)
    assert float(pearson) == pytest.approx(stats.pearsonr(xs, ys).statistic, abs=5e-4)
    assert int(n) == len(texts) == len(page.all("circle"))
    assert page.texts(".scatter .axis") == ["banana", "content_words"]
    first, second = sorted(texts, key=lambda text: (xs[texts.index(text)], ys[texts.index(text)]))[:2]
    page.driver.execute_script("arguments[0].focus()", page.find("circle[tabindex='0']"))
    assert page.find(".point .text").text.endswith(first)
    page.press(Keys.ARROW_RIGHT)
    assert page.find(".point .text").text.endswith(second)


NASTY = ['it\'s "quoted" $HOME `id` \\n %s !!', "two\nlines\tand a tab", "ü 🍌 \u2028 </script>", ""]


def test_copied_code_runs(page, rules_url):
    """The Python program and the curl command make the page's request, whatever the texts hold."""
    rows = [{"completion": text, "prompt": "why?", "column": [None, True, {"a": 1.5}]} for text in NASTY]
    body = {
        "completions": NASTY,
        "prompts": ["why?"] * len(NASTY),
        "columns": {"column": [[None, True, {"a": 1.5}]] * len(NASTY)},
        "rewards": ["banana", "gated"],
        "details": True,
    }
    page.open(rules_url).wait_idle()
    page.choose("banana", "gated")
    page.view("jsonl")
    page.enter("\n".join(json.dumps(row) for row in rows))
    page.view("code")
    python, curl = (page.find(f"#{name}").get_property("textContent") for name in ("python", "curl"))

    scope = {}
    words = shlex.split(curl.replace("\\\n", " "))
    assert words[:2] == ["curl", f"{rules_url}/v1/score"]
    assert json.loads(words[words.index("--data-binary") + 1]) == body
    exec(python, scope)
    served = httpx.post(words[1], json=body).json()["rewards"]
    assert {name: reward.scores for name, reward in scope["response"].rewards.items()} == {
        name: reward["scores"] for name, reward in served.items()
    }
    assert scope["client"].urls == [rules_url]


def test_key_is_asked_for(page, keyed_url):
    """A service with keys asks for one, refuses a wrong one, and takes the right one, which the code never holds."""
    page.open(keyed_url).wait_idle()
    assert page.find("#key-problem").text == "This service needs an API key."
    page.find("#key").send_keys("a-wrong-key-of-some-length", Keys.ENTER)
    page.wait_idle()
    page.until(lambda: page.find("#key-problem").text == "The service does not accept this API key.")
    page.find("#key").clear()
    page.find("#key").send_keys(KEY, Keys.ENTER)
    page.until(lambda: page.texts("#rewards .name"))
    page.wait_idle().score()
    assert len(page.column("banana")) == 5
    page.view("code")
    code = page.find("#python").text + page.find("#curl").text
    assert KEY not in code
    assert code.count("REWARD_API_KEY") == 2
    assert KEY not in page.driver.page_source
    assert (
        page.driver.execute_script("return localStorage.length + sessionStorage.length + document.cookie.length") == 0
    )


def test_overload_is_waited_out(page):
    """Where the service is overloaded, the page says so and tries again after the time that it asks for."""
    reward = FakeReward()
    with running_service(rewards={"length": reward}) as url:
        page.open(url).wait_idle()
        reward.batch_sizes.clear()
        page.enter("busy")
        page.find("#completions").send_keys(Keys.CONTROL, Keys.ENTER)
        page.until(lambda: page.find("#status").text.endswith("Trying again in 1 s."))
        assert page.find("#status").text.startswith("The service is overloaded: the queue is full")
        page.wait_idle()
    assert page.column("length") == ["-16"]
    assert reward.batch_sizes == [1, 1]


def test_waiting_can_be_stopped(page):
    """The Stop button ends a wait, and the page is ready for the next run."""
    reward = FakeReward()
    with running_service(rewards={"length": reward}) as url:
        page.open(url).wait_idle()
        reward.batch_sizes.clear()
        page.enter("busy")
        page.find("#completions").send_keys(Keys.CONTROL, Keys.ENTER)
        page.until(lambda: "Trying again" in page.find("#status").text)
        page.find("#stop").click()
        page.wait_idle()
        assert page.find("#status").text == "Stopped."
        page.score()
    assert page.column("length") == ["-16"]


def test_unreachable_service(page):
    """A service that is gone is told of in one sentence."""
    with running_service() as url:
        page.open(url).wait_idle()
    page.score()
    assert page.find("#problem").text == "The service cannot be reached. Is it running?"


def test_long_work_goes_in_chunks(page):
    """Many texts are sent one chunk after the other, and their results keep their order."""
    reward = FakeReward()
    with running_service(Settings(max_request_texts=50, max_body_bytes=6000), rewards={"length": reward}) as url:
        page.open(url).wait_idle()
        reward.batch_sizes.clear()
        page.enter("\n".join("a" * (number % 37 + 1) for number in range(130)))
        page.score()
    assert sum(reward.batch_sizes) == 130
    assert max(reward.batch_sizes) <= 50
    assert len(reward.batch_sizes) >= 3
    assert page.find("#status").text.startswith("130 texts scored by 1 reward.")
    assert page.column("length") == [str(number % 37 - 19) for number in range(100)]
    page.find("#more").click()
    assert len(page.column("length")) == 130


def test_markup_stays_text(page, rules_url):
    """What texts hold is shown as it is, never as markup."""
    text = "<img src=x onerror=alert(1)><b>bold</b>"
    page.open(rules_url).wait_idle()
    page.enter(text)
    page.score()
    assert page.find("tbody .text").text == text
    assert not page.all("#output img, #output b")


def test_keyboard_alone(page, rules_url):
    """The form and the views can be used without a pointer, in the order of the page, with a visible focus."""
    page.open(rules_url).wait_idle()

    seen = []
    for _ in range(14):
        page.press(Keys.TAB)
        focused = page.driver.switch_to.active_element
        seen.append(focused.get_attribute("value" if focused.get_attribute("name") else "id") or focused.tag_name)
        if seen[-1] not in ("lines", "scores", "file"):  # those show it on their label
            assert focused.value_of_css_property("outline-style") == "solid", seen[-1]
    rewards = [name for reward in ("banana", "content_words", "banana_answer", "gated") for name in (reward, "summary")]
    assert seen == ["a", *rewards, "lines", "completions", "prompts", "file", "submit"]
    page.press(Keys.TAB, Keys.ARROW_RIGHT)
    assert page.find("#view-compare").is_displayed()


def test_every_field_has_a_label(page, rules_url):
    """Each control has a name that assistive technology reads."""
    page.open(rules_url).wait_idle()
    page.score()
    nameless = """const fields = [...document.querySelectorAll("input, textarea, select, button, progress")];
        return fields.filter((field) => !(field.labels?.length || field.textContent.trim() || field.ariaLabel))
            .map((field) => field.outerHTML)"""
    assert page.driver.execute_script(nameless) == []


@pytest.mark.parametrize("view", ["scores", "compare", "code"])
def test_playground_fits_a_phone(page, rules_url, view):
    """On a narrow screen nothing is wider than the screen."""
    page.open(rules_url, width=PHONE_WIDTH).wait_idle()
    page.choose("banana", "content_words", "banana_answer", "gated")
    page.enter("Sure: banana\n" + "unbrokenword" * 30 + "\nso\nyellow banana grows")
    page.score()
    page.view(view)
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= PHONE_WIDTH


@pytest.mark.parametrize("width", [1280, PHONE_WIDTH])
def test_documentation(page, rules_url, width):
    """The documentation lists every operation, fits the screen, and loads nothing from elsewhere."""
    page.open(f"{rules_url}/docs", width=width)
    page.until(lambda: page.all(".opblock"))
    paths = set(httpx.get(f"{rules_url}/openapi.json").json()["paths"])
    assert {element.get_attribute("data-path") for element in page.all(".opblock-summary-path")} == paths
    page.find(".opblock-summary-control").click()
    page.until(lambda: "completions" in page.find(".opblock-body").text)
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
    loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded
    assert all(name.startswith(rules_url) for name in loaded)


def test_documentation_makes_calls(page, keyed_url):
    """An operation can be tried out from the documentation, with the service's API key."""
    page.open(f"{keyed_url}/docs")
    page.until(lambda: page.all(".btn.authorize"))
    page.find(".btn.authorize").click()
    page.find(".modal-ux input").send_keys(KEY)
    page.find(".modal-ux button.authorize").click()
    page.find(".modal-ux button.btn-done").click()
    page.find("#operations-scoring-rewards_v1_rewards_get .opblock-summary-control").click()
    page.until(lambda: page.all(".try-out__btn"))
    page.find(".try-out__btn").click()
    page.find("button.execute").click()
    page.until(lambda: page.all(".live-responses-table .response-col_status"))
    assert page.find(".live-responses-table .response .response-col_status").text.startswith("200")
