"""Evaluation of fake predictors on small sources, against loops and closed forms."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from reldepth_jax.config import Choice, Config, DataConfig, EvalConfig
from reldepth_jax.evaluation import compare, heldout, heldout_report
from reldepth_jax.metrics import ordinal
from reldepth_jax.types import Sample
from tests.cli.test_commands import run

CONFIG = EvalConfig(num_images=0, pairs_per_image=300, seed=3)
MEASURES = heldout.STRICT + heldout.THREE_WAY


def fitted(model: float, rule: float) -> heldout.Fit:
    """Return these thresholds, with temperatures of 1."""
    return heldout.Fit(heldout.ModelAndRule(model, rule), heldout.ModelAndRule(1.0, 1.0))


class Scenes:
    """Random depth with sky and holes; the image tells its own index, and depth by no rule."""

    pairs_per_image = 0

    def __init__(self, count=5, height=40, width=50):
        self.count, self.shape = count, (height, width)

    def __len__(self):
        return self.count

    def __getitem__(self, index) -> Sample:
        rng = np.random.default_rng(index)
        depth = np.exp(rng.integers(0, 30, self.shape) / 25).astype(np.float32)
        depth[:4] = np.inf
        mask = rng.random(self.shape) < 0.8
        image = np.full((*self.shape, 3), index, np.uint8)
        return {"image": image, "depth": np.where(mask, depth, np.nan), "mask": mask}


class OneScene:
    """A single given depth map, seen whole."""

    pairs_per_image = 0

    def __init__(self, depth, mask=None):
        self.depth = np.asarray(depth, np.float32)
        self.mask = np.ones(self.depth.shape, bool) if mask is None else mask

    def __len__(self):
        return 1

    def __getitem__(self, index) -> Sample:
        image = np.zeros((*self.depth.shape, 3), np.uint8)
        return {"image": image, "depth": self.depth, "mask": self.mask}


def noisy(image):
    """A score that knows some of the depth of `Scenes`, with ties and NaN."""
    rng = np.random.default_rng(1000 + int(image[0, 0, 0]))
    depth = Scenes(1, *image.shape[:2])[int(image[0, 0, 0])]["depth"]
    score = np.log(np.nan_to_num(depth, nan=1.0, posinf=20.0)) + rng.normal(0, 0.5, depth.shape)
    score[rng.random(depth.shape) < 0.01] = np.nan
    return np.round(score, 1).astype(np.float32)


def flat(image):
    return np.zeros(image.shape[:2], np.float32)


def sign(x):
    return 1 if x > 0 else -1 if x < 0 else 0


def test_counts_agree_with_a_loop_over_pairs():
    result = heldout.evaluate(noisy, Scenes(), CONFIG, fit=fitted(0.3, 0.1))
    assert result.num_images == 5
    for index in range(5):
        sample = Scenes()[index]
        depth, height = sample["depth"], 40
        rows = -np.repeat(np.arange(height)[:, None], 50, 1) / height
        score = noisy(sample["image"])
        for counts, z, cut, tie in ((result.model, score, 0.3, 1), (result.rule, rows, 0.1, 0.5)):
            wrong = dict.fromkeys(MEASURES, 0.0)
            total = dict.fromkeys(MEASURES, 0)

            def count(key, error, wrong=wrong, total=total):
                wrong[key] += error
                total[key] += 1

            for same_row in (False, True):
                pairs = ordinal.heldout_pairs(
                    sample["mask"], seed=3, index=index, count=300, same_row=same_row
                )
                for i, j in zip(*pairs, strict=True):
                    g_i, g_j, z_i, z_j = (float(a.flat[k]) for a in (depth, z) for k in (i, j))
                    if math.isinf(g_i) and math.isinf(g_j):
                        truth = 0
                    else:
                        truth = sign(g_i - g_j) if max(g_i, g_j) > 1.02 * min(g_i, g_j) else 0
                    missing = math.isnan(z_i) or math.isnan(z_j)
                    strict = tie if z_i == z_j else missing or sign(z_i - z_j) != truth
                    said = 0 if abs(z_i - z_j) <= cut else sign(z_i - z_j)
                    if truth:
                        count("same_row" if same_row else "whdr", strict)
                    if not same_row:
                        count("wkdr", missing or said != truth)
                        count("wkdr_unequal" if truth else "wkdr_equal", missing or said != truth)
            for key in MEASURES:
                assert counts[key].wrong[index] == wrong[key]
                assert counts[key].total[index] == total[key] > 0


def test_the_rule_is_right_on_a_ground_plane_and_worth_a_coin_within_a_row():
    height = 16  # 6 % of it is less than a row, so same-row pairs share their row
    rows, columns = np.mgrid[:height, :20]
    ground = heldout.evaluate(flat, OneScene(np.exp(-rows)), CONFIG)
    assert ground.rule["whdr"].rate == 0
    assert ground.rule["same_row"].total.sum() == 0
    wall = heldout.evaluate(flat, OneScene(np.exp(columns)), CONFIG)
    assert wall.rule["same_row"].rate == 0.5
    assert wall.rule["same_row"].total.sum() == 300
    # For a model a tie is an error.
    assert wall.model["same_row"].rate == wall.model["whdr"].rate == 1


def test_the_true_depth_has_no_error():
    depth = Scenes()[0]["depth"]
    result = heldout.evaluate(
        lambda image: depth, OneScene(depth, ~np.isnan(depth)), CONFIG, fit=fitted(0.0, 0.0)
    )
    assert [counts.rate for counts in result.model.values()] == [0] * 5
    assert result.rule["whdr"].rate > 0.3


def test_images_are_predicted_once_in_order_and_limited_by_the_configuration():
    seen, reported = [], []

    def predict(image):
        seen.append(int(image[0, 0, 0]))
        return flat(image)

    config = EvalConfig(num_images=3, pairs_per_image=10)
    result = heldout.evaluate(
        predict, Scenes(), config, progress=lambda *state: reported.append(state)
    )
    assert seen == [0, 1, 2]
    assert reported == [(1, 3), (2, 3), (3, 3)]
    assert result.num_images == 3
    longer = EvalConfig(num_images=99, pairs_per_image=10)
    assert heldout.evaluate(flat, Scenes(), longer).num_images == 5


def test_thresholds_are_the_best_over_the_pooled_pairs():
    taus = heldout.fit(noisy, Scenes(), CONFIG).tau

    def worst(model, rule):
        result = heldout.evaluate(noisy, Scenes(), CONFIG, fit=fitted(model, rule))
        return [
            max(counts[key].rate for key in ("wkdr_equal", "wkdr_unequal"))
            for counts in (result.model, result.rule)
        ]

    # Scores are multiples of 0.1 and rows of 1/40: thresholds between them cover every case.
    grid = [worst(0.05 + 0.1 * k, (0.5 + k) / 40) for k in range(40)]
    assert worst(*taus) == pytest.approx(np.min(grid, axis=0))


def test_without_thresholds_there_are_no_three_way_errors():
    result = heldout.evaluate(noisy, Scenes(), CONFIG)
    assert list(result.model) == list(result.rule) == ["whdr", "same_row"]
    assert set(result.summary()) == {"whdr", "same_row", "rule_whdr", "rule_same_row"}


def test_a_prediction_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"image 0 has shape \(4, 4\), expected \(40, 50\)"):
        heldout.evaluate(lambda image: np.zeros((4, 4), np.float32), Scenes(), CONFIG)


def test_results_survive_json_and_nothing_counted_is_null():
    result = heldout.evaluate(noisy, Scenes(), CONFIG, fit=fitted(0.3, 0.1))
    facts = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert facts["model"]["wkdr"]["rate"] == result.model["wkdr"].rate
    assert sum(facts["model"]["wkdr"]["total"]) == 5 * 300
    assert facts["protocol"]["tau"] == {"model": 0.3, "rule": 0.1}
    assert facts["protocol"]["pairs_per_image"] == 300
    columns = np.zeros((64, 8), bool)
    columns[::32, 0] = True  # pairs, but none within a row
    lonely = heldout.evaluate(flat, OneScene(np.exp(np.mgrid[:64, :8].sum(0)), columns), CONFIG)
    assert lonely.model["whdr"].total.sum() == 300
    assert lonely.model["same_row"].total.sum() == 0
    empty = heldout.evaluate(flat, OneScene(np.ones((8, 8)), np.zeros((8, 8), bool)), CONFIG)
    facts = json.loads(json.dumps(empty.to_json(), allow_nan=False))
    assert facts["model"]["whdr"]["rate"] is None


def test_the_table_shows_errors_in_percent_and_the_protocol_in_words():
    result = heldout.evaluate(noisy, Scenes(), CONFIG, fit=fitted(0.3, 0.1))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(heldout_report.table("a title", {"model": result}))
    text = console.export_text()
    for counts in (*result.model.values(), *result.rule.values()):
        low, high = counts.interval
        assert f"{100 * counts.rate:.1f} %" in text
        assert f"{100 * low:.1f}–{100 * high:.1f}" in text
    protocol = heldout_report.protocol_text(result)
    for fact in (
        "5 images",
        "300 random pairs",
        "seed 3",
        "2 % of the nearer",
        "tau 0.3",
        "rule: 0.1",
    ):
        assert fact in protocol


def test_pictures_are_kept_for_the_first_images_and_thinned():
    result = heldout.evaluate(noisy, Scenes(), CONFIG, keep=2)
    assert [picture.index for picture in result.pictures] == [0, 1]
    counts = result.model["whdr"]
    assert result.pictures[1].whdr == counts.wrong[1] / counts.total[1]
    sheet = heldout_report.contact_sheet({"prediction": result.pictures})
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] > 2 * 40
    assert sheet.shape[1] > 3 * 50
    large = heldout.evaluate(flat, OneScene(np.ones((500, 800))), CONFIG, keep=1).pictures[0]
    assert large.image.shape == (167, 267, 3)
    assert large.depth.shape == large.score.shape == (167, 267)


# --- comparison


def groups():
    def worse(image):
        score = noisy(image)
        return np.where(np.random.default_rng(9).random(score.shape) < 0.3, -score, score)

    predictors = {"one": [worse, flat], "two": [noisy]}
    return {
        name: [heldout.evaluate(predict, Scenes(), CONFIG, keep=1) for predict in group]
        for name, group in predictors.items()
    }


def test_a_group_is_the_mean_of_its_seeds_with_their_standard_deviation():
    both = groups()
    facts = json.loads(json.dumps(compare.report(both), allow_nan=False))
    rates = [result.model["whdr"].rate for result in both["one"]]
    got = facts["groups"]["one"]["whdr"]
    assert got["rates"] == rates
    assert got["rate"] == pytest.approx((rates[0] + rates[1]) / 2)
    assert got["standard_deviation"] == pytest.approx(abs(rates[0] - rates[1]) / math.sqrt(2))
    assert facts["groups"]["two"]["whdr"]["standard_deviation"] is None
    assert facts["rule"]["whdr"]["rate"] == both["two"][0].rule["whdr"].rate


def test_differences_are_to_the_first_group_and_negative_for_fewer_errors():
    both = groups()
    facts = compare.report(both)
    assert facts["difference_to"] == "one"
    difference = facts["differences"]["two"]["whdr"]
    expected = facts["groups"]["two"]["whdr"]["rate"] - facts["groups"]["one"]["whdr"]["rate"]
    assert difference["value"] == pytest.approx(expected)
    assert difference["low"] <= difference["value"] <= difference["high"] < 0
    assert difference["seeds_p"] is None


def facts_of(difference: dict[str, object], *seeds: int) -> dict[str, object]:
    """Return a report of groups a and b, of which `difference` is b's to a."""
    groups = {name: {"whdr": {"rates": [0.1] * n}} for name, n in zip("ab", seeds, strict=True)}
    return {
        "images": 7,
        "difference_to": "a",
        "groups": groups,
        "differences": {"b": {"whdr": difference}},
    }


CLEAR = {"value": 0.05, "low": 0.01, "high": 0.1, "seeds_p": 0.0123, "decided": True}
UNCLEAR = {"value": 0.05, "low": -0.01, "high": 0.1, "seeds_p": 0.6, "decided": False}
ONE = "1 seed, which says nothing of the recipes"


@pytest.mark.parametrize(
    ("difference", "seeds", "claim", "said"),
    [
        (CLEAR, (3, 3), "a errs less than b", "3 seeds (p = 0.012)"),
        (CLEAR | {"value": -0.05}, (3, 2), "b errs less than a", "2 and 3 seeds (p = 0.012)"),
        (UNCLEAR, (3, 3), "no clear difference between b and a", "3 seeds (p = 0.6)"),
        (CLEAR | {"seeds_p": None}, (1, 1), "the network of a errs less than that of b", ONE),
        (UNCLEAR | {"seeds_p": None}, (1, 1), "no clear difference between b and a", ONE),
        (
            CLEAR | {"seeds_p": None},
            (1, 3),
            "no clear difference between b and a",
            "3 and 1 seeds, one of which shows no spread",
        ),
    ],
)
def test_plain_words_say_what_is_decided(difference, seeds, claim, said):
    (line,) = compare.statements(facts_of(difference, *seeds))
    assert line.startswith(f"WHDR: {claim}: difference {100 * difference['value']:+.1f} [")
    assert line.endswith(f"] points of b minus a, {said}, 7 images")


def test_a_report_decides_by_seeds_and_images():
    both = groups()
    facts = compare.report(both)
    # Two seeds that differ by much, and one.
    assert "WHDR: no clear difference between two and one: " in compare.statements(facts)[0]
    single = {"one": both["one"][:1], "two": both["two"]}
    assert (
        "the network of two errs less than that of one"
        in compare.statements(compare.report(single))[0]
    )
    equal = {"one": both["one"][:1] * 2, "two": both["two"] * 2}
    assert "WHDR: two errs less than one: " in compare.statements(compare.report(equal))[0]


def test_the_comparison_becomes_a_markdown_table_and_a_picture():
    both = groups()
    rows = compare.rows(compare.report(both))
    assert [row[0] for row in rows] == ["", "one", "two", "lower is nearer"]
    lines = compare.markdown(rows, "notes").splitlines()
    assert len({line.count("|") for line in lines[:5]}) == 1
    rate = 100 * both["two"][0].model["whdr"].rate
    assert f"| {rate:.1f} [" in lines[3]
    sheet = compare.contact_sheet(both)
    assert sheet.shape[1] > 4 * 50
    firsts = {name: group[:1] for name, group in both.items()}
    np.testing.assert_array_equal(sheet, compare.contact_sheet(firsts))
    shown_second = compare.contact_sheet({"one": both["one"][1:], "two": both["two"]})
    assert not np.array_equal(sheet, shown_second)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"eval": EvalConfig(seed=1)}, "eval.seed"),
        ({"data": DataConfig(crop=(64, 64))}, "data.crop"),
        ({"data": DataConfig(source=Choice("folder", root="x"))}, "data.source"),
    ],
)
def test_runs_on_other_images_or_pairs_are_refused(change, path):
    with pytest.raises(compare.CompareError, match=f"^a and b .*: {path} is ") as error:
        compare.common_settings({"a": Config(), "b": Config(**change)})
    assert "\n" not in str(error.value)
    assert compare.common_settings({"a": Config(), "b": Config(init_from="x")}) == Config()


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("evaluate", ["--workdir", "x", "--config.model.dtype=bfloat16"], "model.dtype belongs to"),
        ("evaluate", ["--workdir", "x", "--splt=val"], "Did you mean '--split'?"),
        ("evaluate", ["--workdir", "x"], "x: no config.json here"),
        ("compare", ["runs/a"], "at least two runs"),
        ("compare", ["runs/a", "other/a"], "two groups are called 'a'"),
        ("compare", ["--group", "a=", "--group", "b=runs/b"], "'a=' is no group"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(command, arguments, message):
    _, told = run(command, *arguments, code=2)
    assert message in told
    assert len(told.splitlines()) == 1
