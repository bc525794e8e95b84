#!/usr/bin/env bash
# One task of the array job that `seminar sweep ... --executor slurm` submits; see sweeps/README.md. "$@" is the command
# of one worker. Write here what your cluster wants to know (--partition, --account, --gres=gpu:1, ...), or set Slurm's
# own variables (SBATCH_PARTITION, ...) before you call.
#SBATCH --job-name=seminar
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -uo pipefail

if [ $# -eq 0 ]; then
  echo "seminar: no command; submit this with \`seminar sweep FILE ... --executor slurm --workers N\`" >&2
  exit 2
fi

"$@" &
worker=$!
again=no
# Two minutes before the time is up the worker saves its training, and the task queues again. `scancel` sends TERM: the
# worker saves as well, and that is the end.
trap 'again=yes; kill -TERM "$worker" 2>/dev/null' USR1
trap 'kill -TERM "$worker" 2>/dev/null' TERM INT

wait "$worker"
status=$?
while [ "$status" -gt 128 ] && kill -0 "$worker" 2>/dev/null; do # a signal has ended the wait, not the worker
  wait "$worker"
  status=$?
done
wait "$worker" 2>/dev/null
code=$?
[ "$code" -eq 127 ] || status=$code # it ended between the two lines above

if [ "$again" = yes ]; then
  echo "seminar: the time is up; queueing again" >&2
  scontrol requeue "$SLURM_JOB_ID" || echo "seminar: could not queue again; call the same line once more" >&2
fi
exit "$status"
