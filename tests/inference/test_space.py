"""Surfaces in space: closed forms, files read by trimesh and by a reader of a few lines."""

import functools
import io
import json
import math
import os
import pathlib
import struct
from typing import Any

import numpy as np
import pytest
import trimesh
from flax import nnx
from PIL import Image

from reldepth_jax.config import Choice, Config, ModelConfig
from reldepth_jax.errors import UserError
from reldepth_jax.inference import networks, space, space_files
from reldepth_jax.inference.networks import Model
from reldepth_jax.inference.space import Space, surface
from reldepth_jax.weights import presets
from reldepth_jax.weights.from_run import Run
from tests.cli.test_commands import run
from tests.inference.test_depth_estimation import brightness

H, W = 12, 16
RNG = np.random.default_rng(3)
IMAGE = RNG.integers(0, 256, (H, W, 3), np.uint8)


def rays(fov: float, height: int = H, width: int = W) -> np.ndarray:
    """(h, w, 3): where the pixels of a pinhole camera look, at distance 1; y up, along -z."""
    focal = width / 2 / math.tan(math.radians(fov) / 2)
    found = np.empty((height, width, 3))
    for row in range(height):
        for column in range(width):
            right, down = column + 0.5 - width / 2, row + 0.5 - height / 2
            found[row, column] = right / focal, -down / focal, -1
    return found


METRES = Space(values="metres", fov=75.0)


def test_a_wall_is_flat_and_has_the_coordinates_of_a_pinhole_camera():
    found = surface(np.full((H, W), 2, np.float32), IMAGE, METRES)
    np.testing.assert_allclose(found.points, 2 * rays(75).reshape(-1, 3), atol=1e-6)
    np.testing.assert_array_equal(found.colors, IMAGE.reshape(-1, 3))
    assert len(found.triangles) == 2 * (H - 1) * (W - 1)
    # The first pixel is at the top left, and the outermost rays are half a pixel inside the field.
    assert found.points[0, 0] < 0 < found.points[0, 1]
    assert found.points[-1, 0] == pytest.approx(2 * math.tan(math.radians(37.5)) * 15 / 16)
    expected = [(0.5 / W, 0.5 / H), ((W - 0.5) / W, (H - 0.5) / H)]
    np.testing.assert_allclose(found.places[[0, -1]], expected, rtol=1e-6)


def corners(found: space.Surface) -> np.ndarray:
    return found.points[found.triangles].astype(np.float64)


def normals(found: space.Surface) -> np.ndarray:
    a, b, c = np.moveaxis(corners(found), 1, 0)
    return np.cross(b - a, c - a)


def test_fronts_face_the_camera_and_a_plane_has_one_normal():
    """The plane n . p = d, seen by every ray r at depth d / (n . r)."""
    normal, distance = np.array([0.06, 0.08, 1.0]) / math.sqrt(1.01), -2.0
    depth = distance / (rays(60) @ normal)
    found = surface(depth.astype(np.float32), IMAGE, Space(values="metres"))
    assert len(found.triangles) == 2 * (H - 1) * (W - 1)
    turned = normals(found)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    np.testing.assert_allclose(turned, np.tile(normal, (len(turned), 1)), atol=1e-3)
    # Towards the camera at the origin.
    assert (np.einsum("nd,nd->n", turned, -corners(found).mean(axis=1)) > 0).all()


def box() -> np.ndarray:
    """A box of 4x6 pixels at 1 m before a wall at 3 m, and sky in the first two rows."""
    depth = np.full((H, W), 3, np.float32)
    depth[4:8, 5:11] = 1
    depth[:2] = -1  # no depth at all
    return depth


def test_edges_are_cut_and_the_sky_is_left_out():
    found = surface(box(), IMAGE, METRES)
    assert len(found.points) == (H - 2) * W
    # Squares of the wall with sky: 9 rows of 15 are left; those that touch the box and the wall: a
    # ring of (4 + 1) * (6 + 1) - 3 * 5. A triangle of a ring square may lie on one side alone: the
    # corners at the top left of the box and at the bottom right, one each; the other two corners of
    # the ring cross both triangles.
    squares = 9 * 15 - (5 * 7 - 3 * 5)
    assert len(found.triangles) == 2 * squares + 2
    depths = -corners(found)[..., 2]
    assert (depths.max(axis=1) == depths.min(axis=1)).all()


def test_points_that_hang_in_an_edge_are_left_out():
    depth = np.full((H, W), 1, np.float32)
    depth[:, 8], depth[:, 9:] = 2, 4  # one column that belongs to neither side
    found = surface(depth, IMAGE, METRES)
    assert sorted(set(np.round(-found.points[:, 2], 5))) == [1, 4]
    just = np.tile(1.049 ** np.arange(W, dtype=np.float32), (H, 1))
    assert len(surface(just, IMAGE, METRES).triangles) == 2 * (H - 1) * (W - 1)
    over = np.tile(1.051 ** np.arange(W, dtype=np.float32), (H, 1))
    assert not len(surface(over, IMAGE, METRES).triangles)


def test_inverse_depth_becomes_depth_by_scale_and_shift_or_from_1_to_10():
    inverse = RNG.uniform(2, 5, (H, W)).astype(np.float32)
    told = Space(values="inverse depth", affine=(0.5, 0.25))
    np.testing.assert_allclose(told.depth(-inverse), 1 / (0.5 * inverse + 0.25), rtol=1e-6)
    below = Space(values="inverse depth", affine=(1.0, -3.0))
    assert (np.isinf(below.depth(-inverse)) == (inverse <= 3)).all()
    free = Space(values="inverse depth").depth(-inverse)
    assert (free.min(), free.max()) == (pytest.approx(1), pytest.approx(10))
    unit = (inverse - inverse.min()) / np.ptp(inverse)
    np.testing.assert_allclose(1 / free, 0.1 + 0.9 * unit, rtol=1e-5)
    np.testing.assert_array_equal(Space(values="inverse depth").depth(0 * inverse), 1)


def test_large_photographs_are_thinned_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(space, "MOST_POINTS", H * W // 4)
    found = surface(np.full((H, W), 2, np.float32), IMAGE, METRES)
    np.testing.assert_allclose(found.points, 2 * rays(75)[1::2, 1::2].reshape(-1, 3), atol=1e-6)
    np.testing.assert_array_equal(found.colors, IMAGE[1::2, 1::2].reshape(-1, 3))


def read_ply(path: pathlib.Path) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Return header, points, colours and triangles, by the text of the format."""
    head, _, data = path.read_bytes().partition(b"end_header\n")
    lines = head.decode("ascii").splitlines()
    counts = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("element")}
    points, colors, triangles = [], [], []
    for number in range(counts["vertex"]):
        row = struct.unpack_from("<fffBBB", data, 15 * number)
        points.append(row[:3])
        colors.append(row[3:])
    start = 15 * counts["vertex"]
    for number in range(counts.get("face", 0)):
        count, *corner = struct.unpack_from("<Biii", data, start + 13 * number)
        assert count == 3
        triangles.append(corner)
    assert len(data) == start + 13 * counts.get("face", 0)
    return lines, np.array(points), np.array(colors), np.array(triangles)


def read_glb(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray], bytes]:
    """Return the JSON, the arrays of its one primitive, and the picture."""
    data = path.read_bytes()
    magic, version, size, length, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, size, kind) == (b"glTF", 2, len(data), b"JSON")
    assert length % 4 == 0
    content = json.loads(data[20 : 20 + length])
    binary_length, binary_kind = struct.unpack_from("<I4s", data, 20 + length)
    binary = data[28 + length :]
    assert (binary_kind, binary_length) == (b"BIN\0", len(binary))
    assert content["buffers"] == [{"byteLength": binary_length}]

    def view(number: int) -> bytes:
        where = content["bufferViews"][number]
        assert where["byteOffset"] % 4 == 0
        return binary[where["byteOffset"] : where["byteOffset"] + where["byteLength"]]

    def array(number: int) -> np.ndarray:
        told = content["accessors"][number]
        dtype = {5126: "<f4", 5123: "<u2", 5125: "<u4"}[told["componentType"]]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[told["type"]]
        return np.frombuffer(view(told["bufferView"]), dtype).reshape(told["count"], width)

    (mesh,) = content["meshes"]
    (primitive,) = mesh["primitives"]
    arrays = {name: array(number) for name, number in primitive["attributes"].items()}
    if "indices" in primitive:
        arrays["indices"] = array(primitive["indices"]).reshape(-1, 3)
    pictures = content.get("images", [])
    return content, arrays, view(pictures[0]["bufferView"]) if pictures else b""


@pytest.mark.parametrize("cloud", [False, True])
def test_ply_holds_points_colours_and_triangles(tmp_path: pathlib.Path, cloud: bool):
    path = tmp_path / "a.ply"
    found = surface(box(), IMAGE, METRES)
    space_files.write_ply(path, found, METRES.assumed, cloud=cloud)
    lines, points, colors, triangles = read_ply(path)
    assert f"comment {METRES.assumed}" in lines
    assert "75 degrees wide" in METRES.assumed
    expected = (box()[..., None] * rays(75))[2:].reshape(-1, 3)
    np.testing.assert_allclose(points, expected, atol=1e-6)
    np.testing.assert_array_equal(colors, IMAGE[2:].reshape(-1, 3))
    assert len(triangles) == (0 if cloud else len(found.triangles))
    loaded: Any = trimesh.load(path, process=False)
    np.testing.assert_allclose(loaded.vertices, expected, atol=1e-6)
    read = loaded.colors if cloud else loaded.visual.vertex_colors
    np.testing.assert_array_equal(np.asarray(read)[:, :3], IMAGE[2:].reshape(-1, 3))
    if not cloud:
        np.testing.assert_array_equal(triangles, found.triangles)
        np.testing.assert_array_equal(loaded.faces, found.triangles)


def test_glb_holds_a_textured_mesh_with_y_up(tmp_path: pathlib.Path):
    path = tmp_path / "a.glb"
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :, 0], image[24:, :32, 1], image[24:, 32:, 2] = 255, 255, 255
    depth = np.kron(box(), np.ones((4, 4), np.float32))
    found = surface(depth, image, METRES)
    space_files.write_glb(path, found, image, METRES.assumed)
    content, arrays, picture = read_glb(path)
    assert content["asset"]["extras"]["assumed"] == METRES.assumed
    (accessor,) = [each for each in content["accessors"] if "min" in each]
    np.testing.assert_array_equal(accessor["min"], arrays["POSITION"].min(axis=0))
    np.testing.assert_array_equal(accessor["max"], arrays["POSITION"].max(axis=0))
    expected = (depth[..., None] * rays(75, 48, 64))[8:].reshape(-1, 3)
    np.testing.assert_allclose(arrays["POSITION"], expected, atol=1e-5)
    texture = np.asarray(Image.open(io.BytesIO(picture))).astype(int)
    assert texture.shape == image.shape
    assert np.abs(texture - image).mean() < 4
    # What a point shows is the pixel that it came from: up and left have their colours.
    places = arrays["TEXCOORD_0"] * (64, 48)
    shown = image[places[:, 1].astype(int), places[:, 0].astype(int)]
    np.testing.assert_array_equal(shown, image[8:].reshape(-1, 3))
    high = arrays["POSITION"][:, 1] > 0
    np.testing.assert_array_equal(shown[high], np.tile([255, 0, 0], (high.sum(), 1)))
    left = ~high & (arrays["POSITION"][:, 0] < 0)
    np.testing.assert_array_equal(shown[left], np.tile([0, 255, 0], (left.sum(), 1)))
    loaded: Any = trimesh.load(path, process=False, force="mesh")
    np.testing.assert_allclose(loaded.vertices, expected, atol=1e-5)
    np.testing.assert_array_equal(loaded.faces, found.triangles)
    assert loaded.visual.material.baseColorTexture.size == (64, 48)
    towards = -np.einsum("nd,nd->n", loaded.face_normals, loaded.triangles_center)
    assert (towards > 0).all()


def test_glb_points_have_linear_colours(tmp_path: pathlib.Path):
    path = tmp_path / "a.glb"
    image = np.zeros((H, W, 3), np.uint8)
    image[..., 0], image[..., 1] = 188, 10  # in light 0.5029 and 10 / 255 / 12.92
    found = surface(np.ones((H, W), np.float32), image, METRES)
    space_files.write_glb(path, found, image, METRES.assumed, cloud=True)
    content, arrays, _ = read_glb(path)
    assert content["meshes"][0]["primitives"][0]["mode"] == 0
    expected = [((188 / 255 + 0.055) / 1.055) ** 2.4, 10 / 255 / 12.92, 0, 1]
    np.testing.assert_allclose(arrays["COLOR_0"] / 65535, np.tile(expected, (H * W, 1)), atol=1e-5)
    loaded: Any = trimesh.load(path, process=False)
    (points,) = loaded.geometry.values()
    np.testing.assert_allclose(points.vertices, rays(75).reshape(-1, 3), atol=1e-6)


@functools.cache
def any_network() -> Model:
    return brightness(output="disparity")


def named(name: str) -> Model:
    """A network of a preset's configuration, with the weights of another one."""
    preset, made = presets.get(name), any_network()
    return Model(preset.model, made.variables, preset.preprocessing, {})


@pytest.mark.parametrize(
    "name", [name for name in presets.names() if presets.get(name).part == "network"]
)
def test_published_networks_are_taken_for_what_they_are(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Model, "weights", lambda self: type("W", (), {"architecture": name})())
    ranked = {"redweb", "redweb_b", "sgrl", "reldepth_small"}
    if name in ranked:
        with pytest.raises(UserError, match=r"order points.*--model depth_anything_v2_vits"):
            space.values_of(named(name))
    else:
        metres = "metric" in name
        assert space.values_of(named(name)) == ("metres" if metres else "inverse depth")


def test_of_trained_networks_the_loss_decides():
    made = any_network()
    for told, known in (({"run": "x"}, False), ({"run": "x", "values": "inverse depth"}, True)):
        model = Model(made.config, made.variables, made.preprocessing, told)
        if known:
            assert space.values_of(model) == "inverse depth"
        else:
            with pytest.raises(UserError, match="order points"):
                space.values_of(model)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fov": 0.5}, "--fov must be from 1 to 170"),
        ({"fov": math.nan}, "--fov must be"),
        ({"affine": (-1.0, 0.0)}, "scale must be above 0"),
        ({"affine": (1.0, math.inf)}, "scale must be above 0"),
        ({"values": "metres", "affine": (1.0, 0.0)}, "gives metres"),
    ],
)
def test_impossible_cameras_and_scales_are_refused(given: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        Space(**{"values": "inverse depth", **given})


def test_the_command_writes_both_and_refuses_the_network_of_the_package(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    pixels = np.full((32, 64, 3), 102, np.uint8)  # 0.4
    Image.fromarray(pixels).save("a.png")
    monkeypatch.setattr(networks, "load_public", lambda name: brightness(max_depth=2.0))
    out, _ = run("predict", "a.png", "--ply", "--glb", "--fov", 90)
    assert "in space: 90 degrees wide (pinhole, centred); depth in metres" in out
    _, points, _, triangles = read_ply(tmp_path / "out" / "a.ply")
    np.testing.assert_allclose(points, 0.4 * rays(90, 32, 64).reshape(-1, 3), atol=1e-6)
    assert len(triangles) == 2 * 31 * 63
    np.testing.assert_allclose(read_glb(tmp_path / "out" / "a.glb")[1]["POSITION"], points)
    entry = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())
    assert entry["space"] == {"cloud": False, "fov": 90.0, "affine": None}
    assert entry["outputs"] == ["a.png", "a_color.png", "a.ply", "a.glb"]
    Image.fromarray(0 * pixels).save("black.png")
    _, err = run("predict", "black.png", "--ply", "--output=dark", code=1)
    assert "black.png: no surface is left" in err
    assert not [name for name in os.listdir("dark") if name.startswith("black")]
    monkeypatch.setattr(networks, "load_public", lambda name: brightness())
    _, err = run("predict", "a.png", "--glb", "--output=none", code=2)
    assert "trained to order points" in err
    assert len(err.splitlines()) == 1
    assert not os.path.exists("none")
    _, err = run("predict", "a.png", "--fov", 50, code=2)
    assert "--fov belongs to --ply and --glb" in err
    _, err = run("predict", "a.png", "--ply", "--affine=1", code=2)
    assert "takes two numbers" in err


def test_a_run_says_whether_it_learnt_inverse_depth():
    for loss, known in (
        (Choice("ranking"), False), (Choice("mae"), True), (Choice("ssi_trimmed"), True),
        (Choice("mae", normalisation="minmax"), False), (Choice("sgrl"), False),
    ):  # fmt: skip
        state = nnx.State({})
        held = Run(pathlib.Path("x"), Config(model=ModelConfig(), loss=loss), 1, state, state)
        assert held.inverse_depth == known
