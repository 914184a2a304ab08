"""The demo in a real browser: what it computes, says, writes and asks for.

One browser for all tests: it takes a second to start.
"""

import base64
import functools
import hashlib
import http.server
import io
import json
import pathlib
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

import reldepth_jax
from reldepth_jax import Model
from reldepth_jax.data.images import pictures
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.demo import folder
from reldepth_jax.demo.server import server
from tests.fixtures import chromium

pytestmark = pytest.mark.skipif(
    not chromium.PROGRAM, reason="no Chromium here (Debian and Ubuntu: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Chromium]:
    with chromium.running() as made:
        yield made


def served(place: pathlib.Path) -> str:
    """Serve a folder until the tests end; return its address."""
    made = server(place)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{made.server_port}/"


@pytest.fixture(scope="module")
def modules(browser: chromium.Chromium) -> chromium.Page:
    """Return a page at which the modules of the demo can be imported; without a network."""
    return chromium.Page(browser, served(folder.PAGE))


def packed(array: np.ndarray) -> str:
    """Return JavaScript for the bytes of an array."""
    text = base64.b64encode(array.tobytes()).decode()
    return f"Uint8Array.from(atob('{text}'), c => c.charCodeAt(0))"


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.float32)


JAVASCRIPT = """
const { fittedSize, Shrinker, Enlarged } = await import('./resample.js');
const text = (array) => {
  let letters = '';
  for (const byte of new Uint8Array(array.buffer)) letters += String.fromCharCode(byte);
  return btoa(letters);
};
"""


def run(page: chromium.Page, body: str) -> Any:
    return page.evaluate(f"(async () => {{ {JAVASCRIPT} {body} }})()")


FITS = ["short_side", "long_side_floor", "long_side_ceil", "square", "lower_bound", "minimal"]


def test_sizes_are_those_of_python(modules: chromium.Page):
    rng = np.random.default_rng(0)
    sizes = [[int(side) for side in 2 ** rng.uniform(0, 14, 2)] for _ in range(300)]
    sizes += [[480, 640], [1, 1], [1, 16000], [16000, 1], [375, 1242], [240, 320], [1440, 1080]]
    asked = [
        {"fit": fit, "size": size, "multiple": multiple, "shrink": "triangle"}
        for fit in FITS
        for size, multiple in ((160, 32), (392, 14), (518, 14))
        if fit in ("short_side", "lower_bound", "minimal") or size % multiple == 0
    ]
    got = run(
        modules,
        f"return {json.dumps(asked)}.map(p => {json.dumps(sizes)}.map(s => fittedSize(s, p)));",
    )
    for options, found in zip(asked, got, strict=True):
        preprocessing = Preprocessing(**options)
        expected = [list(preprocessing._fitted(*size)) for size in sizes]
        assert found == expected, options


@pytest.mark.parametrize("kernel", ["triangle", "lanczos", "cubic", "area"])
@pytest.mark.parametrize("size", [(75, 131), (40, 61), (20, 300), (64, 160)])
def test_photographs_are_shrunk_as_in_python(modules, kernel, size):
    rng = np.random.default_rng(1)
    # Noise, and an edge at which kernels overshoot.
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    pixels[:, : size[1] // 3] = 255 * (rng.uniform(size=(size[0], size[1] // 3, 1)) < 0.5)
    options = {"fit": "short_side", "size": 64, "multiple": 32, "shrink": kernel}
    preprocessing = Preprocessing(**options)
    expected, _ = preprocessing.network_image(pixels)
    if expected.dtype == np.uint8:
        expected = expected.astype(np.float32) / np.float32(255)
    rgba = np.concatenate([pixels, np.full((*size, 1), 255, np.uint8)], axis=2)
    height, width = size
    answer = run(
        modules,
        f"""
        const rgba = {packed(rgba)};
        const size = [{height}, {width}];
        const shrinker = new Shrinker(size, fittedSize(size, {json.dumps(options)}), '{kernel}');
        for (let y = 0; y < size[0]; y++) shrinker.push(rgba, 4 * y * size[1], y);
        const {{ data, size: made }} = shrinker.finish(32);
        return [text(data), made];
        """,
    )
    got = unpacked(answer[0]).reshape(3, *answer[1]).transpose(1, 2, 0)
    assert got.shape == expected.shape
    # Pillow's fixed point exactly; sums of float64 in another order elsewhere.
    bound = 0 if kernel in ("triangle", "lanczos") else 1e-7
    assert np.abs(got - expected).max() <= bound


@pytest.mark.parametrize("kernel", ["triangle", "cubic", "linear", "linear_aligned"])
@pytest.mark.parametrize("size", [(75, 131), (20, 30), (32, 200), (70, 64)])
def test_maps_are_enlarged_as_in_python(modules, kernel, size):
    score = np.random.default_rng(2).normal(size=(32, 64)).astype(np.float32)
    expected = Preprocessing(enlarge=kernel).at_image_size(score, size)
    height, width = size
    band, points = run(
        modules,
        f"""
        const map = new Float32Array({packed(score)}.buffer);
        const enlarged = new Enlarged(map, [32, 64], [{height}, {width}], '{kernel}');
        const points = new Float32Array({height * width});
        for (let k = 0; k < points.length; k++) {{
          points[k] = enlarged.at(Math.floor(k / {width}), k % {width});
        }}
        return [text(enlarged.band(0, {height})), text(points)];
        """,
    )
    for got in (unpacked(band), unpacked(points)):
        assert np.abs(got.reshape(size) - expected).max() <= (0 if kernel == "triangle" else 3e-7)


def test_colours_are_those_of_python_where_values_are_equal(modules: chromium.Page):
    values = np.random.default_rng(5).integers(0, 9, (30, 40)).astype(np.float32)
    got = run(
        modules,
        f"""
        const {{ colourEdges, paint }} = await import('./picture.js');
        const map = new Float32Array({packed(values)}.buffer);
        const enlarged = new Enlarged(map, [30, 40], [30, 40], 'triangle');
        const pixels = new Uint8Array(3 * map.length);
        const colours = {json.dumps(pictures.colors().ravel().tolist())};
        paint(map, colourEdges(enlarged), colours, pixels, 3);
        return text(pixels);
        """,
    )
    colours = np.frombuffer(base64.b64decode(got), np.uint8).reshape(30, 40, 3)
    np.testing.assert_array_equal(colours, pictures.colorize(values))


@pytest.mark.parametrize(
    ("height", "width"), [(700, 9000), (3000, 1500)], ids=["wider than a tile", "several bands"]
)
def test_all_rows_are_read(modules: chromium.Page, height: int, width: int):
    coarse = photograph(height // 10, width // 10)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG")
    digest = run(
        modules,
        f"""
        const {{ decode, readRows }} = await import('./photograph.js');
        const file = new Blob([{packed(np.frombuffer(file.getvalue(), np.uint8))}]);
        const bitmap = await decode(file, 1e8);
        const all = new Uint8Array({4 * height * width});
        readRows(bitmap, (rgba, offset, y) =>
          all.set(rgba.subarray(offset, offset + {4 * width}), y * {4 * width}));
        return text(new Uint8Array(await crypto.subtle.digest('SHA-256', all)));
        """,
    )
    assert base64.b64decode(digest) == hashlib.sha256(image.convert("RGBA").tobytes()).digest()


@pytest.fixture(scope="module")
def model() -> Model:
    return reldepth_jax.load_model()


@pytest.fixture(scope="module")
def site(model: Model, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a published folder, in a folder that a server hands out."""
    place = tmp_path_factory.mktemp("server") / "some" / "where"
    folder.write(place, model, "reldepth_small")
    return place


class Demo(chromium.Page):
    """The page with what a person does there."""

    def __init__(self, browser: chromium.Chromium, address: str):
        super().__init__(browser, address)
        self.jobs = 0
        self.wait("document.querySelector('#status').textContent == 'Ready.'")

    @property
    def status(self) -> str:
        return self.evaluate("document.querySelector('#status').textContent")

    def show(self, path: pathlib.Path) -> None:
        """Choose a photograph and wait for its map."""
        self.choose("#file", path)
        self.finish()

    def finish(self) -> None:
        self.jobs += 1
        self.wait(f"document.querySelector('#stage').dataset.job == '{self.jobs}'")

    def refuse(self, path: pathlib.Path) -> str:
        """Choose a file that is no photograph; return what the page says."""
        self.choose("#file", path)
        self.jobs += 1
        name = json.dumps(path.name + ":")
        self.wait(f"document.querySelector('#status.wrong')?.textContent.startsWith({name})")
        return self.status

    def click_at(self, x: int, y: int) -> None:
        """Click the pixel of the photograph."""
        place = self.evaluate(
            "(() => { const b = document.querySelector('#stage').getBoundingClientRect();"
            " return [b.x, b.y, b.width, b.height]; })()"
        )
        height, width = self.evaluate(
            "[document.querySelector('#photograph')].map(c => [c.height, c.width])[0]"
        )
        left, top, wide, high = place
        self.click(left + (x + 0.5) * wide / width, top + (y + 0.5) * high / height)

    def answer(self, turn: int) -> dict[str, Any]:
        """Return what the page says of the pair of points `turn`."""
        self.wait(f"document.querySelector('#answer').dataset.turn == '{turn}'")
        told = self.evaluate(
            "[document.querySelector('#answer')].map(a => ({...a.dataset, text: a.innerText}))[0]"
        )
        return {**told, **{key: json.loads(told[key]) for key in ("points", "scores")}}

    def save(self, what: str, folder: pathlib.Path) -> pathlib.Path:
        """Save the map; return the file."""
        self.browser.send(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder),
            eventsEnabled=True,
        )  # fmt: skip
        seen = len(self.browser.events)
        self.evaluate(f"document.querySelector('[data-save={what}]').click()")
        name = self.wait("document.querySelector('#status').textContent.match(/^Saved: (.*)/)?.[1]")
        while not any(
            event["method"] == "Browser.downloadProgress"
            and event["params"]["state"] == "completed"
            for event in self.browser.events[seen:]
        ):
            self.browser.poll(0.05)
        self.evaluate("document.querySelector('#status').textContent = ''")
        return folder / name

    def map(self, folder: pathlib.Path) -> np.ndarray:
        """Return the map as saved, float32."""
        path = self.save("npy", folder)
        values = np.load(path)
        path.unlink()
        return values


@pytest.fixture(scope="module")
def demo(browser: chromium.Chromium, site: pathlib.Path) -> Demo:
    return Demo(browser, served(site))


def photograph(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Return patches of colour under a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 20 + 1, width // 20 + 1, channels))
    fine = coarse.repeat(20, 0).repeat(20, 1)[:height, :width] + rng.integers(
        -9, 10, (height, width, channels)
    )
    return np.clip(fine, 0, 255).astype(np.uint8)


BOUND = 2e-5
"""Of the largest difference of scores, whose standard deviation is about 0.5; 4e-6 measured."""


def error(got: np.ndarray, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    return float(np.abs(got - expected).max())


def test_the_map_is_that_of_python(demo: Demo, model: Model, tmp_path: pathlib.Path):
    path = tmp_path / "photo.png"
    Image.fromarray(photograph(300, 291)).save(path)
    demo.show(path)
    assert "photo.png, 291x300" in demo.status
    side = model.preprocessing.size
    assert f"{side}x{side}" in demo.status
    assert error(demo.map(tmp_path), model.predictor()(path)) < BOUND


@pytest.mark.parametrize(
    "kind", ["turned JPEG", "transparent PNG", "odd profile", "grey WebP", "tiny", "palette GIF"]
)
def test_other_photographs_are_read_as_in_python(demo, model, tmp_path, kind):
    path = tmp_path / "photo"
    image = Image.fromarray(photograph(150, 141))
    bound = BOUND
    if kind == "turned JPEG":
        exif = Image.Exif()
        exif[274] = 6  # orientation: turn by 90 degrees
        image.save(path, "JPEG", quality=90, exif=exif)
    elif kind == "transparent PNG":
        Image.fromarray(photograph(150, 141, 4)).save(path, "PNG")
        bound = 0.2  # a canvas keeps colours multiplied by their alpha, in 8 bits
    elif kind == "odd profile":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        swapped = profile.replace(b"rXYZ", b"----", 1).replace(b"bXYZ", b"rXYZ", 1)
        image.save(path, "PNG", icc_profile=swapped.replace(b"----", b"bXYZ", 1))
    elif kind == "grey WebP":
        image.convert("L").save(path, "WEBP", lossless=True)
    elif kind == "tiny":
        Image.fromarray(photograph(2, 2)).save(path, "PNG")
    else:
        image.quantize(64).save(path, "GIF")
    demo.show(path)
    assert error(demo.map(tmp_path), model.predictor()(path)) < bound


def test_the_answer_for_two_points_is_that_of_python(demo: Demo, model: Model):
    example = folder.PAGE / "example.jpg"
    demo.show(example)
    rng = np.random.default_rng(0)
    score = model.predictor()(example)
    height, width = score.shape
    for turn in range(1, 9):
        points = [(int(rng.integers(width)), int(rng.integers(height))) for _ in range(2)]
        for point in points:
            demo.click_at(*point)
        told = demo.answer(turn)
        # The browser rounds where a click was down to whole pixels of the screen.
        assert np.abs(np.array(told["points"]) - [[y, x] for x, y in points]).max() <= 1
        points = [(x, y) for y, x in told["points"]]
        expected = model.nearer(example, *points)
        assert expected.confidence is not None
        nearer = "A is nearer than B" if expected.nearer == "first" else "B is nearer than A"
        assert nearer in told["text"]
        assert abs(float(told["confidence"]) - expected.confidence) < 1e-5
        percent = round(100 * expected.confidence)
        assert ("more than 99 %" if percent == 100 else f"{percent} %") in told["text"]
        for (x, y), found in zip(points, told["scores"], strict=True):
            assert abs(found - score[y, x]) < BOUND


def test_the_files_hold_what_the_page_shows(demo: Demo, tmp_path: pathlib.Path):
    Image.fromarray(photograph(210, 333, seed=3)).save(tmp_path / "my photo.v2.png")
    demo.show(tmp_path / "my photo.v2.png")
    paths = {what: demo.save(what, tmp_path / "saved") for what in ("png16", "npy", "colours")}
    assert [path.name for path in paths.values()] == [
        "my photo.v2.png", "my photo.v2.npy", "my photo.v2_color.png"
    ]  # fmt: skip
    values = np.load(paths["npy"])
    low, high = values.min(), values.max()
    with Image.open(paths["png16"]) as image:
        assert image.mode == "I;16"
        levels, told = np.asarray(image), image.info
    stretched = (values.astype(np.float64) - low) / (float(high) - float(low))
    np.testing.assert_array_equal(levels, np.round(65535 * stretched))
    assert (told["larger_is"], told["run"]) == ("farther", "reldepth_small")
    assert (float(told["score_minimum"]), float(told["score_maximum"])) == (low, high)
    with Image.open(paths["colours"]) as image:
        colours = np.asarray(image)
    np.testing.assert_array_equal(colours, pictures.colorize(values))
    shown = demo.evaluate(
        "[...document.querySelector('#map').getContext('2d').getImageData(0, 0, 333, 210).data]"
    )
    np.testing.assert_array_equal(np.reshape(shown, (210, 333, 4))[..., :3], colours)


def png_header(width: int, height: int) -> bytes:
    """Return the beginning of a PNG: all that is known before it is decoded."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + bytes(4)


def jpeg_of(width: int, height: int) -> bytes:
    """Return a JPEG whose header claims a size, behind a profile longer than what is read first."""
    made = io.BytesIO()
    Image.new("RGB", (16, 16)).save(made, "JPEG", icc_profile=bytes(150_000))
    start, frame, rest = made.getvalue().partition(b"\xff\xc0\x00\x11\x08")
    return start + frame + struct.pack(">HH", height, width) + rest[4:]


def tiff() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (16, 16)).save(made, "TIFF")
    return made.getvalue()


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "notes.txt": (lambda: b"not a photograph", "this is not a photograph that can be read (JPEG,"),
    "empty.jpg": (lambda: b"", "the file is empty"),
    "huge.png": (
        lambda: png_header(12000, 9000),
        "12000x9000 are 108 million pixels; the limit is 89",
    ),
    "huge.jpg": (
        lambda: jpeg_of(12000, 9000),
        "12000x9000 are 108 million pixels; the limit is 89",
    ),
    "cut.png": (lambda: png_header(120, 90), "this PNG cannot be decoded: it is damaged"),
    "scan.tif": (tiff, "this browser does not read TIFF; save the photograph as JPEG or PNG"),
}


def test_a_file_that_cannot_be_used_is_one_clear_line(demo: Demo, tmp_path: pathlib.Path):
    for name, (content, said) in REFUSED.items():
        path = tmp_path / name
        path.write_bytes(content())
        told = demo.refuse(path)
        assert told.startswith(f"{name}: {said}")
        assert "\n" not in told
        assert demo.evaluate("document.querySelector('#result').hidden")
    invisible = tmp_path / "clear.png"
    Image.new("RGBA", (40, 30), (9, 9, 9, 0)).save(invisible)
    assert demo.refuse(invisible) == "clear.png: all pixels of this file are transparent."
    # And it still works.
    Image.fromarray(photograph(40, 60)).save(tmp_path / "good.png")
    demo.show(tmp_path / "good.png")


def test_all_works_by_keyboard(demo: Demo, tmp_path: pathlib.Path):
    Image.fromarray(photograph(400, 400)).save(tmp_path / "photo.png")
    demo.show(tmp_path / "photo.png")
    reached = []
    demo.evaluate("document.activeElement.blur()")
    for _ in range(12):
        demo.press("Tab")
        reached.append(
            demo.evaluate("document.activeElement.id || document.activeElement.dataset.save")
        )
    for control in ("choose", "camera", "example", "stage", "border", "png16", "npy", "colours"):
        assert control in reached
    demo.evaluate("document.querySelector('#stage').focus()")
    turn = demo.evaluate("Number(document.querySelector('#answer').dataset.turn || 0)") + 1
    demo.press("ArrowUp")
    demo.press("Enter")
    demo.press("ArrowRight")
    demo.press("ArrowRight", shift=True)
    demo.press("Enter")
    assert demo.answer(turn)["points"] == [[190, 200], [190, 211]]
    demo.evaluate("document.querySelector('#border').focus()")
    demo.press("ArrowRight")
    assert demo.evaluate("document.querySelector('#divider').style.left") == "51%"


def test_a_photograph_is_dropped_and_pasted(demo: Demo):
    make = (
        "const answer = await fetch('example.jpg'); const data = new DataTransfer();"
        "data.items.add(new File([await answer.blob()], 'mine.jpg', {type: 'image/jpeg'}));"
    )
    for event, name in (
        ("new DragEvent('drop', {dataTransfer: data, bubbles: true})", "mine.jpg"),
        ("new ClipboardEvent('paste', {clipboardData: data, bubbles: true})", "pasted"),
    ):
        demo.evaluate(f"(async () => {{ {make} document.body.dispatchEvent({event}); }})()")
        demo.finish()
        assert demo.status.startswith(f"{name}, 512x512")


def test_a_photograph_is_taken_with_the_camera(demo: Demo):
    demo.evaluate("document.querySelector('#camera').click()")
    demo.wait("document.querySelector('#video').videoWidth > 0")
    demo.evaluate("document.querySelector('#shoot').click()")
    demo.finish()
    assert demo.status.startswith("camera.png, ")
    # It is off again.
    assert demo.wait("document.querySelector('#video').srcObject === null")


def test_the_newest_photograph_counts(demo: Demo, tmp_path: pathlib.Path):
    for name, size in (("old.png", (900, 1200)), ("new.png", (50, 70))):
        Image.fromarray(photograph(*size)).save(tmp_path / name)
        demo.choose("#file", tmp_path / name)
    demo.jobs += 1
    demo.finish()
    assert demo.status.startswith("new.png, 70x50")
    assert demo.map(tmp_path).shape == (50, 70)


def test_it_fits_a_phone(demo: Demo):
    demo.resize(360, 740, phone=True)
    demo.show(folder.PAGE / "example.jpg")
    assert demo.evaluate("document.documentElement.scrollWidth") <= 360
    shown = "document.querySelector('#photograph').getBoundingClientRect()"
    assert demo.evaluate(f"{shown}.right") <= 360
    small = demo.evaluate(
        "[...document.querySelectorAll('button')].filter(b => b.offsetParent)"
        ".map(b => b.getBoundingClientRect().height).filter(h => h < 44)"
    )
    assert small == []
    demo.resize(1280, 900)


def test_it_says_what_it_is(demo: Demo, model: Model):
    text = demo.evaluate("document.body.innerText")
    assert f"Licence of the network's weights: {model.provenance['licence']}." in text
    assert "no unit" in text
    assert f"{model.temperature:.3f}" in text
    assert demo.evaluate("crossOriginIsolated")
    assert demo.messages() == []


class Elsewhere(http.server.SimpleHTTPRequestHandler):
    """A server for static files as others have it: no headers of ours, and .gz "unpacked"."""

    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def end_headers(self):
        if self.path.endswith(".gz"):
            self.send_header("Content-Encoding", "gzip")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def other(
    browser: chromium.Chromium, site: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Demo]:
    """Return a page published elsewhere, below its address, of a network as others are.

    Nearer is larger there, and no temperature was fitted. It sees 32 rows: it is fast.
    """
    root = tmp_path_factory.mktemp("elsewhere")
    place = root / "some" / "where"
    shutil.copytree(site, place)
    facts = json.loads((site / folder.FACTS).read_text())
    facts |= {"larger_is": "nearer", "temperature": None}
    facts["preprocessing"]["size"] = 32
    (place / folder.FACTS).write_text(json.dumps(facts))
    handler = functools.partial(Elsewhere, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield Demo(browser, f"http://127.0.0.1:{made.server_port}/some/where/")
        made.shutdown()


def test_it_can_be_published_below_any_address(other: Demo):
    assert not other.evaluate("crossOriginIsolated")
    other.evaluate("document.querySelector('#example').click()")
    other.finish()
    assert "1 thread)" in other.evaluate("document.querySelector('#facts').textContent")


def test_large_photographs_are_shown_smaller_and_answered_in_full(other: Demo, tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(photograph(70, 900)).resize((9000, 700), 0).save(path, compress_level=1)
    other.show(path)
    assert other.evaluate("document.querySelector('#photograph').width") == 1600
    score = other.map(tmp_path)
    assert score.shape == (700, 9000)
    for x, y in ((700, 60), (30, 30)):
        other.click_at(x, y)
    told = other.answer(1)
    for (row, column), found in zip(told["points"], told["scores"], strict=True):
        assert found == score[row, column]


def test_another_network_has_its_sign_and_no_made_up_confidence(other: Demo, model, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photograph(70, 100)).save(path)
    other.show(path)
    assert error(other.map(tmp_path), -model.predictor(32)(path)) < BOUND
    other.click_at(10, 10)
    other.click_at(90, 60)
    told = other.answer(2)
    assert "cannot say how sure" in told["text"]
    assert "%" not in told["text"]
    assert told["confidence"] == ""


def test_memory_does_not_grow(other: Demo, tmp_path: pathlib.Path):
    path = tmp_path / "photo.png"
    Image.fromarray(photograph(400, 500)).save(path)
    held = []
    for number in range(1, 121):
        other.show(path)
        if number in (20, 120):
            other.send("HeapProfiler.collectGarbage")
            other.browser.poll(0.5)
            held.append(other.browser.memory())
    print(f"memory: {[f'{each / 1e6:.0f} MB' for each in held]}")
    # Each photograph is 0.8 MB, and its map too.
    assert held[1] - held[0] < 40e6


def test_the_browser_forbids_other_servers(demo: Demo):
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.5)
        with pytest.raises(RuntimeError, match="Failed to fetch"):
            demo.evaluate(f"fetch('http://127.0.0.1:{other.getsockname()[1]}/')")
        with pytest.raises(TimeoutError):
            other.accept()
    assert demo.evaluate("fetch('page.css').then(a => a.status)") == 200


def test_no_request_has_left_this_machine(browser: chromium.Chromium, demo: Demo):
    # Last: of all that was done above.
    asked = [
        address for address in browser.requests() if not address.startswith(("blob:", "data:"))
    ]
    assert any(address.endswith("network.onnx") for address in asked)  # what the worker asks for
    assert [each for each in asked if not each.startswith("http://127.0.0.1:")] == []
