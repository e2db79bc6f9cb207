"""Tracing a few steady steps of each stage, or one warm answer, and writing the page about it."""

import contextlib
from pathlib import Path

import jax

from empatheia_jax.planning.flops import mfu
from empatheia_jax.profiling.kinds import read_program
from empatheia_jax.profiling.summary import achieved_flops, profile_page, summarise, summary_line
from empatheia_jax.profiling.trace import MARK, newest_trace, read_trace
from empatheia_jax.runtime import processes

WARM_UP = 3  # steps before the traced ones: the first waits for data, the second for the metrics of the first


def start_trace(folder: Path) -> None:
    """Start a trace, to be written into `folder`.

    Raises:
      OSError: `folder` cannot be created.
      RuntimeError: another trace is running.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # tracing every Python call would slow down what is measured
    jax.profiler.start_trace(str(folder), create_perfetto_trace=True, profiler_options=options)


def finish_trace(folder: Path, title: str, flops: float | None = None) -> Path:
    """End the trace, write its summary to `folder`/profile.md, and print the summary in a line.

    Args:
      folder: the folder of `start_trace`.
      title: title of the page.
      flops: model FLOPs of a step, all devices of all processes together; None: not known.
    Returns:
      The path of the page.
    Raises:
      ValueError: nothing was traced.
    """
    jax.profiler.stop_trace()
    trace = read_trace(newest_trace(folder))
    texts = _program_texts({event.module for event in trace.events})
    (folder / "programs").mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / "programs" / f"{name}.txt").write_text(text)
    summary = summarise(trace, [read_program(text) for text in texts.values()])
    device_kind, flops_per_second = jax.devices()[0].device_kind, achieved_flops(summary, flops)
    share = None if flops_per_second is None else mfu(flops_per_second, 1.0, device_kind, jax.device_count())
    target = folder / "profile.md"
    target.write_text(profile_page(title, summary, device_kind, flops=flops, mfu=share))
    processes.log_on_first(f"profile  {title}: {summary_line(summary, share)}; {target}")
    return target


def _program_texts(modules: set[str]) -> dict[str, str]:
    """Return {file name: text} of the live compiled programs with these names; all of them where a name is unknown."""
    texts = {}
    for executable in jax.devices()[0].client.live_executables():
        for module in executable.hlo_modules():
            if module.name in modules or "" in modules:
                texts[f"{module.name}.{len(texts)}"] = module.to_string()
    return texts


@contextlib.contextmanager
def traced(folder: Path, title: str):
    """Trace a block as one step. The block must wait for its own results."""
    start_trace(folder)
    with jax.profiler.StepTraceAnnotation(MARK, step_num=0):
        yield
    finish_trace(folder, title)


class Profile:
    """The profiles of a run: some steps of every stage, with a folder for each process."""

    def __init__(self, folder: Path | str | None = None, steps: int = 5):
        """Configure the profiles.

        Args:
          folder: folder of all traces; None: nothing is traced.
          steps: traced steps of each stage.
        Raises:
          ValueError: `steps` is less than 1.
        """
        if steps < 1:
            raise ValueError(f"--profile-steps {steps}: trace one step at least")
        self.folder, self.steps = Path(folder) if folder else None, steps

    def stage(self, number: int, done: int, flops: float) -> "StageProfile":
        """Return the profile of a stage.

        Args:
          number: number of the stage.
          done: steps of the stage that were done before, by an interrupted run.
          flops: model FLOPs of a mean step.
        """
        folder = self.folder / f"stage-{number}" if self.folder else None
        if folder and jax.process_count() > 1:
            folder /= f"process-{jax.process_index()}"
        return StageProfile(folder, f"stage {number}", done, self.steps, flops=flops)


class StageProfile:
    """Traces `steps` steps of a stage, after `WARM_UP` others.

    A failure is printed, and the run goes on without the profile.
    """

    def __init__(self, folder: Path | None, title: str, done: int, steps: int, *, flops: float):
        self._folder, self._title, self._done, self._flops = folder, title, done, flops
        self._last = WARM_UP + steps
        self._started = 0  # steps
        self._mark: jax.profiler.StepTraceAnnotation | None = None

    def begin(self, state) -> None:
        """Note that a step begins; `state` is the result of the step before, which may still be computing."""
        if self._folder is None:
            return
        if self._started == self._last:
            self.end(state)
            return
        if self._started == WARM_UP:
            jax.block_until_ready(state)
            with self._attempt():
                start_trace(self._folder)
        self._close_mark()
        if self._folder is not None and self._started >= WARM_UP:
            self._mark = jax.profiler.StepTraceAnnotation(MARK, step_num=self._started)
            self._mark.__enter__()
        self._started += 1

    def end(self, state) -> None:
        """Note that no further step of the stage is to be traced; `state` is the result of the last one."""
        if self._folder is None:
            return
        if self._started <= WARM_UP:
            processes.log_on_first(
                f"profile  {self._title}: it ended within {WARM_UP} steps of warming up, nothing is traced"
            )
        else:
            jax.block_until_ready(state)  # the last traced step ends when its result is computed
            self._close_mark()
            first, last = self._done + WARM_UP + 1, self._done + self._started
            with self._attempt():
                finish_trace(self._folder, f"{self._title}, steps {first} to {last}", self._flops)
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
            processes.log_on_first(f"profile  {self._title}: nothing is written: {error}")
            self._folder = None
