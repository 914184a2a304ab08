"""The game, in a process of its own: `python -P game.py FOLDER`, driven by `driver.Driver`.

The engine writes into the working directory, a fault in ViZDoom's native code ends the process,
and Ctrl-C and a scheduler's SIGTERM would end the engine under a training that wants to finish its
step. Requests come in by stdin and frames go out by stdout, both pickled; the process ends when
stdin does, and removes the folder, which is its working directory. This file imports nothing of the
package, so that starting it is quick.
"""

import contextlib
import io
import os
import pickle
import shutil
import signal
import sys
import zlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 480, 640
"""Of the rendered frame. The game halves part of the depth buffer at half this height."""
HEADINGS = 3
"""Directions looked into from each place."""
ATTEMPTS = 60
"""Frames tried for each that is wanted."""
SETTLING = 10
"""Tics after a warp until the eye is at its height again and a flash of the screen has faded."""
NEARBY = 60.0
"""Largest distance, per axis, of a place from the object that it is found by; map units."""


class Visit(NamedTuple):
    """A request: distinct frames of one map; these values decide the views and the depth."""

    wad: str
    map: str
    seed: int
    frames: int
    shrink: int
    """Rows and columns of the rendered frame that become one."""


class Frame(NamedTuple):
    """A reply has a list of these; height and width are those of the frame after shrinking."""

    image: bytes
    """PNG, each pixel the mean of the rendered ones."""
    buffer: bytes
    """The game's depth buffer, uint8 (h w), zlib; of each square its lower right middle pixel."""


def is_worth_keeping(image: np.ndarray, buffer: np.ndarray) -> bool:
    """Return whether a frame has depth to tell apart, light to see by and a buffer to trust.

    A zero in the buffer is less than 11 map units away and comes with floor pixels whose depth has
    wrapped round to far values. Half the frame or more must not be sky, the median distance must be
    above 70 map units, the 95th percentile above 2.5 times the 5th, the mean brightness above 18.
    """
    if (buffer == 0).any():
        return False
    solid = buffer[buffer < 255]
    if 2 * solid.size < buffer.size:
        return False
    near, median, far = 7.15 * np.percentile(solid, (5, 50, 95)) + 14.5
    return bool(median > 70 and far > 2.5 * near and image.mean() > 18)


def start(wad: str, home: str) -> Any:
    """Return a running game of one of the two WADs that ViZDoom ships; it writes into `home`."""
    import vizdoom

    installed = os.path.dirname(vizdoom.__file__)
    game = vizdoom.DoomGame()
    game.set_doom_game_path(os.path.join(installed, wad))
    game.set_doom_config_path(os.path.join(home, f"{wad}.ini"))
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_640X480)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(True)
    game.set_objects_info_enabled(True)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    for part in ("hud", "minimal_hud", "weapon", "crosshair", "messages", "particles", "decals"):
        getattr(game, f"set_render_{part}")(False)
    game.set_available_buttons([vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    game.set_episode_timeout(0)
    game.add_game_args("+sv_cheats 1 +cl_showsecretmessage 0 -noautoload")
    game.init()
    return game


def begin(game: Any, visit: Visit, attempt: int) -> np.ndarray:
    """Load the map; return the places (x y) of its objects in map units."""
    game.set_doom_map(visit.map)
    game.set_seed((visit.seed + attempt) % (1 << 32))
    game.new_episode()
    for command in ("iddqd", "notarget", "freeze"):
        game.send_game_command(command)
    game.make_action([0], 1)
    objects = game.get_state().objects
    return np.array([(thing.position_x, thing.position_y) for thing in objects])


def look_around(game: Any, visit: Visit) -> list[Frame]:
    """Return the frames of a visit; fewer than wanted if too few attempts were worth keeping."""
    rng = np.random.default_rng(visit.seed)
    frames: list[Frame] = []
    attempt, places = 0, begin(game, visit, 0)
    while len(frames) < visit.frames and attempt < ATTEMPTS * visit.frames:
        if game.is_episode_finished():  # it stood where the level ends
            places = begin(game, visit, attempt)
        x, y = places[rng.integers(len(places))] + rng.uniform(-NEARBY, NEARBY, 2)
        turns = rng.uniform(60, 180, HEADINGS)
        game.send_game_command(f"warp {x:.0f} {y:.0f}")
        game.advance_action(SETTLING, False)
        for turn in turns:
            attempt += 1
            if not game.is_episode_finished():
                game.make_action([float(turn)], 1)
            if game.is_episode_finished() or len(frames) == visit.frames:
                break
            state = game.get_state()
            if is_worth_keeping(state.screen_buffer, state.depth_buffer):
                frames.append(shrunk(state.screen_buffer, state.depth_buffer, visit.shrink))
    return frames


def shrunk(image: np.ndarray, buffer: np.ndarray, shrink: int) -> Frame:
    """Return a frame of 1 / `shrink` the height and width."""
    encoded = io.BytesIO()
    # Level 1 takes a third of the time of the default, for an eighth more bytes.
    Image.fromarray(image).reduce(shrink).save(encoded, "png", compress_level=1)
    middle = slice(shrink // 2, None, shrink)
    return Frame(encoded.getvalue(), zlib.compress(buffer[middle, middle].tobytes(), 1))


def serve(home: str) -> None:
    """Answer each `Visit` with its frames, or with what went wrong as text."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    games: dict[str, Any] = {}
    os.chdir(home)
    try:
        while True:
            try:
                visit = Visit(*pickle.load(requests))
            except EOFError:
                break
            reply: Any
            try:
                if visit.wad not in games:
                    games[visit.wad] = start(visit.wad, home)
                reply = [tuple(frame) for frame in look_around(games[visit.wad], visit)]
            except Exception as error:  # Any: the caller must not wait for ever.
                reply = f"{type(error).__name__}: {error}"
            try:
                pickle.dump(reply, replies, protocol=5)
                replies.flush()
            except BrokenPipeError:
                break
        for game in games.values():
            with contextlib.suppress(Exception):
                game.close()
    finally:
        # The caller may be gone.
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    # The caller decides when to end; the engine inherits this.
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    serve(sys.argv[1])
