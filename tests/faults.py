"""What may befall a run, and whether anything is lost by it.

    make faults                                      # twenty tries of each: 24 to 92 minutes
    TRIES=3 make faults                              # five to twenty minutes
    python -m tests.faults "the disk is full"        # one alone, or several

A fault befalls a real run of `nas search` in the middle of its work, at a seeded moment. What is resumed
afterwards must end in the genotype, the metrics and the history of a run that was left alone; where something
cannot go on, a sentence must say so. Prints a table (fault, tries, lost), and what was lost; ends with 1
where anything was.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from nas_cli.catalogue import options
from tests.test_pairs import SMALL_SEARCH

FREE = {"seconds", "images_per_second", "memory_mb"}
"""What may differ in metrics and history: what depends on the clock and the machine's memory."""
MOBILE = ["space=mobilenet", "space.stage_channels=[8,8]", "space.stage_strides=[1,2]", "space.depths=[1,2]"]
SPACES = {"ofa": MOBILE}
SPACE = ["space=nasbench201", "space.num_cells=1", "space.channels=4"]
RECIPE = ["recipe=smoke", "recipe.epochs=8", "recipe.steps_per_epoch=2", "recipe.batch_size=8"]
ALWAYS = ["trainer.device=cpu", "preflight=false", "dataset.limit=200"]
SMALL = {key: value for key, value in SMALL_SEARCH.items() if isinstance(value, int)}
SMALL |= {"num_evaluations": 16, "population_size": 6, "tournament_size": 2}
"""Small enough for a try of seconds; a strategy without such a setting keeps its own."""
SCORED = ["evaluator=from_scratch", "evaluator.epochs=1"]
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class LostError(Exception):
    """What a fault cost that it must not cost."""


class SkippedError(Exception):
    """Why a fault could not be made: on this machine, or before the run was over."""


TOO_LATE = "the run was over before"
BETWEEN = "the last checkpoint was kept, and the new one not yet in its place"


def nas(*words: str, begin: tuple[str, ...] = (), set_to: Mapping[str, str] = {}) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*begin, sys.executable, "-m", "nas_cli", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **set_to},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> None:
    ended(process, 0, "")


def ended(process: "subprocess.Popen[str]", code: int, sentence: str) -> None:
    """With that exit code, with that in its last line, without a traceback."""
    output, _ = process.communicate(timeout=900)
    if process.returncode != code or sentence not in output or "Traceback" in output:
        raise LostError(f"exit code {process.returncode}, not {code} and {sentence!r}:\n{output[-2000:]}")


def outcome(folder: Path) -> dict[str, object]:
    """All that a search found on its way and at its end."""
    return {
        "metrics": records(folder / "metrics.jsonl"),
        "history": records(folder / "history.jsonl"),
        "choices": json.loads((folder / "genotype.json").read_text())["choices"],
    }


def records(file: Path) -> list[dict[str, object]]:
    lines = file.read_text().splitlines() if file.exists() else []
    return [{key: value for key, value in json.loads(line).items() if key not in FREE} for line in lines]


@dataclass(frozen=True)
class Case:
    """A search of one strategy, and what it finds when it is left alone."""

    words: tuple[str, ...]
    folder: Path
    seconds: float
    expected: dict[str, object]

    @classmethod
    def of(cls, words: list[str], folder: Path) -> "Case":
        finish(nas(*words, f"hydra.run.dir={folder}"))
        seconds = json.loads((folder / "status.json").read_text())["seconds"]
        return cls(tuple(words), folder, seconds, outcome(folder))

    @property
    def has_checkpoints(self) -> bool:
        return (self.folder / "checkpoint.pt").exists()

    def start(
        self, folder: Path, *words: str, begin: tuple[str, ...] = (), set_to: Mapping[str, str] = {}
    ) -> "subprocess.Popen[str]":
        """A run of it in that folder, which works when this returns."""
        process = nas(*self.words, *words, f"hydra.run.dir={folder}", begin=begin, set_to=set_to)
        wait_for(process, lambda: (folder / "config.yaml").exists())
        return process

    def in_the_middle(self, rng: random.Random) -> float:
        return rng.uniform(0.0, 0.9 * self.seconds)

    def go_on(self, folder: Path) -> None:
        """Resume, and raise LostError unless all is as in the run that was left alone."""
        if json.loads((folder / "status.json").read_text())["status"] != "done":
            finish(nas("search", "--resume", str(folder)))
        self.compare(folder)

    def compare(self, folder: Path) -> None:
        found = outcome(folder)
        for name, expected in self.expected.items():
            if found[name] != expected:
                raise LostError(f"{name} of {folder} is {found[name]}, not {expected}")


def wait_for(process: "subprocess.Popen[str]", happened: Callable[[], object], every: float = 0.002) -> bool:
    """Until it happened or the process ended; whether it happened."""
    while process.poll() is None:
        if happened():
            return True
        time.sleep(every)
    return False


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def killed(case: Case, folder: Path, rng: random.Random) -> None:
    process = case.start(folder)
    time.sleep(case.in_the_middle(rng))
    kill(process)
    case.go_on(folder)


def killed_while_it_saves(case: Case, folder: Path, rng: random.Random) -> None:
    """Inside a write of a checkpoint or of another whole file, whose temporary file is there then."""
    process = case.start(folder)
    time.sleep(case.in_the_middle(rng))
    wait_for(process, lambda: any(folder.glob(".*.tmp")), every=0.0)
    kill(process)
    case.go_on(folder)


def terminated(case: Case, folder: Path, rng: random.Random) -> None:
    process = case.start(folder)
    time.sleep(case.in_the_middle(rng))
    process.terminate()
    output, _ = process.communicate()
    status = json.loads((folder / "status.json").read_text())["status"]
    codes = (0, 143, -signal.SIGTERM) if status == "done" else (0, 143)  # Python itself may be ending already
    if process.returncode not in codes or "Traceback" in output:
        raise LostError(f"exit code {process.returncode}: {output[-1000:]}")
    case.go_on(folder)


def cut_in_half(content: bytes, rng: random.Random) -> bytes:
    return content[: len(content) // 2]


def with_a_bit_flipped(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def torn(content: bytes, rng: random.Random) -> bytes:
    """The last line is not whole."""
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    return content[: rng.randint(last, len(content) - 1)]


def damaged(
    damage: Callable[[bytes, random.Random], bytes], name: str, case: Case, folder: Path, rng: random.Random
) -> None:
    """A file of a run that was killed; of a checkpoint, and what it goes on from, the one before is there."""
    process = case.start(folder)
    least = folder / ("history.jsonl" if name == "history.jsonl" else "checkpoint.previous.pt")
    wait_for(process, lambda: least.exists() and least.stat().st_size > 0)
    time.sleep(rng.uniform(0.0, 0.3 * case.seconds))
    kill(process)
    file = folder / name
    if json.loads((folder / "status.json").read_text())["status"] == "done":
        raise SkippedError(TOO_LATE)
    if not file.exists():
        raise SkippedError(BETWEEN)
    file.write_bytes(damage(file.read_bytes(), rng))
    case.go_on(folder)


def full_disk(case: Case, folder: Path, rng: random.Random) -> None:
    """A file system of memory that something else fills in the middle."""
    if os.geteuid() != 0:
        raise SkippedError("only root may mount a file system")
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        raise SkippedError(f"no file system of memory can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        process = case.start(folder / "run")
        time.sleep(case.in_the_middle(rng))
        ballast = folder / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        told(process, "could not be written")
        ballast.unlink()
        case.go_on(folder / "run")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def read_only(case: Case, folder: Path, rng: random.Random) -> None:
    begin: tuple[str, ...] = ()
    if os.geteuid() == 0:  # whom permissions do not stop
        begin = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
        if shutil.which("setpriv") is None:
            raise SkippedError("root writes everywhere, and there is no setpriv to take that from it")
    process = case.start(folder, begin=begin)
    time.sleep(case.in_the_middle(rng))
    folder.chmod(0o555)
    try:
        told(process, "could not be written")
    finally:
        folder.chmod(0o755)
    case.go_on(folder)


def told(process: "subprocess.Popen[str]", sentence: str, codes: tuple[int, ...] = (1,)) -> None:
    """The run stops with that sentence."""
    output, _ = process.communicate(timeout=900)
    if process.returncode == 0:
        raise SkippedError(TOO_LATE)
    if process.returncode not in codes or sentence not in output or "Traceback" in output:
        raise LostError(f"exit code {process.returncode}: {output[-2000:]}")


def clock_set_back(case: Case, folder: Path, rng: random.Random) -> None:
    """By a day, in the middle."""
    if not FAKETIME.exists():
        raise SkippedError("there is no libfaketime (apt-get install faketime)")
    clock = folder.with_suffix(".clock")
    clock.write_text("+0")
    faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    process = case.start(folder, set_to={**faked, "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
    time.sleep(case.in_the_middle(rng))
    clock.write_text("-1d")
    finish(process)
    case.compare(folder)


def second_process(case: Case, folder: Path, rng: random.Random) -> None:
    """It is refused and told who holds the folder; the first one goes on."""
    words = [*case.words, "recipe.epochs=400", "recipe.steps_per_epoch=20"]
    process = nas(*words, f"hydra.run.dir={folder}")
    wait_for(process, lambda: (folder / "status.json").exists())
    ended(nas("search", "--resume", str(folder)), 2, f"process {process.pid} on")
    if process.poll() is not None:
        raise LostError(f"the first process ended with {process.returncode}: {process.communicate()[0]}")
    kill(process)


def no_memory(case: Case, folder: Path, rng: random.Random) -> None:
    """In the middle the process may take no more than it has; all told, a library may crash as it ends.

    Limited from its start, if to more than there is, it sets no address space aside.
    """
    process = case.start(folder, begin=("sh", "-c", 'ulimit -S -v 1073741824; exec "$@"', "sh"))
    time.sleep(case.in_the_middle(rng))
    with contextlib.suppress(psutil.NoSuchProcess):
        child = psutil.Process(process.pid)
        child.rlimit(psutil.RLIMIT_AS, (child.memory_info().vms, psutil.RLIM_INFINITY))
    told(process, "no memory left", codes=(1, -signal.SIGSEGV))
    case.go_on(folder)


def not_finite(case: Case, folder: Path, rng: random.Random) -> None:
    process = nas(
        *case.words, "recipe.learning_rate=1e30", "recipe.steps_per_epoch=6", f"hydra.run.dir={folder}"
    )
    ended(process, 1, "Lower recipe.learning_rate")


def images_gone(case: Case, folder: Path, rng: random.Random) -> None:
    """The file of images disappears; with the file back the search goes on."""
    images = Path(next(word for word in case.words if word.startswith("dataset.path=")).partition("=")[2])
    own = folder.with_suffix(".npz")
    shutil.copy(images, own)
    process = case.start(folder, f"dataset.path={own}")
    time.sleep(case.in_the_middle(rng))
    kill(process)
    if json.loads((folder / "status.json").read_text())["status"] != "done":
        hidden = own.rename(folder.with_suffix(".hidden"))
        ended(nas("search", "--resume", str(folder)), 2, str(own))
        hidden.rename(own)
    case.go_on(folder)


def worker_killed(case: Case, folder: Path, rng: random.Random) -> None:
    """One of two; what was in its hands is scored again."""
    process = case.start(folder, "executor=processes", "executor.in_flight=4")
    wait_for(process, lambda: (folder / "history.jsonl").exists())
    time.sleep(case.in_the_middle(rng) / 2)
    with contextlib.suppress(psutil.NoSuchProcess):
        workers = [
            one for one in psutil.Process(process.pid).children() if "popen_loky" in " ".join(one.cmdline())
        ]
        if workers:
            rng.choice(workers).kill()
    finish(process)
    case.compare(folder)


Fault = Callable[[Case, Path, random.Random], None]
OF_CHECKPOINTS: dict[str, Fault] = {
    "a second process wants the folder": second_process,
    "a checkpoint is cut in half": partial(damaged, cut_in_half, "checkpoint.pt"),
    "a bit of a checkpoint flips": partial(damaged, with_a_bit_flipped, "checkpoint.pt"),
    "the last line of metrics is torn": partial(damaged, torn, "metrics.jsonl"),
}
OF_HISTORIES: dict[str, Fault] = {
    "the last line of the history is torn": partial(damaged, torn, "history.jsonl"),
}
OF_ALL: dict[str, Fault] = {
    "SIGTERM": terminated,
    "the disk is full": full_disk,
    "the folder becomes read-only": read_only,
    "the clock is set back": clock_set_back,
    "there is no memory": no_memory,
    "the loss is not finite": not_finite,
}


def words_of(strategy: str) -> list[str]:
    """A small search by that strategy; one that samples trains what it samples."""
    import yaml

    node = yaml.safe_load(options("strategy")[strategy].read_text())
    small = [f"strategy.{key}={value}" for key, value in SMALL.items() if key in node]
    scored = SCORED if samples(strategy) else []
    return ["search", f"strategy={strategy}", *SPACES.get(strategy, SPACE), *RECIPE, *ALWAYS, *scored, *small]


def samples(strategy: str) -> bool:
    import importlib

    import yaml

    from nas_cli.sampling import SamplingStrategy

    target = yaml.safe_load(options("strategy")[strategy].read_text())["_target_"]
    module, _, name = target.rpartition(".")
    return issubclass(getattr(importlib.import_module(module), name), SamplingStrategy)


@dataclass
class Line:
    """A line of the table."""

    fault: str
    tries: int = 0
    lost: int = 0
    skipped: str = ""


def attempt(line: Line, fault: Fault, case: Case, folder: Path, seed: str) -> None:
    """Up to five times, where the moment is none for the fault."""
    for moment in range(5):
        rng = random.Random(zlib.crc32(f"{seed} {moment}".encode()))
        try:
            fault(case, folder, rng)
        except SkippedError as reason:
            shutil.rmtree(folder, ignore_errors=True)
            if str(reason) in (TOO_LATE, BETWEEN) and moment < 4:
                continue
            line.skipped = str(reason)
            return
        except Exception as error:  # whatever it is, the run did not end as one that was left alone
            line.lost += 1
            sys.stderr.write(f"{line.fault}, {seed}: {type(error).__name__}: {error}\n")
        line.tries += 1
        shutil.rmtree(folder, ignore_errors=True)
        return


def plan(
    cases: dict[str, Case], with_images: Case, in_flight: Case, tries: int
) -> Iterator[tuple[str, Fault, str, Case]]:
    """(fault, what it does, the try, the search): kills of each strategy, the rest spread over them."""
    for name, case in cases.items():
        for k in range(tries):
            yield "kill -9", killed, f"{name} {k}", case
    with_checkpoints = {name: case for name, case in cases.items() if case.has_checkpoints}
    sampling = {name: case for name, case in cases.items() if name not in with_checkpoints}
    saving = {"kill -9 while a file is written": killed_while_it_saves}
    for faults, among in (
        (saving | OF_ALL, cases),
        (OF_CHECKPOINTS, with_checkpoints),
        (OF_HISTORIES, sampling),
        ({"the images disappear": images_gone}, {"darts": with_images}),
        ({"a worker is killed": worker_killed}, {"evolution": in_flight}),
    ):
        names = sorted(among)
        for title, fault in faults.items():
            start = zlib.crc32(title.encode())
            for k in range(tries):
                name = names[(start + k) % len(names)]
                yield title, fault, f"{name} {k}", among[name]


def grey_images(file: Path) -> Path:
    draws = np.random.default_rng(0)
    parts: dict[str, np.ndarray] = {}
    for part, count in (("train", 200), ("test", 40)):
        parts[f"x_{part}"] = draws.integers(0, 256, (count, 8, 8), np.uint8)
        parts[f"y_{part}"] = np.arange(count) % 4
    np.savez(file, allow_pickle=False, **parts)
    return file


def main() -> int:
    tries = int(os.environ.get("TRIES", "20"))
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = Path(place)
        images = [f"dataset.path={grey_images(folder / 'images.npz')}", "dataset=npz"]
        searches = {name: words_of(name) for name in options("strategy")}
        searches |= {"images": [*words_of("darts"), *images]}
        searches |= {"in flight": [*words_of("evolution"), "executor.in_flight=4"]}
        made = pool.map(lambda item: (item[0], Case.of(item[1], folder / item[0])), searches.items())
        cases = dict(made)
        with_images, in_flight = cases.pop("images"), cases.pop("in flight")
        lines: dict[str, Line] = {}
        for k, (title, fault, what, case) in enumerate(plan(cases, with_images, in_flight, tries)):
            if sys.argv[1:] and title not in sys.argv[1:]:
                continue
            line = lines.setdefault(title, Line(title))
            pool.submit(attempt, line, fault, case, folder / f"try-{k}", what)
        pool.shutdown()
    sys.stdout.write(table(list(lines.values())))
    return int(any(line.lost for line in lines.values()))


def table(lines: list[Line]) -> str:
    width = max(len(line.fault) for line in lines)
    rows = [f"{'fault':<{width}}  tries  lost"]
    rows += [
        f"{line.fault:<{width}}  {line.tries:5}  {line.lost:4}  {line.skipped}".rstrip() for line in lines
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
