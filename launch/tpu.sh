#!/bin/bash
# Train on all hosts of a Cloud TPU slice: launch/tpu.sh NAME ZONE CONFIG WORKDIR [arguments of train.py]
#
# The repository and its environment must be in ~/empatheia on every host, and WORKDIR in a folder that all hosts share
# (a mounted bucket or Filestore). JAX finds the hosts by the TPU's metadata. Each host starts train.py again after a
# lost peer (75) or a signal, up to RESTARTS times.
set -eu
usage="usage: launch/tpu.sh NAME ZONE CONFIG WORKDIR [arguments of train.py]"
NAME=${1:?$usage} ZONE=${2:?$usage} CONFIG=${3:?$usage} WORKDIR=${4:?$usage}
shift 4
quoted=$(printf '%q ' "$CONFIG" --workdir "$WORKDIR" --distributed "$@")
loop='for try in $(seq 0 '"${RESTARTS:-20}"'); do
    resume=""; [ -e '"$(printf '%q' "$WORKDIR")"'/config.json ] && resume=--resume
    code=0; '"${PYTHON:-python3}"' train.py '"$quoted"' $resume || code=$?
    [ $code = 75 ] || [ $code -ge 128 ] || exit $code
    sleep 10
done; exit $code'
exec gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "cd ~/empatheia && $loop"
