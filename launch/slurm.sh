#!/bin/bash
# Train on the nodes of a SLURM job: sbatch launch/slurm.sh configs/vicuna_7b_8_gpus.py /shared/runs/7b
# On two nodes: sbatch --nodes=2 launch/slurm.sh configs/vicuna_7b_8_gpus.py /shared/runs/7b --mesh.data 2 --data.rows 16
# Arguments of train.py may follow; data.rows must be a multiple of the mesh's data x fsdp.
#
# There is one process for each GPU: under SLURM, JAX gives each process the GPU of its local rank, and finds the others
# by SLURM's variables. The workdir and the data must be in folders that all nodes share. After exit code 75 (a lost
# peer) or a preemption the job is requeued, and continues from its newest checkpoint.
#SBATCH --job-name=empatheia
#SBATCH --nodes=1
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

# sbatch is called from the repository's folder. PYTHON is the environment's interpreter, which all nodes must share.
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
PYTHON=${PYTHON:-python}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$WORKDIR/compiled}

RESUME=()
[ -e "$WORKDIR/config.json" ] && RESUME=(--resume)

# SIGTERM, 120 s before the time limit or at a preemption, is passed on to the processes, which write a checkpoint.
srun --kill-on-bad-exit=1 "$PYTHON" train.py "$CONFIG" --workdir "$WORKDIR" --distributed "${RESUME[@]}" "$@" &
STEP=$!
STOPPED=0
trap 'STOPPED=1; kill -TERM "$STEP" 2>/dev/null' TERM
wait "$STEP"
CODE=$?
while kill -0 "$STEP" 2>/dev/null; do # a trapped signal ends `wait` early
    wait "$STEP"
    CODE=$?
done

# Requeue after a lost peer (75), a signal (128 and more) or a preemption; bad input (2) would fail again.
if [ "$STOPPED" = 1 ] || [ "$CODE" = 75 ] || [ "$CODE" -ge 128 ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "${RESTARTS:-20}" ] && [ -e "$WORKDIR/config.json" ]; then
        echo "exit code $CODE: back into the queue"
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$CODE"
