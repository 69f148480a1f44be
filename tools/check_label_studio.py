"""What `tools/check_label_studio.sh` does once its server runs.

Every region of a few images goes out with the network's drafts (mode context) and as crops (mode
crop), to a project of its own each. In a real browser a person skips a task, leaves one without
submitting it, accepts one untouched, paints in others (one of them on an image that its EXIF data
turns), tries to delete and to move the locked region, and goes on with what was submitted; the API
answers the rest. What comes back is taken in by segal, and compared pixel by pixel: where the API
drew, with what was drawn; else with what label-studio-sdk decodes.
"""

import json
import re
import subprocess
import sys
import time
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segal.runs.ledger import Ledger
from segal.runs.returns import labels_of, returns_of
from segal.scenes.synthetic import make_scenes
from tools.web_browser import Browser, open_browser, until

TOKEN, MAIL, PASSWORD = "0123456789abcdef" * 2 + "01234567", "annotator@example.org", "not-a-secret"
NOTHING, VOID = -1, 255
OVER = 5  # pixels that the API paints over a region's edge
DELETE, BACKSPACE = "\ue017", "\ue003"
Task = dict[str, Any]
Label = NDArray[np.int64]


def main() -> None:
    work, port, libraries = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    sys.path.append(libraries)  # label-studio-sdk, behind what segal needs
    site = Site(port)
    make_pool(work)
    with open_browser(work / "loop" / "browser") as browser:
        try:
            check_context(work, site, browser)
            check_crops(work, site, browser)
        except BaseException:
            browser.picture(work / "failure.png")
            raise


def holds(what: str, is_so: object) -> None:
    """Says that something holds, or ends with an error."""
    if not is_so:
        raise SystemExit(f"FAIL {what}")
    print(f"PASS {what}", flush=True)


def segal(*words: object, code: int = 0) -> str:
    """Runs a command of segal, and returns all that it says."""
    command = [sys.executable, "-m", "segal", *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    said = ran.stdout + ran.stderr
    if ran.returncode != code:
        raise SystemExit(f"FAIL segal {' '.join(map(str, words))}: code {ran.returncode}\n{said}")
    return said


def make_pool(work: Path) -> None:
    """Street scenes, one of odd sides, and one that its EXIF data turns; and a small network."""
    scenes, images, loop = work / "loop" / "scenes", work / "media" / "images", work / "loop"
    images.mkdir(parents=True)
    make_scenes(scenes, splits={"train": 6, "val": 1}, size=(192, 384), seed=0)
    files = sorted(scenes.rglob("*_leftImg8bit.png"))
    (images / "scene.png").write_bytes(files[0].read_bytes())
    with Image.open(files[1]) as image:
        image.crop((10, 0, 343, 191)).save(images / "odd, 100% #1.png")
        turned = Image.Exif()
        turned[0x0112] = 6
        image.crop((0, 0, 301, 187)).save(images / "turned.jpg", exif=turned, quality=95)
    segal(
        *("train", "--data", scenes, "--out", loop / "model", "--threads", 1),
        *("model.architecture=tests.tiny_network:build", "train.iterations=60"),
        *("train.batch_size=4", "train.crop=128", "train.workers=0"),
    )


def select(work: Path, name: str) -> Path:
    """A run that bought every region."""
    run = work / "loop" / name
    segal(
        *("select", "--images", work / "media" / "images", "--region", 96, "--budget", "100%"),
        *("--checkpoint", work / "loop" / "model" / "model.safetensors", "--strategy", "uwe"),
        *("model.architecture=tests.tiny_network:build", "--threads", 1, "--out", run),
    )
    return run


class Site:
    """The server, and its API."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, content: object = None) -> Any:
        """Of the API."""
        data = None if content is None else json.dumps(content).encode()
        head = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        with urlopen(Request(self.base + path, data, head, method=method)) as answer:
            return json.loads(answer.read() or b"null")

    def log_in(self, browser: Browser) -> None:
        """Signs the browser in."""
        jar, page = CookieJar(), f"{self.base}/user/login/"
        opener = build_opener(HTTPCookieProcessor(jar))
        found = re.search(r'csrfmiddlewaretoken" value="(\w+)"', opener.open(page).read().decode())
        assert found is not None
        form = {"csrfmiddlewaretoken": found[1], "email": MAIL, "password": PASSWORD}
        form["persist_session"] = "on"
        opener.open(page, urlencode(form).encode())

        def is_in() -> bool:  # answers to what the browser asks by itself may take the cookie away
            browser.open(f"{self.base}/health")
            for cookie in jar:
                browser.add_cookie(cookie.name, cookie.value or "")
            browser.open(f"{self.base}/projects")
            return "login" not in browser.run("return location.pathname")

        until(is_in, "the browser to be signed in")

    def project(self, title: str, handout: Path, images: Path) -> "Project":
        """A project with what segal exported."""
        config = (handout / "label-config.xml").read_text()
        number = self.ask("POST", "/api/projects", {"title": title, "label_config": config})["id"]
        storage = {"project": number, "path": str(images), "use_blob_urls": True, "title": title}
        self.ask("POST", "/api/storages/localfiles/", storage)
        project = Project(self, number, handout)
        project.add(json.loads((handout / "tasks.json").read_text()))
        return project


class Project:
    """A project, and what was handed out to it.

    Attributes:
        tasks: As the manifest has them, by the number that the server gave.
    """

    def __init__(self, site: Site, number: int, handout: Path) -> None:
        self.site, self.number, self.tasks = site, number, dict[int, Task]()
        self.manifest = json.loads((handout / "segal-handout.json").read_text())
        self.classes = self.manifest["classes"]

    def add(self, tasks: list[Task]) -> None:
        """Imports tasks."""
        known = {task["key"]: task for task in self.manifest["tasks"]}
        path = f"/api/projects/{self.number}/import?return_task_ids=true"
        numbers = self.site.ask("POST", path, tasks)["task_ids"]
        for number, task in zip(numbers, tasks, strict=True):
            self.tasks[number] = known[task["data"]["segal_task"]]

    def numbers(self, image: str) -> list[int]:
        """Of the tasks of an image, in the order of the picks."""
        return [number for number, task in self.tasks.items() if task["image"] == image]

    def draw(self, number: int, seed: int, *, cancelled: bool = False) -> Label:
        """Answers a task through the API with blobs of every class, and returns them."""
        from label_studio_sdk.converter.brush import mask2rle  # noqa: PLC0415

        task, rng = self.tasks[number], np.random.default_rng(seed)
        (_, _, width, height), (x, y, columns, rows) = task["frame"], in_frame(task)
        blobs = rng.integers(0, len(self.classes), (height // 7 + 1, width // 5 + 1))
        label = np.kron(blobs, np.ones((7, 5), np.int64))[:height, :width]
        kept = np.zeros(label.shape, bool)
        kept[max(0, y - OVER) : y + rows + OVER, max(0, x - OVER) : x + columns + OVER] = True
        label[~kept] = NOTHING
        results = []
        for index in np.unique(label[kept]).tolist():
            rle = mask2rle((label == index).astype(np.uint8) * 255)
            value = {"format": "rle", "rle": rle, "brushlabels": [self.classes[index]]}
            size = {"original_width": width, "original_height": height, "image_rotation": 0}
            named = {"from_name": "brush", "to_name": "image", "type": "brushlabels"}
            results.append({"id": f"r{index}", **named, **size, "value": value})
        answer = {"result": results, "lead_time": 7.5, "was_cancelled": cancelled}
        self.site.ask("POST", f"/api/tasks/{number}/annotations/", answer)
        return label

    def export(self, path: Path) -> list[Task]:
        """The plain JSON export, also as a file."""
        asked = "exportType=JSON&download_all_tasks=true"
        request = Request(
            f"{self.site.base}/api/projects/{self.number}/export?{asked}",
            headers={"Authorization": f"Token {TOKEN}"},
        )
        with urlopen(request) as answer:
            path.write_bytes(answer.read())
        found: list[Task] = json.loads(path.read_text())
        return found

    def annotations(self, number: int) -> list[Task]:
        """Of a task."""
        found: list[Task] = self.site.ask("GET", f"/api/tasks/{number}")["annotations"]
        return found


def in_frame(task: Task) -> tuple[int, int, int, int]:
    """The region of a task in what is shown."""
    (x, y, columns, rows), (left, top, _, _) = task["region"], task["frame"]
    return x - left, y - top, columns, rows


class Editor:
    """A person with the editor in a browser."""

    def __init__(self, browser: Browser, project: Project) -> None:
        self.browser, self.project, self.number = browser, project, 0

    def open(self, number: int) -> None:
        """A task, and waits until its image is there."""
        self.number = number
        self.browser.open(
            f"{self.project.site.base}/projects/{self.project.number}/data?task={number}"
        )
        self.wait()

    def wait(self) -> None:
        """Until the image is there, and what was drawn before."""
        script = "return document.querySelectorAll('.konvajs-content canvas').length"
        until(lambda: self.browser.run(script), "the image")
        until(lambda: self.browser.run("return !document.querySelector('.lsf-spinner')"), "it")
        time.sleep(2)

    def click(self, script: str) -> None:
        """The element that an expression of JavaScript gives."""
        place = f"const e = {script}; const r = e && e.getBoundingClientRect(); "
        place += "return r && r.width ? [r.x + r.width / 2, r.y + r.height / 2] : null"
        x, y = until(lambda: self.browser.run(place), script, 20)
        self.browser.drag([(x, y)])

    def press_button(self, text: str) -> None:
        """A button of that text."""
        self.click(
            f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === '{text}')"
        )

    def choose(self, label: str) -> None:
        """The brush of a label, which may lie below what is seen of a tall image."""
        find = "[...document.querySelectorAll('.lsf-label')].find(e => e.innerText.trim()"
        find += f".split('\\n')[0].trim() === '{label}')"
        until(lambda: self.browser.run(f"return {find}"), label, 20)
        self.browser.run(f"{find}.click()")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A pixel of the image in the window."""
        # The editor may zoom in a little at first, so that the canvas does not tell where it is.
        script = "return [...document.querySelectorAll('img')].map(e => e.getBoundingClientRect())"
        script += ".map(r => [r.x, r.y, r.width, r.height]).sort((a, b) => b[2] - a[2])[0]"
        left, top, width, height = self.browser.run(script)
        _, _, columns, rows = self.project.tasks[self.number]["frame"]
        return left + (x + 0.5) * width / columns, top + (y + 0.5) * height / rows

    def paint(self, label: str, points: list[tuple[int, int]]) -> None:
        """A stroke of the brush over pixels of the image."""
        self.choose(label)
        self.browser.drag([self.place(x, y) for x, y in points])
        time.sleep(1)

    def submit(self, text: str = "Submit") -> None:
        """Hands the work in, and waits until it has arrived."""
        before = [one["updated_at"] for one in self.project.annotations(self.number)]
        self.press_button(text)
        until(
            lambda: [one["updated_at"] for one in self.project.annotations(self.number)] != before,
            f"{text} of task {self.number}",
        )

    def select(self, label: str) -> None:
        """What is drawn of a label already, in the list at the side."""
        self.click(
            "[...document.querySelectorAll('[class*=outliner]')]"
            f".find(e => e.innerText.trim() === '{label}')"
        )
        time.sleep(0.5)

    def is_outlined(self, path: Path) -> bool:
        """Whether the region's outline is seen, at the middle of each side within the image.

        Args:
            path: Where the picture is kept.
        """
        self.browser.picture(path)
        x, y, columns, rows = in_frame(self.project.tasks[self.number])
        _, _, width, height = self.project.tasks[self.number]["frame"]
        sides = {(x, y + rows / 2): x, (x + columns - 1, y + rows / 2): width - x - columns}
        sides |= {(x + columns / 2, y): y, (x + columns / 2, y + rows - 1): height - y - rows}
        with Image.open(path) as opened:
            pixels = np.array(opened.convert("RGB")).astype(int)
        for place in (place for place, is_within in sides.items() if is_within):
            left, top = map(round, self.place(*place))
            near = pixels[top - 6 : top + 7, left - 6 : left + 7].reshape(-1, 3)
            if np.abs(near - (255, 212, 0)).sum(1).min() > 60:
                return False
        return True


class Drawings:
    """What a person has drawn according to an export, as label-studio-sdk decodes it.

    Args:
        tasks: As segal exported them; the network's drafts are in them.
        classes: Names.
    """

    def __init__(self, tasks: list[Task], classes: list[str]) -> None:
        self.classes, self.partial = classes, 0
        self.drafts = {
            (task["data"]["segal_task"], one["id"]): one
            for task in tasks
            for prediction in task.get("predictions", [])
            for one in prediction["result"]
        }

    def mask(self, result: Task) -> NDArray[np.bool_]:
        """The pixels of a brush."""
        from label_studio_sdk.converter.brush import decode_rle  # noqa: PLC0415

        shape = result["original_height"], result["original_width"], 4
        alpha = np.asarray(decode_rle(result["value"]["rle"])).reshape(shape)[..., 3]
        self.partial += int(((alpha > 0) & (alpha < 255)).sum())
        return alpha >= 128

    def label(self, key: str, annotation: Task) -> Label:
        """Of what is shown: drafts as far as they are left, and above them what was drawn."""
        results = [one for one in annotation["result"] if one["type"] == "brushlabels"]
        label = np.full((results[0]["original_height"], results[0]["original_width"]), NOTHING)
        above = []
        for result in results:
            (name,) = result["value"]["brushlabels"]
            mask, draft = self.mask(result), self.drafts.get((key, result["id"]))
            old = np.zeros_like(mask)
            if draft is not None and draft["value"]["brushlabels"] == [name]:
                old = mask & self.mask(draft)
            label[old] = self.classes.index(name)
            above.append((mask & ~old, name))
        for mask, name in above:
            label[mask] = self.classes.index(name)
        return label


def compare(run: Path, project: Project, labels: dict[int, Label]) -> tuple[int, int]:
    """How many pixels of how many are booked otherwise than they were drawn."""
    wrong = pixels = 0
    with Ledger.reopen(run) as ledger:
        booked = labels_of(returns_of(ledger))
    assert len(booked) == len(labels), (len(booked), len(labels))
    for number, label in labels.items():
        task = project.tasks[number]
        (x, y, columns, rows), (left, top, width, height) = task["region"], in_frame(task)
        drawn = label[top : top + height, left : left + width].copy()
        drawn[(drawn == NOTHING) | (drawn == project.classes.index("void"))] = VOID
        file = run / booked[task["image"], (x, y, x + columns, y + rows)].file
        with Image.open(file) as image:
            wrong += int((np.array(image) != drawn).sum())
        pixels += drawn.size
    return wrong, pixels


def check_context(work: Path, site: Site, browser: Browser) -> None:
    """Whole images, with drafts."""
    run, handout = select(work, "context"), work / "loop" / "context-handout"
    address = "/data/local-files/?d=images/{file}"
    segal(
        *("export", run, "--to", "label-studio", "--drafts", "--out", handout),
        *("--image-url", address),
    )
    project = site.project("context", handout, work / "media" / "images")
    site.log_in(browser)
    handed = json.loads((handout / "tasks.json").read_text())
    drawings = Drawings(handed, project.classes)
    editor = Editor(browser, project)
    numbers = list(project.tasks)
    large = [n for n in numbers[1:] if min(in_frame(project.tasks[n])[2:]) >= 60]
    of = {name: [n for n in large if n in project.numbers(name)] for name in IMAGES}
    scene, odd, turned = (of[name] for name in IMAGES)
    stroked, untouched, left, extended = scene[:4]

    browser.open(f"{site.base}/projects/{project.number}/data?labeling=1")
    editor.wait()
    editor.press_button("Skip")
    until(lambda: project.annotations(numbers[0]), "the skipped task")
    holds("the first task that people get is the first pick", True)
    (skipped,) = project.annotations(numbers[0])
    holds("a skipped task is a cancelled annotation, with all drafts in it", skipped["result"])
    assert skipped["was_cancelled"]

    check_locked_region(work, editor, stroked, handed[numbers.index(stroked)])
    editor.open(untouched)
    editor.submit()
    check_draft_extended(editor, left, extended, handed[numbers.index(extended)])
    for number in (odd[0], turned[0]):
        check_place(editor, drawings, number)

    by_browser = [numbers[0], stroked, untouched, left, extended, odd[0], turned[0]]
    others = [number for number in numbers if number not in by_browser]
    cancelled, twice = others[:2]
    labels = {number: project.draw(number, number) for number in others[1:]}
    project.draw(cancelled, 0, cancelled=True)
    labels[twice] = project.draw(twice, 1000)
    exported = {task["id"]: task for task in project.export(work / "context-1.json")}
    for number in (stroked, untouched, extended, odd[0], turned[0]):
        (answer,) = exported[number]["annotations"]
        labels[number] = drawings.label(project.tasks[number]["key"], answer)
    said = segal("import", run, work / "context-1.json")
    print(said)
    holds(
        "skipped, cancelled and unfinished work is left open, and all else is taken",
        f"{len(labels)} regions came back" in said and "3 are open" in said,
    )
    holds("of two answers of one person the later one is taken", "answered twice" in said)
    holds("what nobody touched is counted", "nobody touched" in said)
    report("context", compare(run, project, labels))
    go_on(work, run, project, editor, drawings, labels, stroked, left)

    # A later handout, of a network that learnt from these labels, goes to the same project.
    (again,) = json.loads(json.dumps(handed[numbers.index(cancelled) :][:1]))
    again["predictions"][0]["model_version"] = "a later network"
    project.add([again])
    number = list(project.tasks)[-1]
    editor.open(number)
    holds("a later handout's region is seen, too", editor.is_outlined(work / "later.png"))


def check_locked_region(work: Path, editor: Editor, number: int, handed: Task) -> None:
    """What a person sees of a task, and cannot change."""
    project = editor.project
    editor.open(number)
    holds("the region's outline is seen", editor.is_outlined(work / "context.png"))
    script = "return [...document.querySelectorAll('.lsf-label')].filter(e => e.offsetParent)"
    offered = editor.browser.run(script + ".map(e => e.innerText.split('\\n')[0].trim())")
    holds("the classes are offered, and the region's label is not", offered == project.classes)
    script = "return performance.getEntriesByType('resource').map(e => e.name)"
    outside = [
        x
        for x in editor.browser.run(script)
        if not x.startswith((project.site.base, "data:", "blob:"))
    ]
    holds("the page asks for nothing from elsewhere", not outside)
    try_to_move_region(editor)
    x, y, columns, rows = in_frame(project.tasks[number])
    editor.paint("car", [(x + 8, y + 8), (x + columns // 2, y + rows - 8), (x + columns, y + 8)])
    editor.submit()
    (answer,) = project.annotations(number)
    regions = [one for one in answer["result"] if one["type"] == "rectanglelabels"]
    handed_region = handed["predictions"][0]["result"][0]
    same = [one["value"] == handed_region["value"] and one["readonly"] for one in regions]
    holds("keys and mouse neither delete nor move the locked region", same == [True])
    origins = {one.get("origin") for one in answer["result"]}
    holds("what was drawn is told from drafts", origins == {"prediction", "manual"})


def check_draft_extended(editor: Editor, left: int, extended: int, handed: Task) -> None:
    """A task that is left without submitting it, and a draft that is painted on."""
    project = editor.project
    editor.open(left)
    x, y, columns, rows = in_frame(project.tasks[left])
    editor.paint("bus", [(x + 8, y + rows // 2), (x + columns - 8, y + rows // 2)])
    until(lambda: project.site.ask("GET", f"/api/tasks/{left}")["drafts"], "the draft")
    editor.open(extended)
    x, y, columns, rows = in_frame(project.tasks[extended])
    drafted = handed["predictions"][0]["result"]
    editor.select(drafted[1]["value"]["brushlabels"][0])
    zigzag = [(x + columns * i // 9, y + (8 if i % 2 else rows - 8)) for i in range(10)]
    editor.browser.drag([editor.place(*place) for place in zigzag])
    time.sleep(1)
    editor.submit()
    (answer,) = project.annotations(extended)
    kinds = [one.get("origin") for one in answer["result"]]
    holds(
        "a draft that is extended keeps its place below later ones",
        kinds[1] == "prediction-changed" and set(kinds[2:]) == {"prediction"},
    )


def check_place(editor: Editor, drawings: Drawings, number: int) -> None:
    """Whether a stroke is where it was drawn, on an image of any orientation."""
    project = editor.project
    editor.open(number)
    x, y, columns, rows = in_frame(project.tasks[number])
    editor.paint("train", [(x + 8, y + 8), (x + columns - 8, y + rows - 8)])
    editor.submit()
    stroke = next(r for r in project.annotations(number)[0]["result"] if r["id"] != "region")
    size = [stroke["original_width"], stroke["original_height"]]
    holds(
        f"{project.tasks[number]['image']} has the sizes that it is shown in",
        size == project.tasks[number]["frame"][2:],
    )
    (last,) = (r for r in project.annotations(number)[0]["result"] if r["origin"] == "manual")
    found = np.argwhere(drawings.mask(last))[:, ::-1]
    ends = np.abs(found - (x + 8, y + 8)).sum(1).min(), np.ptp(found, 0)
    near = ends[0] <= 4 and np.abs(ends[1] - (columns - 16, rows - 16)).max() <= 30
    holds("a stroke lies where it was drawn", near)


IMAGES = ("scene.png", "odd, 100% #1.png", "turned.jpg")


def try_to_move_region(editor: Editor) -> None:
    """What an annotator may do to it by mistake."""
    x, y, columns, rows = in_frame(editor.project.tasks[editor.number])
    editor.select("segal_region")
    for key in (DELETE, BACKSPACE):
        editor.browser.press(key)
    editor.click("document.querySelector('[aria-label=move-tool]')")
    middle, side = (x + columns / 2, y + rows / 2), (x + columns - 1, y + rows / 2)
    for place in (middle, side):
        editor.browser.drag([editor.place(*place), editor.place(place[0] + 15, place[1] - 15)])
        time.sleep(0.5)
    editor.browser.press("escape")


def go_on(
    work: Path,
    run: Path,
    project: Project,
    editor: Editor,
    drawings: Drawings,
    labels: dict[int, Label],
    stroked: int,
    left: int,
) -> None:
    """Late work, and work that is changed after it came back."""
    editor.open(left)
    editor.submit()
    editor.open(stroked)
    x, y, columns, rows = in_frame(project.tasks[stroked])
    before = project.annotations(stroked)[0]
    editor.browser.press("escape")
    editor.paint("sky", [(x + 8, y + rows // 2), (x + columns - 8, y + rows // 2)])
    editor.submit("Update")
    (answer,) = project.annotations(stroked)
    same = answer["id"] == before["id"] and answer["lead_time"] > before["lead_time"]
    holds("an update keeps the annotation, and its time is a sum", same)
    exported = {task["id"]: task for task in project.export(work / "context-2.json")}
    for number in (stroked, left):
        (done,) = exported[number]["annotations"]
        labels[number] = drawings.label(project.tasks[number]["key"], done)
    refused = segal("import", run, work / "context-2.json", code=2)
    holds("a changed answer is refused without --replace", "--replace" in refused)
    said = segal("import", run, work / "context-2.json", "--replace")
    print(said)
    holds(
        "late work is taken, and the changed answer replaced",
        "1 regions came back, 1 answers replaced" in said and "2 are open" in said,
    )
    report("context, with late and changed work", compare(run, project, labels))
    with Ledger.reopen(run) as ledger:
        booked = sum(one.seconds or 0 for one in labels_of(returns_of(ledger)).values())
    told = sum(
        max(
            (one for one in exported[number]["annotations"] if not one["was_cancelled"]),
            key=lambda one: one["updated_at"],
        )["lead_time"]
        for number in labels
    )
    holds(f"the time booked is what the tool says, {told:.1f} s", abs(booked - told) < 1e-6)
    segal("validate", run)
    holds("segal validate finds the account in order", True)
    print(f"     pixels that the brush left partly covered: {drawings.partial}")


def check_crops(work: Path, site: Site, browser: Browser) -> None:
    """Crops, without drafts."""
    run, handout = select(work, "crops"), work / "media" / "handout"
    address = "/data/local-files/?d=handout/{file}"
    segal(
        *("export", run, "--to", "label-studio", "--mode", "crop", "--out", handout),
        *("--image-url", address),
    )
    project = site.project("crops", handout, handout / "crops")
    site.log_in(browser)
    drawings = Drawings(json.loads((handout / "tasks.json").read_text()), project.classes)
    editor = Editor(browser, project)
    by_brush = [project.numbers(name)[0] for name in IMAGES]
    labels = {}
    for number in by_brush:
        editor.open(number)
        shown = editor.is_outlined(work / f"crop-{number}.png")
        holds(f"a crop of {project.tasks[number]['image']} shows its region", shown)
        x, y, columns, rows = in_frame(project.tasks[number])
        editor.paint("road", [(x + 4, y + 4), (x + columns // 2, y + rows - 4)])
        browser.press("escape")
        width, height = project.tasks[number]["frame"][2:]
        editor.paint("bicycle", [(1, height // 2), (width - 2, height // 2)])
        editor.submit()
    for number in project.tasks:
        if number not in by_brush:
            labels[number] = project.draw(number, number)
    exported = {task["id"]: task for task in project.export(work / "crops.json")}
    for number in by_brush:
        (answer,) = exported[number]["annotations"]
        labels[number] = drawings.label(project.tasks[number]["key"], answer)
    refused = segal("import", run, work / "crops.json", code=2)
    holds("unpainted pixels are refused", "--unpainted" in refused)
    print(segal("import", run, work / "crops.json", "--unpainted", "ignore"))
    report("crops", compare(run, project, labels))


def report(what: str, counts: tuple[int, int]) -> None:
    """Of pixels that are compared."""
    wrong, pixels = counts
    holds(f"{what}: {wrong} of {pixels} pixels differ from what was drawn", wrong == 0)


if __name__ == "__main__":
    main()
