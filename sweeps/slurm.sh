#!/usr/bin/env bash
# A sweep on a Slurm cluster: every task of the array is one more worker. See sweeps/README.md.
#
#   STORAGE=postgresql://me@dbhost/seminar sbatch --array=1-8 --gres=gpu:1 sweeps/slurm.sh sweeps/losses.yaml profile=voc
#
# Submit from the checkout, after `make setup`; checkout, runs and data must be seen by all nodes. The same line again goes
# on where the last one ended: after a time limit, a lost node, or with more tasks while others are at it. A task ends
# when nothing is left to begin, with code 1 while others are still at their last trainings.
#SBATCH --job-name=seminar
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
# exec: the signal before the end of the time reaches the sweep, which then saves and leaves its cell to others.
exec .venv/bin/seminar sweep "$@" --workers 1 --runs "${RUNS:-runs}" ${STORAGE:+--storage "$STORAGE"}
