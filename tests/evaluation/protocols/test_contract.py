"""One contract for every protocol, also for one that is a new file outside the package."""

import json
import pathlib

import pytest

from reldepth_jax import registry
from reldepth_jax.cli import evaluate
from reldepth_jax.config import ConfigError
from reldepth_jax.inference import networks
from reldepth_jax.registry import PROTOCOLS
from tests.evaluation.protocols.contract import CHECKS, write
from tests.evaluation.test_run_evaluation import Slope

PROTOCOL = '''
"""WHDR on random pairs of ETH3D, made up."""

from reldepth_jax.evaluation.protocols.base import Judged, Protocol, merge_counts, published
from reldepth_jax.evaluation.protocols.report import Estimate, Row
from reldepth_jax.evaluation.protocols.resizing import scale_half_pixel
from reldepth_jax.metrics import ordinal
from reldepth_jax.registry import PROTOCOLS


@PROTOCOLS.register("eth3d_pairs")
def eth3d_pairs(*, pairs: int = 50) -> Protocol:
    """WHDR on random pairs of ETH3D."""

    def judge(request):
        def one(sample):
            drawn = ordinal.heldout_pairs(sample["mask"], seed=0, index=0, count=pairs)
            depth = sample["depth"].reshape(-1)
            relation = ordinal.relation(depth[drawn.first], depth[drawn.second], 0.02)
            score = scale_half_pixel(request.predict(sample["image"]), sample["mask"].shape)
            rule = ordinal.location_rule(*sample["mask"].shape)
            return Judged(
                {
                    name: ordinal.strict_error(ordinal.difference(each, drawn), relation)
                    for name, each in (("random pairs", score), (ordinal.RULE, rule))
                },
                score,
            )

        source = request.source()
        parts, picture = request.judge(source, one)
        counts = merge_counts(parts, ["random pairs", ordinal.RULE])
        rows = [Row(name, {"WHDR %": Estimate.percent(each)}) for name, each in counts.items()]
        size = f"{request.count(source)} images, {pairs} pairs each"
        return request.report(request.count(source), size, rows, [], picture)

    return Protocol(
        title="ETH3D pairs",
        dataset="eth3d",
        images=454,
        measures=("WHDR %",),
        published=published("WHDR %", {"a coin": 50.0}),
        citation="nowhere",
        judge=judge,
    )
'''


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Return a folder with the data set of each protocol."""
    root = tmp_path_factory.mktemp("data_sets")
    for name in PROTOCOLS.entries:
        write(name, root / name)
    return {name: root / name for name in PROTOCOLS.entries}


@pytest.mark.parametrize("name", PROTOCOLS.entries)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, name: str, folders: dict[str, pathlib.Path]):
    check(name, folders[name])


@pytest.fixture
def new_protocol(plugin_folder: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Add a protocol as a file; return the folder with its data set."""
    (plugin_folder / "eth3d_pairs.py").write_text(PROTOCOL)
    registry.extend(plugin_folder)
    write("eth3d_pairs", tmp_path / "data")
    return tmp_path / "data"


def test_a_new_file_is_a_protocol_that_meets_the_contract(new_protocol: pathlib.Path):
    for check in CHECKS:
        check("eth3d_pairs", new_protocol)


def test_a_new_file_has_its_options_on_the_command_line(
    new_protocol: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(networks, "load_model", lambda _: Slope.at_step(0))
    arguments = ["--weights", str(tmp_path / "x"), "--data-dir", str(new_protocol)]
    arguments += ["--dataset", "eth3d_pairs"]
    assert evaluate.main([*arguments, "--config.dataset.pairs=7"]) == 0
    report = json.loads((tmp_path / "x_eval/eth3d_pairs.json").read_text())
    assert "7 pairs each" in report["title"]
    assert report["run"]["options"] == {"pairs": 7}
    for option, message in (
        ("pairs=x", "dataset.pairs: expected a whole number, got 'x'"),
        ("pair=7", "unknown field 'dataset.pair' of evaluation protocol 'eth3d_pairs'"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate.main([*arguments, f"--config.dataset.{option}"])
    with pytest.raises(ConfigError, match="dataset.pairs belongs to --dataset"):
        evaluate.main(["--weights", str(tmp_path / "x"), "--config.dataset.pairs=7"])
