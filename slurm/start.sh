# What the sbatch files share: environment, start of the job, requeue. They run where sbatch was called: here.
set -euo pipefail

# module load ...                                            # what your site wants before Python starts
# JOB_PYTHON="apptainer exec --nv snowsar.sif python"        # the container of slurm/snowsar.def
JOB_PYTHON=${JOB_PYTHON:-.venv/bin/python}

export PYTHONUNBUFFERED=1
unset SLURM_EXPORT_ENV                                       # --export=NONE is for this script, not for its tasks
export HF_HUB_OFFLINE=1                                      # nothing is looked for on the network
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}          # srun no longer takes it from sbatch
export SLURM_WAIT=${SLURM_WAIT:-120}                         # seconds that tasks outlive the first one to end
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}
# One task of an array has the array's own number as its SLURM_JOB_ID: requeueing that would requeue all.
this=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
this=${this:-$SLURM_JOB_ID}

# A warning comes to this shell (--signal=B:USR1@120): pass it on until the job has saved and left, for it may
# come before the job listens.
srun= warned=
pass_on() { while kill -0 "$srun"; do scancel --signal=USR1 "$this"; sleep 10; done; }
trap 'warned=yes; [ -z "$srun" ] || pass_on &>/dev/null &' USR1

# One task, one process: ranks as torchrun would number them. --gpus-per-task shows each task its own GPU alone.
task='trap "" USR1
  export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
  case ${CUDA_VISIBLE_DEVICES:-,} in *,*) ;; *) LOCAL_RANK=0 ;; esac
  exec "$@"'

run() {   # a job and its arguments; ends this script
  local out= word before code=0
  for word in "$@"; do
    case $out in next) out=$word ;; esac
    case $word in --out) out=next ;; --out=*) out=${word#--out=} ;; esac
  done
  # --overwrite was for the first start, which took an earlier result away: what that start made is gone on from.
  if [ "${SLURM_RESTART_COUNT:-0}" != 0 ] && [ ! -e "$out/result.json" ]; then
    local kept=()
    for word in "$@"; do [ "$word" = --overwrite ] || kept+=("$word"); done
    set -- "${kept[@]}"
  fi
  last() { stat -c '%i %y' "$out/last.pt" 2>/dev/null || true; }
  before=$(last)
  echo "[$(date '+%F %T')] $this on $SLURM_JOB_NODELIST, start $((${SLURM_RESTART_COUNT:-0} + 1)): $*" >&2

  srun bash -c "$task" task $JOB_PYTHON "$@" & srun=$!
  [ -z "$warned" ] || pass_on &>/dev/null &
  while kill -0 "$srun" 2>/dev/null; do wait "$srun" || true; done   # a signal ends a wait, not the job
  wait "$srun" || code=$?

  # An error of the job's own would come again: only what went on, or fell with a node, is worth another start.
  if [ $code = 75 ] || { [ -n "$warned" ] && [ $code -gt 128 ]; }; then again interrupted
  elif [ $code = 0 ] || [ $code = 2 ]; then :
  elif [ "$(last)" != "$before" ]; then again "exit code $code, but last.pt went on"
  elif [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ] && ! nodes_answer; then again "exit code $code, and a node does not answer"
  fi
  exit $code
}

nodes_answer() { timeout 60 srun --overlap --ntasks-per-node=1 --ntasks="$SLURM_JOB_NUM_NODES" true; }

again() {
  echo "[$(date '+%F %T')] $this: $1; requeued" >&2
  scontrol requeue "$this"
}
