"""The restart loop and the Slurm script, with stand-ins for Python, srun, scontrol and sleep."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LOOP = [sys.executable, str(ROOT / "scripts/train_until_done.py")]
BATCH = ["bash", "scripts/train.sbatch"]

# One attempt: takes the next line of `plan`, "CODE [STEP]", saves STEP and ends with CODE.
FAKE_PYTHON = """#!/bin/bash
echo "$*" >> {here}/calls
read -r code step < {here}/plan
sed -i 1d {here}/plan
if [ -n "$step" ]; then mkdir -p {run}/checkpoints; touch {run}/checkpoints/$step.json; fi
if [ "$code" = wait ]; then exec {python} {here}/wait.py; fi
if [ "$code" -gt 128 ]; then kill -s $((code - 128)) $$; fi
exit $code
"""

# The code "wait": notes each signal, and takes half a second to obey the first.
WAIT = """
import pathlib, signal, sys, time
here, seen = pathlib.Path(__file__).parent, []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, lambda number, _: seen.append(number))
(here / "waiting").touch()
deadline = time.monotonic() + 15
while not seen and time.monotonic() < deadline:
    time.sleep(0.02)
until = time.monotonic() + 0.5
while time.monotonic() < until:
    time.sleep(0.02)
(here / "signals").write_text("".join(signal.Signals(each).name + "\\n" for each in seen))
sys.exit(128 + seen[0] if seen else 99)
"""


class Machine:
    """A folder with a plan for the stand-in of Python, and a run directory."""

    def __init__(self, here: pathlib.Path, run: pathlib.Path | None = None):
        self.here, self.run = here, run or here / "run"
        self.python = self.program(
            "python", FAKE_PYTHON.format(here=here, run=self.run, python=sys.executable)
        )
        (here / "wait.py").write_text(WAIT)

    def program(self, name: str, text: str) -> str:
        path = self.here / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def start(
        self,
        *plan: str,
        script: list[str] = LOOP,
        options: list[str] | None = None,
        where: pathlib.Path = ROOT,
        group: bool = False,
        **variables: str,
    ) -> subprocess.Popen[str]:
        (self.here / "plan").write_text("".join(f"{line}\n" for line in plan))
        environment = os.environ | {"PYTHON": self.python, "PAUSE": "0"} | variables
        options = options or ["--config", "configs/smoke.py", "--workdir", str(self.run)]
        return subprocess.Popen(
            [*script, *options], cwd=where,
            env=environment, stderr=subprocess.PIPE, text=True, start_new_session=group,
        )  # fmt: skip

    def code(self, *plan: str, **options: Any) -> int:
        process = self.start(*plan, **options)
        self.stderr = process.communicate(timeout=20)[1]
        return process.returncode

    def lines(self, name: str) -> list[str]:
        path = self.here / name
        return path.read_text().splitlines() if path.exists() else []

    def until_waiting(self) -> None:
        for _ in range(400):
            if (self.here / "waiting").exists():
                return
            time.sleep(0.02)
        raise AssertionError("the stand-in did not start")


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Machine:
    return Machine(tmp_path)


def test_starts_again_until_training_is_finished(machine: Machine):
    plan = ["75 00000010", "137 00000020", "143 00000030", "138 00000040", "1 00000050", "0"]
    assert machine.code(*plan) == 0
    calls = machine.lines("calls")
    assert len(calls) == 6
    arguments = f"-m reldepth_jax train --config configs/smoke.py --workdir {machine.run}"
    assert set(calls) == {arguments}
    assert "newest checkpoint: step 40" in machine.stderr


@pytest.mark.parametrize(
    ("options", "run_dir"),
    [
        # What scripts/train.py takes where no --workdir is given.
        (["--config", "configs/redweb.py:diw"], "runs/redweb_diw"),
        (["--config=a.py", "--workdir=b", "--workdir", "c"], "c"),
        (["--config", "a.py", "--config.train.steps=9"], "runs/a"),
    ],
)
def test_checkpoints_are_counted_where_training_saves_them(
    tmp_path: pathlib.Path, options: list[str], run_dir: str
):
    machine = Machine(tmp_path, run=tmp_path / run_dir)
    plan = [*(f"75 {step:08d}" for step in range(1, 7)), "0"]
    assert machine.code(*plan, options=options, where=tmp_path) == 0
    assert len(machine.lines("calls")) == 7


@pytest.mark.parametrize("code", [2, 3, 4, 5, 6, 126, 127, 130])
def test_ends_where_starting_again_would_not_help(machine: Machine, code: int):
    assert machine.code(f"{code} 00000010", "0") == code
    assert len(machine.lines("calls")) == 1


def test_gives_up_after_three_attempts_without_a_newer_checkpoint(machine: Machine):
    # Step 10 is progress, so that only the last three count; 139: of the last.
    plan = ["137", "137", "75 00000010", "1", "75 00000010", "139", "0"]
    assert machine.code(*plan) == 139
    assert len(machine.lines("calls")) == 6
    assert "3 attempts in a row" in machine.stderr


def test_steps_are_compared_as_numbers(machine: Machine):
    # As text 100000000 would come before 99999999. Drive names a second copy like the third here.
    (machine.run / "checkpoints").mkdir(parents=True)
    for name in ("bad-1-99999999", "300000000.orbax", "300000000 (1)"):
        (machine.run / f"checkpoints/{name}.json").touch()
    plan = ["75 99999999", "75", "75", "75 100000000", "75", "75", "0"]
    assert machine.code(*plan) == 0
    assert {line.partition(":")[0] for line in machine.stderr.splitlines()} == {"train_until_done"}


@pytest.mark.parametrize(
    ("sent", "arrived", "code"),
    [
        (signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "SIGINT", 130),
        (signal.SIGHUP, "SIGHUP", 129), (signal.SIGUSR1, "SIGUSR1", 138),
    ],
)  # fmt: skip
def test_a_signal_reaches_training_once_and_ends_the_loop_with_its_code(
    machine: Machine, sent: signal.Signals, arrived: str, code: int
):
    process = machine.start("wait", "0")
    machine.until_waiting()
    process.send_signal(sent)
    assert "starting again" not in process.communicate(timeout=20)[1]
    assert process.returncode == code
    assert machine.lines("signals") == [arrived]
    assert len(machine.lines("calls")) == 1


def test_ctrl_c_at_a_terminal_reaches_training_once(machine: Machine):
    # A terminal sends it to the whole process group.
    process = machine.start("wait", "0", group=True)
    machine.until_waiting()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert machine.lines("signals") == ["SIGINT"]


def test_a_stop_during_the_pause_ends_the_loop(machine: Machine):
    process = machine.start("137", "0", PAUSE="30")
    assert process.stderr
    while "starting again" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 137
    assert len(machine.lines("calls")) == 1


def test_an_interpreter_that_is_missing_is_one_line(machine: Machine):
    assert machine.code(PYTHON="/nowhere/python") == 127
    assert machine.stderr == "train_until_done: /nowhere/python: No such file or directory\n"


def test_the_loop_starts_without_jax():
    program = (
        "import sys\n"
        "from reldepth_jax.cli.train_until_done import main\n"
        "try: main(['--help'])\n"
        "finally: assert not {'jax', 'rich'} & sys.modules.keys()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "$ATTEMPTS" in result.stdout


@pytest.fixture
def cluster(machine: Machine) -> Machine:
    """Stand-ins for what Slurm brings; `sleep` only notes how long."""
    machine.program("srun", '#!/bin/bash\nexec "$@"\n')
    machine.program("scontrol", f'#!/bin/bash\necho "$*" >> {machine.here}/scontrol\n')
    machine.program("sleep", f'#!/bin/bash\necho "$*" >> {machine.here}/sleeps\n')
    return machine


def submit(cluster: Machine, code: int, **variables: str) -> int:
    path = f"{cluster.here / 'bin'}:{os.environ['PATH']}"
    slurm = {"PATH": path, "SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "8"}
    return cluster.code(str(code), script=BATCH, **(slurm | variables))


@pytest.mark.parametrize(
    ("code", "requeued", "waited"),
    [
        (0, False, False), (75, True, False), (138, True, False), (143, True, True),
        (2, False, False), (3, False, False), (5, False, False), (137, False, False),
        (1, False, False),
    ],
)  # fmt: skip
def test_batch_job_is_queued_again_only_when_unfinished(
    cluster: Machine, code: int, requeued: bool, waited: bool
):
    assert submit(cluster, code) == code
    assert cluster.lines("scontrol") == (["requeue 77"] if requeued else [])
    # Of a cancelled job Slurm kills the shell in these minutes, and it does not come back.
    assert cluster.lines("sleeps") == (["300"] if waited else [])
    assert cluster.lines("calls")[0].startswith("-u scripts/train.py --config configs/smoke.py")


def test_batch_job_does_not_return_for_ever(cluster: Machine):
    assert submit(cluster, 75, SLURM_RESTART_COUNT="99") == 75
    assert submit(cluster, 75, SLURM_RESTART_COUNT="100") == 75
    assert cluster.lines("scontrol") == ["requeue 77"]
    assert "not queued again" in cluster.stderr


def test_batch_job_says_when_it_cannot_be_queued(cluster: Machine):
    cluster.program("scontrol", "#!/bin/bash\nexit 1\n")
    assert submit(cluster, 138) == 138
    assert "submit the same command" in cluster.stderr


def test_batch_job_asks_slurm_for_a_warning_to_the_training_and_a_return():
    asked = re.findall(r"^#SBATCH (.*)", pathlib.Path(BATCH[-1]).read_text(), re.MULTILINE)
    assert {"--requeue", "--signal=USR1@120", "--open-mode=append"} <= set(asked)


def test_the_batch_script_parses():
    assert subprocess.run(["bash", "-n", BATCH[-1]], check=False).returncode == 0
    if checker := shutil.which("shellcheck"):
        assert subprocess.run([checker, BATCH[-1]], check=False).returncode == 0
