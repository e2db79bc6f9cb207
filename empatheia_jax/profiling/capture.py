"""Tracing a few steady steps of each stage, or one warm answer, and writing the page on it."""

import contextlib
from pathlib import Path

import jax

from empatheia_jax import flops as flops_
from empatheia_jax import processes
from empatheia_jax.profiling.kinds import read_program
from empatheia_jax.profiling.summary import achieved, page, short, summarise
from empatheia_jax.profiling.trace import MARK, newest, read_trace

WARM_UP = 3  # steps before the traced ones: the first waits for data, the second for the first's metrics


def start(folder: Path) -> None:
    """Begin a trace below `folder`.

    Raises:
      OSError: `folder` cannot be made. RuntimeError: another trace runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # following every Python call would slow down what is measured
    jax.profiler.start_trace(str(folder), create_perfetto_trace=True, profiler_options=options)


def finish(folder: Path, title: str, flops: float | None = None) -> Path:
    """End the trace, and write what it says to `folder`/profile.md; says it in a line, too.

    Args:
      flops: model FLOPs of a step, all devices of all processes together.
    Raises:
      ValueError: nothing was traced.
    """
    jax.profiler.stop_trace()
    trace = read_trace(newest(folder))
    texts = _programs({event.module for event in trace.events})
    (folder / "programs").mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / "programs" / f"{name}.txt").write_text(text)
    summary, kind = summarise(trace, [read_program(text) for text in texts.values()]), jax.devices()[0].device_kind
    done = achieved(summary, flops)
    share = None if done is None else flops_.mfu(done, 1.0, kind, jax.device_count())
    target = folder / "profile.md"
    target.write_text(page(title, summary, kind, flops, share))
    processes.say(f"profile  {title}: {short(summary, share)}; {target}")
    return target


def _programs(modules: set[str]) -> dict[str, str]:
    """File name -> text of the compiled programs that are alive and of these names; all where a name is not known."""
    texts = {}
    for executable in jax.devices()[0].client.live_executables():
        for module in executable.hlo_modules():
            if module.name in modules or "" in modules:
                texts[f"{module.name}.{len(texts)}"] = module.to_string()
    return texts


@contextlib.contextmanager
def traced(folder: Path, title: str):
    """Trace a block as one step. The block must wait for its results."""
    start(folder)
    with jax.profiler.StepTraceAnnotation(MARK, step_num=0):
        yield
    finish(folder, title)


class Profile:
    """Where a run's traces go: `steps` steps of every stage, each process to a folder of its own."""

    def __init__(self, folder: Path | str | None = None, steps: int = 5):
        """`folder` None: nothing is traced.

        Raises:
          ValueError: less than one step.
        """
        if steps < 1:
            raise ValueError(f"--profile-steps {steps}: trace one step at least")
        self.folder, self.steps = folder and Path(folder), steps

    def stage(self, number: int, done: int, flops: float) -> "StageProfile":
        """The profile of a stage of which `done` steps are done before; `flops` are the model's of a mean step."""
        folder = self.folder and self.folder / f"stage-{number}"
        if folder and jax.process_count() > 1:
            folder /= f"process-{jax.process_index()}"
        return StageProfile(folder, f"stage {number}", done, self.steps, flops)


class StageProfile:
    """Traces `steps` of the steps that it is told of, after the first `WARM_UP`.

    What goes wrong with it is said, and costs the run nothing but the profile.
    """

    def __init__(self, folder: Path | None, title: str, done: int, steps: int, flops: float):
        self._folder, self._title, self._done, self._flops = folder, title, done, flops
        self._stop = WARM_UP + steps
        self._seen = 0  # steps begun
        self._mark: jax.profiler.StepTraceAnnotation | None = None

    def begin(self, state) -> None:
        """A step begins; `state` is what the one before leaves, perhaps not computed yet."""
        if self._folder is None:
            return
        if self._seen == self._stop:
            self.end(state)
            return
        if self._seen == WARM_UP:
            jax.block_until_ready(state)
            with self._attempt():
                start(self._folder)
        self._close_mark()
        if self._folder is not None and self._seen >= WARM_UP:
            self._mark = jax.profiler.StepTraceAnnotation(MARK, step_num=self._seen)
            self._mark.__enter__()
        self._seen += 1

    def end(self, state) -> None:
        """No step of the stage follows, or none that is to be traced."""
        if self._folder is None:
            return
        if self._seen <= WARM_UP:
            processes.say(f"profile  {self._title}: it ended within {WARM_UP} steps of warming up, nothing is traced")
        else:
            jax.block_until_ready(state)  # the last traced step ends when all is computed
            self._close_mark()
            first, last = self._done + WARM_UP + 1, self._done + self._seen
            with self._attempt():
                finish(self._folder, f"{self._title}, steps {first} to {last}", self._flops)
        self._folder = None

    def _close_mark(self) -> None:
        if self._mark is not None:
            self._mark.__exit__(None, None, None)
            self._mark = None

    @contextlib.contextmanager
    def _attempt(self):
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            processes.say(f"profile  {self._title}: nothing is written: {error}")
            self._folder = None
