#!/usr/bin/env bash
# The chain of runbook.sh on a SLURM cluster, each step a job that waits for those it reads from:  slurm/submit.sh
#
#   OUT DATA BANDS SIZE WEATHER FROM ONLY     as for runbook.sh
#   DRY_RUN=1                                 print the commands
#   CPU="--partition=short"                   what sbatch is told of jobs without a GPU
#   GPU="--partition=gpu --gpus-per-node=1"   of jobs with one (default: --gpus-per-node=1; GPU= where there is none)
#   TRAIN="--nodes=2 --ntasks-per-node=4 --gpus-per-node=4"   of step 4, the U-Net's training, after GPU's
#   TASKS=16                                  the most tasks an array has
#   JOB_PYTHON="apptainer exec --nv snowsar.sif python"       what runs the jobs (default: .venv, made here)
#
# Account, partition and time of all: SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_TIMELIMIT. What needs the network is
# done here, before anything is sent. Sent again, finished steps answer at once and interrupted ones go on. A step
# made with other arguments says so and fails: choose another OUT, or delete its folder and those after it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../runbook.sh"
[ $# = 0 ] || { echo "submit.sh: unknown word '$1'; its settings are variables, see the file's head." >&2; exit 2; }
case ${CPU:-} in "$(uname -m)") CPU= ;; esac   # SUSE's profile says so of every shell
for name in CPU GPU TRAIN; do
  case ${!name:-} in '' | -*) ;; *) echo "submit.sh: $name=${!name}: expected options of sbatch, such as --partition=short." >&2; exit 2 ;; esac
done
case ${TASKS:=16} in *[!0-9]* | 0*) echo "submit.sh: TASKS=$TASKS: expected a positive number." >&2; exit 2 ;; esac
case $OUT in *%*) echo "submit.sh: OUT=$OUT: % means something in the names of logs; choose another." >&2; exit 2 ;; esac
GPU=${GPU---gpus-per-node=1}
unset SHARES   # of an array sent by hand
if [ -n "${JOB_PYTHON:-}" ]; then python=$JOB_PYTHON; export JOB_PYTHON; fi

value_of() {   # --FLAG WORDS...
  local word before=
  for word in "${@:2}"; do [ "$before" != "$1" ] || echo "$word"; before=$word; done
}

tasks() {   # NAME WORDS...: how many tasks the step's array has: its items, where they can be counted now
  local data count=
  data=$(value_of --data "${@:2}")
  case $1 in
    curate) [ ! -d "$data" ] || count=$(find -L "$data" -mindepth 2 -maxdepth 2 -name s1 | wc -l) ;;
    probe) count=2 ;;   # the network and its floor, random weights
    map) [ ! -d "$data" ] || count=$(find -L "$data" -mindepth 3 -maxdepth 3 -path '*/s1/*.tif' | wc -l) ;;
    *) count=$(value_of --sample "${@:2}") ;;
  esac
  count=${count:-$(value_of --sites "${simulate[@]}")}   # sites still to be simulated, each with many scenes
  echo $((count > TASKS ? TASKS : count > 1 ? count : 1))
}

declare -A job_of=()   # the --out of a step sent: its job's number

earlier() {   # WORDS...: the jobs into whose --out a word leads, as :12:15
  local word made numbers=
  for made in "${!job_of[@]}"; do
    for word in "$@"; do
      case $word in "$made" | "$made"/* | *="$made" | *="$made"/*) numbers+=" ${job_of[$made]}"; break ;; esac
    done
  done
  [ -z "$numbers" ] || printf ':%s' $(printf '%s\n' $numbers | sort -V)
}

still_queued() {   # FILE: those of the jobs that it names which have not ended
  [ -z "${DRY_RUN:-}" ] && [ -s "$1" ] || return 0
  squeue --me --noheader --format=%F | sort -u | grep -Fxf "$1" || true
}

jobs=0
send() {   # DEPENDENCY OPTIONS... FILE WORDS...: sets $sent to the job's number, or what stands for it
  local after=${1:+--dependency=$1 --kill-on-invalid-dep=yes}; shift
  jobs=$((jobs + 1)); sent=\$job_$jobs
  if [ -n "${DRY_RUN:-}" ]; then echo "job_$jobs=\$(sbatch --parsable${after:+ $after}$(quoted "$@"))"; return; fi
  sent=$(sbatch --parsable $after "$@")
  sent=${sent%%;*}
}

on_login_node() {   # a step that needs the network
  if [ -n "${DRY_RUN:-}" ]; then quoted "${@:3}" | cut -c 2-; return; fi
  echo "[$1 $2] here: ${*:3}" >&2
  perform "$@"
}

on_cluster() {   # NUMBER NAME PYTHON... JOB WORDS...
  local number=$1 name=$2 file=job use=${CPU:-} share= after count about options; shift 2
  while [ "$1" != -m ] && [[ $1 != *.py ]]; do shift; done   # the sbatch files take Python from JOB_PYTHON
  if [ -n "$needs" ] && [ ! -e "$needs" ] && [ -z "${DRY_RUN:-}" ]; then
    echo "[$number $name] left out: $needs is not there" >&2
    return
  fi
  case $name in
    curate) file=curate share=yes ;;
    map) file=infer share=yes use=$GPU ;;
    sam | probe) file=$name share=yes use=$GPU ;;
    score) file=infer use=$GPU ;;
    train | pairs) file=train use=$GPU ;;
    embed) use=$GPU ;;
    climate) file=climate ;;
  esac
  [ "$number" != 4 ] || use+=" ${TRAIN:-}"
  local whole=("$@")
  case $file in job | train) ;; *) [ "$1" != -m ] || shift; shift ;; esac   # the file knows its job

  options=(--job-name="${number}_$name" --output="$OUT/logs/${number}_$name-%j.log")
  after=$(earlier "$@")
  after=${after:+afterok$after}
  if [ "$name" = report ] && [ "${#job_of[@]}" != 0 ]; then   # once all have ended, however
    set -- "$@" --overwrite   # made of other results than a page that is there
    after=afterany$(printf ':%s' $(printf '%s\n' "${job_of[@]}" | sort -V))
  fi
  local file_of_jobs="$OUT/logs/${number}_$name.jobs" mine
  mine=$(still_queued "$file_of_jobs")   # of an earlier call: nothing is done twice, nor by two at once
  [ -z "$mine" ] || after="${after:+$after,}afterany$(printf ':%s' $mine)"
  count=1; [ -z "$share" ] || count=$(tasks "$name" "$@")
  if [ "$count" = 1 ]; then
    send "$after" "${options[@]}" $use "slurm/$file.sbatch" "$@"
    about="job $sent"
  else
    local array=(--array="0-$((count - 1))" "${options[@]/%%j.log/%A_%a.log}")
    send "$after" "${array[@]}" $use "slurm/$file.sbatch" "$@"
    about="array $sent of $count"; mine+=" $sent"
    send "${after:+$after,}afterany:$sent" "${options[@]}" ${CPU:-} slurm/job.sbatch "${whole[@]}" --collect
    about+=", collected by job $sent"
  fi
  job_of[$(value_of --out "$@")]=$sent
  [ -n "${DRY_RUN:-}" ] || printf '%s\n' $mine $sent >"$file_of_jobs"
  [ -n "${DRY_RUN:-}" ] || echo "[$number $name] $about${after:+, $after}" >&2
}

step() {   # as in runbook.sh: NUMBER NAME WORDS...
  chosen "$1" || return 0
  any=yes
  case $2 in sample | weights) [ $where = cluster ] || on_login_node "$@" ;;
    *) [ $where = login ] || on_cluster "$@" ;; esac
}

if [ -z "${DRY_RUN:-}" ]; then
  command -v sbatch >/dev/null || { echo "submit.sh: no sbatch here; run it on the cluster's login node." >&2; exit 2; }
  [ -n "${JOB_PYTHON:-}" ] || { install requirements.txt; install requirements-extra.txt; }
  mkdir -p "$OUT/logs"
fi
where=login; steps
where=cluster; steps
[ -n "$any" ] || { echo "submit.sh: nothing to do: FROM and ONLY choose no step of this chain (DRY_RUN=1 shows them)." >&2; exit 2; }
[ -n "${DRY_RUN:-}" ] || echo "$jobs jobs sent; see squeue --me, logs in $OUT/logs" >&2
