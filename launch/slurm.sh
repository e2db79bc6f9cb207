#!/bin/bash
# Train on the nodes of a SLURM job: sbatch launch/slurm.sh configs/vicuna_7b.py /shared/runs/7b
#
# One process a GPU: under SLURM JAX gives each process the GPU of its number on the node, and finds the others by
# SLURM's own variables. The workdir and the data lie on a folder that all nodes see. Exit code 75 (a lost peer) or a
# preemption puts the job back into the queue, and it goes on from its newest checkpoint.
#SBATCH --job-name=empatheia
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --output=%x-%j.log

set -u
CONFIG=${1:?usage: sbatch launch/slurm.sh CONFIG WORKDIR [arguments of train.py]}
WORKDIR=${2:?usage: sbatch launch/slurm.sh CONFIG WORKDIR [arguments of train.py]}
shift 2

# The folder that sbatch was called from is the repository's. PYTHON: the environment's, seen by all nodes.
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
PYTHON=${PYTHON:-python}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$WORKDIR/compiled}

RESUME=()
[ -e "$WORKDIR/config.json" ] && RESUME=(--resume)

# The 120 s before the time limit, and a preemption's grace, are for the checkpoint: SIGTERM goes to the processes.
srun --kill-on-bad-exit=1 "$PYTHON" train.py "$CONFIG" --workdir "$WORKDIR" --distributed "${RESUME[@]}" "$@" &
STEP=$!
STOPPED=0
trap 'STOPPED=1; kill -TERM "$STEP" 2>/dev/null' TERM
wait "$STEP"
CODE=$?
while kill -0 "$STEP" 2>/dev/null; do # the trap ended the first wait
    wait "$STEP"
    CODE=$?
done

# A signal's death (128 and more) or a lost peer: again. Bad input (2) would be as bad the next time.
if [ "$STOPPED" = 1 ] || [ "$CODE" = 75 ] || [ "$CODE" -ge 128 ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "${RESTARTS:-20}" ] && [ -e "$WORKDIR/config.json" ]; then
        echo "exit code $CODE: back into the queue"
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$CODE"
