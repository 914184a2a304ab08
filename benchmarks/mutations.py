"""Small wrong changes to the package, one at a time: named tests must turn red for each.

python benchmarks/mutations.py [--only NAME] [--out OUT.json]

Run from the repository's root. A change is made in place, in whichever file of the package holds
its text, and taken back afterwards, also on Ctrl-C. So modules and tests may move: only the text
must occur exactly once in `reldepth_jax`, and the tests must keep their names.

First all chosen tests run together on the code as it is. They must be green, or a red one would
mean nothing. Then, for each change:
  red     each of its tests fails
  green   one of them passes: a hole in the tests
  broken  nothing is known: the text is missing or not unique, a test is missing, none was selected,
          or pytest did not come to an end

Exit code 0 if all are red, 1 if not, 2 if the tests are not green to begin with.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Literal

PACKAGE, TESTS = "reldepth_jax", "tests"
LIMIT = 300
"""Seconds that one test may take with a change."""
LIMIT_OF_ALL = 1800
"""Seconds that all tests together may take without one."""

Kind = Literal["losses", "samplers", "metrics", "checkpoint", "data", "weights"]
Verdict = Literal["red", "green", "broken"]


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One wrong change, and who must notice it."""

    name: str
    kind: Kind
    text: str
    """What stands in one line of the package, once."""
    wrong: str
    """What takes its place."""
    tests: tuple[str, ...]
    """Names of test functions, each of which must fail."""
    only: str = ""
    """Which of their cases: an expression for pytest's -k; empty: all."""


MUTATIONS = (
    # Losses
    Mutation(
        "ranking_sign",
        "losses",
        "softplus(-jnp.where(",
        "softplus(jnp.where(",
        ("test_pair_loss_agrees_with_the_equation",),
    ),
    Mutation(
        "ranking_share_rounded_up",
        "losses",
        "jnp.floor(drop_easiest",
        "jnp.ceil(drop_easiest",
        ("test_share_is_rounded_down",),
        "[3]",
    ),
    Mutation(
        "ssi_trim_rounded_up",
        "losses",
        "jnp.floor((1 - self.trim)",
        "jnp.ceil((1 - self.trim)",
        ("test_loss_agrees_with_the_equations",),
        "0-ssi_trimmed",
    ),
    Mutation(
        "gradient_at_the_mask",
        "losses",
        "m[:, :, 1:] & m[:, :, :-1]",
        "m[:, :, 1:] | m[:, :, :-1]",
        ("test_loss_agrees_with_the_equations",),
        "0-gradient_matching",
    ),
    Mutation(
        "plackett_luce_backwards",
        "losses",
        "present.ndim - 1, reverse=True",
        "present.ndim - 1, reverse=False",
        ("test_loss_agrees_with_the_equations",),
        "0-plackett_luce",
    ),
    Mutation(
        "sgrl_depth_for_disparity",
        "losses",
        "1 / (disparity + ",
        "(disparity + ",
        ("test_loss_agrees_with_the_equations",),
        "0-sgrl",
    ),
    Mutation(
        "sgrl_smallest_disparity",
        "losses",
        "_SMALLEST_DISPARITY = 1e-6",
        "_SMALLEST_DISPARITY = 1e-5",
        ("test_sgrl_adds_a_millionth_of_the_nearest_disparity",),
        "False",
    ),
    Mutation(
        "youtube3d_keeps_the_easiest",
        "losses",
        "jnp.where(counted, -losses, jnp.inf)",
        "jnp.where(counted, losses, jnp.inf)",
        ("test_equal_pairs_are_dropped_as_well_by_youtube3d_and_by_sgrl_never",),
    ),
    Mutation(
        "sum_without_weights",
        "losses",
        "weight * loss(score",
        "loss(score",
        ("test_default_is_the_total_loss_of_midas",),
    ),
    # Pair samplers
    Mutation(
        "uniform_pair_of_one_pixel",
        "samplers",
        "randint(step_key, shape, 1,",
        "randint(step_key, shape, 0,",
        ("test_uniform_pairs_are_uniform_over_valid_pixels",),
    ),
    Mutation(
        "rank_off_by_one",
        "samplers",
        "searchsorted(ends, rank + 1)",
        "searchsorted(ends, rank)",
        ("test_valid_pixels_are_found_by_their_rank",),
        "0.5-64",
    ),
    Mutation(
        "points_on_the_wrong_side",
        "samplers",
        "[-1, -1, 1, 1]",
        "[-1, 1, -1, 1]",
        ("test_edge_guided_points_lie_on_both_sides_of_a_slanted_edge",),
        "[0]",
    ),
    Mutation(
        "largest_distance_missing",
        "samplers",
        "low, high + 1)",
        "low, high)",
        ("test_distances_are_equally_likely_and_both_ends_occur",),
    ),
    Mutation(
        "edge_threshold_absolute",
        "samplers",
        "strength >= self.threshold * strongest",
        "strength >= self.threshold",
        ("test_edge_guided_pairs_are_distributed_as_by_brute_force",),
        "0-signs0",
    ),
    Mutation(
        "gray_of_other_weights",
        "samplers",
        "77 * red + 150 * green + 29 * blue",
        "85 * red + 85 * green + 85 * blue",
        ("test_gray_weighs_colours_by_rec_601",),
        "0.525 or 0.205",
    ),
    Mutation(
        "mixture_begins_with_the_first_sampler",
        "samplers",
        "(np.arange(n) + 0.5) / n",
        "np.arange(n) / n",
        ("test_every_beginning_of_a_mixture_has_the_samplers_in_their_shares",),
    ),
    Mutation(
        "mixture_of_other_shares",
        "samplers",
        "num_pairs: tuple[int, ...] = (1000, 2000)",
        "num_pairs: tuple[int, ...] = (2000, 1000)",
        ("test_a_mixture_has_one_random_pair_to_two_across_edges_unless_told_otherwise",),
    ),
    Mutation(
        "pair_counts_with_one_point",
        "samplers",
        "annotated | (mask_i & mask_j)",
        "annotated | (mask_i | mask_j)",
        ("test_a_sampled_pair_counts_only_if_both_points_have_ground_truth",),
    ),
    # Metrics
    Mutation(
        "boundary_not_strict",
        "metrics",
        "p_far > threshold * p_near",
        "p_far >= threshold * p_near",
        ("test_thresholds_are_strict_and_are_the_weights",),
    ),
    Mutation(
        "si_rmse_keeps_scale",
        "metrics",
        "(d - d.mean()) ** 2",
        "d**2",
        ("test_only_the_scale_invariant_error_forgives_scale",),
    ),
    Mutation(
        "same_row_band_too_wide",
        "metrics",
        "np.ceil(ROW_BAND * height)) - 1",
        "np.ceil(ROW_BAND * height))",
        ("test_same_row_pairs_are_less_than_six_percent_of_the_height_apart",),
    ),
    Mutation(
        "tau_gains_what_it_loses",
        "metrics",
        "len(ordered) + lost",
        "len(ordered) - lost",
        ("test_tau_is_the_smallest_minimiser",),
    ),
    Mutation(
        "interval_one_sided",
        "metrics",
        "(1 + 0.95) / 2",
        "0.95",
        ("test_interval_has_the_spread_of_a_binomial",),
    ),
    Mutation(
        "temperature_wrong_half",
        "metrics",
        "(middle, high) if too_low(middle) else (low, middle)",
        "(low, middle) if too_low(middle) else (middle, high)",
        ("test_scores_without_an_optimum_end_at_the_bounds",),
    ),
    Mutation(
        "depth_at_the_cap_left_out",
        "metrics",
        "(g <= limit)",
        "(g < limit)",
        ("test_depth_equal_to_the_cap_is_valid",),
    ),
    # Run directory
    Mutation(
        "digest_not_compared",
        "checkpoint",
        "found.get(_words(path)) != each",
        "found[_words(path)][:2] != each[:2]",
        ("test_a_step_that_is_asked_for_is_restored_and_no_other",),
    ),
    Mutation(
        "seal_not_compared",
        "checkpoint",
        "_sha256(content.encode()) != digest",
        "len(digest) != 64",
        ("test_a_flipped_bit_of_a_manifest_is_seen_wherever_it_is",),
    ),
    Mutation(
        "arrays_not_synced_first",
        "checkpoint",
        "sync_tree(path)",
        "sync_folder(path)",
        ("test_everything_is_durable_before_the_manifest_says_so",),
    ),
    Mutation(
        "oldest_of_equals_is_best",
        "checkpoint",
        "(whdr[step], -step)",
        "(whdr[step], step)",
        ("test_the_newest_and_the_best_are_kept",),
    ),
    Mutation(
        "cleaning_deletes_a_checkpoint",
        "checkpoint",
        "        if step in saved:\n            return None",
        '        if step in saved:\n            return "unfinished"',
        ("test_only_what_has_a_manifest_counts_and_the_rest_is_cleaned",),
    ),
    Mutation(
        "lost_is_unfinished",
        "checkpoint",
        'return "lost"',
        'return "unfinished"',
        ("test_a_lost_manifest_is_damage_and_a_save_cut_short_is_none",),
    ),
    Mutation(
        "what_is_not_ours_is_unfinished",
        "checkpoint",
        'return "lost"\n        return "not ours"',
        'return "lost"\n        return "unfinished"',
        ("test_only_what_has_a_manifest_counts_and_the_rest_is_cleaned",),
    ),
    Mutation(
        "lock_shared",
        "checkpoint",
        "flock(lock, fcntl.LOCK_EX",
        "flock(lock, fcntl.LOCK_SH",
        ("test_the_lock_is_free_again_after_the_run",),
    ),
    # Data
    Mutation(
        "corner_for_centre",
        "data",
        "(2 * places + 1) * new // (2 * old)",
        "places * new // old",
        ("test_a_point_of_an_enlarged_image_is_in_the_middle_of_what_its_pixel_became",),
    ),
    Mutation(
        "mirrored_pair_off_by_one",
        "data",
        "self.shape[1] - 1 - moved",
        "self.shape[1] - moved",
        ("test_points_stay_on_their_pixels_under_crop_and_mirror",),
    ),
    Mutation(
        "last_crop_never_drawn",
        "data",
        "(high - low + 1)",
        "(high - low)",
        ("test_the_first_and_the_last_possible_crop_occur",),
    ),
    Mutation(
        "seed_of_augmentation",
        "data",
        "stage_seed(seed, 0, order)",
        "stage_seed(seed, 1, order)",
        ("test_order_and_augmentation_follow_from_the_seed_as_written",),
    ),
    Mutation(
        "seed_of_augmentation_of_old_runs",
        "data",
        "if stage else seed + 1",
        "if stage else seed + 2",
        ("test_order_and_augmentation_follow_from_the_seed_as_written",),
        "[1]",
    ),
    Mutation(
        "epochs_of_the_next_seed",
        "data",
        "np.random.SeedSequence((seed, stage)).generate_state(1)[0]",
        "seed + 1000 * stage",
        ("test_no_epoch_of_one_seed_is_one_of_another",),
    ),
    Mutation(
        "shares_of_other_batches",
        "data",
        "start * processes + process",
        "start + process",
        ("test_the_shares_of_processes_are_the_batch",),
        "4-3-0",
    ),
    Mutation(
        "validation_is_trained_on",
        "data",
        "fixed_order(count)[size:]",
        "fixed_order(count)[size - 1 :]",
        ("test_held_out_and_the_rest_part_the_samples",),
    ),
    Mutation(
        "kitti_metres",
        "data",
        "np.float32(256)",
        "np.float32(255)",
        ("test_kitti_values_are_metres_times_256",),
    ),
    Mutation(
        "short_shard_accepted",
        "data",
        "os.path.getsize(path) != size",
        "os.path.getsize(path) > size",
        ("test_a_missing_or_truncated_shard_is_named",),
    ),
    # Weights
    Mutation(
        "kernel_transposed",
        "weights",
        "_TO_TORCH = {4: (3, 2, 0, 1)",
        "_TO_TORCH = {4: (3, 2, 1, 0)",
        ("test_what_is_loaded_computes_what_was_saved",),
    ),
    Mutation(
        "tensor_read_at_the_begin",
        "weights",
        '8 + length + header[name]["data_offsets"][0]',
        "8 + length",
        ("test_the_layout_that_the_malformed_ones_vary_is_read",),
    ),
    Mutation(
        "prefix_of_some_dropped",
        "weights",
        "if all(n.startswith(p) for n in short)",
        "if any(n.startswith(p) for n in short)",
        ("test_a_prefix_that_only_some_names_have_stays",),
    ),
    Mutation(
        "shape_not_compared",
        "weights",
        "tensors[key].shape != tuple(shape)",
        "tensors[key].ndim != len(shape)",
        ("test_files_whose_metadata_are_wrong_are_refused",),
        "another",
    ),
    Mutation(
        "tensor_counts_as_one_number",
        "weights",
        "math.prod(value.shape) * dtype.itemsize",
        "dtype.itemsize",
        ("test_tensors_that_lie_about_their_storage_are_refused",),
        "expanded",
    ),
)


class Missing(Exception):
    """What is not there, or not once."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one change."""

    verdict: Verdict
    place: str
    """The file that was changed."""
    seconds: float
    said: str
    """What pytest said last of the test that decided."""


def main() -> int:
    """Try the changes, print the table, write the file."""
    options = _options()
    chosen = [each for each in MUTATIONS if not options.only or each.name in options.only]
    # A terminated process must take its change back, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    said = _green(chosen)
    if said is not None:
        print(f"not green without a change:\n{said}", file=sys.stderr)
        return 2
    outcomes = []
    for mutation in chosen:
        outcome = _try(mutation)
        outcomes.append(outcome)
        print(_row(mutation, outcome), flush=True)
    if options.out:
        entries = [
            {**dataclasses.asdict(mutation), **dataclasses.asdict(outcome)}
            for mutation, outcome in zip(chosen, outcomes, strict=True)
        ]
        pathlib.Path(options.out).write_text(json.dumps(entries, indent=1) + "\n", "utf-8")
    red = sum(outcome.verdict == "red" for outcome in outcomes)
    print(f"{red} of {len(chosen)} red, {sum(outcome.seconds for outcome in outcomes):.0f} s")
    return 0 if red == len(chosen) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [mutation.name for mutation in MUTATIONS]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help="this one; may be repeated"
    )
    parser.add_argument("--out", metavar="OUT.json", help="write what became of each there")
    return parser.parse_args()


def _row(mutation: Mutation, outcome: Outcome) -> str:
    return (
        f"{mutation.name:28} {mutation.kind:10} {outcome.verdict:6} {outcome.seconds:5.0f} s"
        f"  {outcome.place}{'' if outcome.verdict == 'red' else f'  {outcome.said}'}"
    )


def _green(mutations: Sequence[Mutation]) -> str | None:
    """Return None if the tests of all changes pass as the code is, else what pytest said."""
    files: set[pathlib.Path] = set()
    selected = []
    for mutation in mutations:
        # What is missing is told when its turn comes.
        with contextlib.suppress(Missing):
            for test in mutation.tests:
                files.update(_files_of(test))
                selected.append(f"({_selection(mutation, test)})")
    if not files:
        return None
    began = time.monotonic()
    code, output = _pytest(sorted(files), " or ".join(dict.fromkeys(selected)), LIMIT_OF_ALL)
    if code != 0:
        return output
    print(f"green without a change, {time.monotonic() - began:.0f} s: {_last(output)}", flush=True)
    return None


def _try(mutation: Mutation) -> Outcome:
    """Make the change, run its tests one by one until one is not red, take the change back."""
    began = time.monotonic()
    place, verdict, said = "", "broken", ""
    try:
        path = _place(mutation.text)
        place = os.fspath(path)
        tests = [(_files_of(test), _selection(mutation, test)) for test in mutation.tests]
        with _changed(path, mutation.text, mutation.wrong):
            for files, selection in tests:
                # No compiled file of a change may outlive it.
                code, output = _pytest(files, selection, LIMIT, PYTHONDONTWRITEBYTECODE="1")
                verdict, said = _verdict(code), _last(output)
                if verdict != "red":
                    break
    except Missing as missing:
        said = str(missing)
    return Outcome(verdict, place, round(time.monotonic() - began, 1), said)


def _verdict(code: int) -> Verdict:
    # Pytest's other codes: interrupted, broken itself, misused, nothing selected.
    return "green" if code == 0 else "red" if code == 1 else "broken"


def _place(text: str) -> pathlib.Path:
    """Return the file of the package that holds the text, once; Missing if there is no such."""
    counts = {path: path.read_text("utf-8").count(text) for path in _python(PACKAGE)}
    found = [path for path, count in counts.items() if count]
    if sum(counts.values()) != 1:
        where = f" ({', '.join(map(str, found))})" if found else ""
        raise Missing(f"{text!r} occurs {sum(counts.values())} times{where}")
    return found[0]


def _files_of(test: str) -> list[pathlib.Path]:
    """Return the files that define a test; Missing if none does."""
    definition = re.compile(rf"^def {test}\(", re.MULTILINE)
    found = [path for path in _python(TESTS) if definition.search(path.read_text("utf-8"))]
    if not found:
        raise Missing(f"there is no {test}")
    return found


def _python(folder: str) -> list[pathlib.Path]:
    return sorted(pathlib.Path(folder).rglob("*.py"))


def _selection(mutation: Mutation, test: str) -> str:
    return f"{test} and ({mutation.only})" if mutation.only else test


@contextlib.contextmanager
def _changed(path: pathlib.Path, text: str, wrong: str) -> Iterator[None]:
    """Replace the text in the file, until it is left."""
    content, times = path.read_bytes(), path.stat()
    try:
        path.write_bytes(content.replace(text.encode(), wrong.encode()))
        yield
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _pytest(
    files: Sequence[pathlib.Path], selection: str, limit: float, **variables: str
) -> tuple[int, str]:
    """Return pytest's exit code and output; code -1 if it takes longer than the limit."""
    environment = os.environ | variables
    # Tests may replace it by a cache of their own.
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", "/tmp/xla_mut")
    # Not an installed copy.
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, (os.getcwd(), environment.get("PYTHONPATH")))
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider"]
        + [*map(os.fspath, files), "-k", selection],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # So that what tests have started ends with them.
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return -1, f"no end within {limit:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, output


def _last(output: str) -> str:
    """Return the line that says which test failed, or the last one."""
    lines = output.strip().splitlines() or [""]
    return next((line for line in lines if line.startswith(("FAILED ", "ERROR "))), lines[-1])


if __name__ == "__main__":
    sys.exit(main())
