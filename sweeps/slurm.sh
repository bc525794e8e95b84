#!/usr/bin/env bash
# One task of the array job that `seminar sweep ... --executor slurm` submits; see sweeps/README.md. "$@" is the command
# of one worker. Write here what your cluster wants to know (--partition, --account, --gres=gpu:1, ...), or set Slurm's
# own variables (SBATCH_PARTITION, ...) before you call.
#SBATCH --job-name=seminar
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
set -euo pipefail
# exec: the signal before the end of the time reaches the worker, which then saves and leaves its cell to others.
exec "$@"
