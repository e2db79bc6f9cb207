"""The files in launch/, as far as they can be tested without a cluster, and processes joined by SLURM's variables."""

import os
import re
import subprocess

import pytest
import yaml

from empatheia_jax.config.load import load_config
from support.programs import ROOT, start_program


@pytest.mark.parametrize("name", ["slurm.sh", "tpu.sh"])
def test_scripts_are_bash(name):
    done = subprocess.run(["bash", "-n", str(ROOT / "launch" / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_jobset_starts_as_many_processes_as_it_has_pods():
    jobset = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
    (train,) = jobset["spec"]["replicatedJobs"]
    job = train["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert job["parallelism"] == job["completions"] == int(env["JAX_NUM_PROCESSES"])
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    host, port = env["JAX_COORDINATOR_ADDRESS"].split(":")
    assert host == f"{jobset['metadata']['name']}-{train['name']}-0-0.{jobset['metadata']['name']}"
    assert int(port) == container["ports"][0]["containerPort"]
    shell = container["args"][0]
    assert subprocess.run(["bash", "-n", "-c", shell], capture_output=True).returncode == 0


def rows_fit(line: str, devices: int) -> bool:
    """Whether the config and flags of a command line fill a mesh over so many devices with rows."""
    config_path, *flags = re.search(r"(configs/\w+\.py) \S+( --\S+ \d+)*", line)[0].split()
    config = load_config(str(ROOT / config_path), [flag for flag in flags if not flag.startswith("/")])
    mesh = config.mesh
    return mesh.data * mesh.fsdp * mesh.tensor == devices and config.data.rows % (mesh.data * mesh.fsdp) == 0


def test_the_commands_in_the_launch_files_fit_their_machines():
    slurm = re.findall(r".*sbatch .*configs/.*", (ROOT / "launch" / "slurm.sh").read_text())
    assert [rows_fit(line, devices) for line, devices in zip(slurm, (8, 16), strict=True)] == [True, True]
    jobset = " ".join((ROOT / "launch" / "jobset.yaml").read_text().replace("\\\n", " ").split())
    command = re.search(r"configs/\S+ --workdir .*? \$resume", jobset)[0].replace('--workdir "$WORKDIR"', "/runs")
    assert rows_fit(command, 16)


# Stand-ins for the cluster's commands: they log their arguments, and the step ends with the code it is given.
FAKES = {
    "srun": 'echo "srun $*" >> "$LOG"\nexit "$STEP_CODE"\n',
    "scontrol": 'echo "scontrol $*" >> "$LOG"\n',
}


@pytest.mark.parametrize("code, again", [(0, False), (75, True), (137, True), (2, False), (1, False)])
def test_a_slurm_job_resumes_and_goes_back_into_the_queue_after_a_lost_peer_only(tmp_path, code, again):
    for name, body in FAKES.items():
        (tmp_path / name).write_text("#!/bin/bash\n" + body)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    env = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "STEP_CODE": str(code),
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(ROOT),
    }
    command = ["bash", str(ROOT / "launch" / "slurm.sh"), "configs/tiny.py", str(tmp_path / "run"), "--optim.b1", "0.8"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    lines = (tmp_path / "log").read_text().splitlines()
    assert "train.py configs/tiny.py" in lines[0] and lines[0].endswith("--distributed --resume --optim.b1 0.8")
    assert lines[1:] == (["scontrol requeue 7"] if again else [])


def test_slurms_variables_join_the_processes(monkeypatch):
    """The environment of a task of `srun` is enough for `train.py --distributed`."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "JAX_COORD"))]:
        monkeypatch.delenv(name)
    started = []
    for task in range(2):
        variables = {
            "XLA_FLAGS": "",
            "SLURM_JOB_ID": str(4096 + os.getpid() % 4096),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_STEP_NUM_NODES": "1",
            "SLURM_PROCID": str(task),
            "SLURM_LOCALID": str(task),
        }
        started.append(start_program("join_cluster", **variables))
    for task, process in enumerate(started):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err[-2000:]
        assert out.splitlines()[-1].split() == [str(task), "2", "True"]  # Gloo prints lines too
