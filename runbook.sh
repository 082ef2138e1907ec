#!/usr/bin/env bash
# The chain, from raw scenes to judged snow masks and what snow cover says about climate:  ./runbook.sh
#
#   ./runbook.sh            make .venv, install, run every step; finished steps are skipped, interrupted ones go on
#   ./runbook.sh test       make .venv, install, run all tests (further words go to pytest: -m "not slow")
#   ./runbook.sh install    make .venv and install, no more
#   ./runbook.sh --help     these lines
#   DRY_RUN=1               print the commands      FROM=4 / ONLY=4   start at a step / run one step
#   DATA=my/scenes          your own scenes         OUT=runs/mine     where results go (default runs/default)
#   BANDS=vv,vh,elevation   what the net sees       WEATHER=my.csv    for step 9 and bands like degree-days-30
#   SIZE=tiny               small sites, a small net: the size tests use
#   PYTHON=python3.12       the interpreter that makes .venv
#
# On a cluster slurm/submit.sh sends the same steps to SLURM (docs/cluster.md).
#
# Without DATA: steps 1-9 on simulated sites, whose snow is known, then 10-14 on six real pairs. Steps 15-18: what
# Segment Anything and other networks make of the radar, with weights that npm and pip bring, left out without.
# Steps 19-22: a model that brings radar and RGB of one place together, and the gap between them. 23: one page of all.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
here=$PWD
absolute() { case $1 in /*) echo "$1" ;; *) echo "$here/$1" ;; esac; }
OUT=${OUT:+$(absolute "$OUT")}; OUT=${OUT:-runs/default}
cd "$root"
python=.venv/bin/python

for number in "${FROM:-1}" "${ONLY:-1}"; do
  case $number in *[!0-9]*) echo "runbook.sh: FROM or ONLY is '$number': expected a step's number." >&2; exit 2 ;; esac
done
case ${SIZE:-default} in
  default) simulate=(--sites 36) train=(--epochs 12 --batch 16 --crop 128) small=(--epochs 40) chips=(--sample 24) places=(--sample 96)
    pairs=(--epochs 12 --crop 128) shown=(--sample 240) ;;
  tiny) simulate=(--sites 12 --size 96 --years 1) train=(--width 4 --depth 3 --epochs 4) small=("${train[@]}") chips=(--sample 2) places=(--sample 2)
    pairs=(--width 4 --depth 3 --epochs 4) shown=(--sample 24) ;;
  *) echo "runbook.sh: SIZE=$SIZE: expected default or tiny." >&2; exit 2 ;;
esac
if [ -n "${DATA:-}" ]; then
  SCENES=$(absolute "$DATA") BANDS=${BANDS:-vv,vh} curate=(--card) map=(--previews)
else
  SCENES=$OUT/1_simulate/scenes curate=(--card --need-reference --max-cloud-share 0.5) map=(--skip-bad)
  # Neither season nor weather: a map that was told them could not afterwards say how snow goes with them.
  BANDS=${BANDS:-vv,vh,vv-ref,vh-ref,local-incidence-angle,elevation,slope,northness,eastness}
fi

[ -n "${DRY_RUN:-}" ] || for given in ${DATA:+"$(absolute "$DATA")"} ${WEATHER:+"$(absolute "$WEATHER")"}; do
  [ -e "$given" ] || { echo "runbook.sh: $given: no such file or folder; DATA and WEATHER name what is there." >&2; exit 2; }
done
weather=()
if [ -n "${WEATHER:-}" ]; then weather=(--weather "$(absolute "$WEATHER")"); fi

steps() {   # one numbered step, one command
  [ -n "${DATA:-}" ] ||
  step 1 simulate $python -m data_prep.simulate --out "$OUT/1_simulate" "${simulate[@]}"
  step 2 curate   $python -m data_prep.curate --data "$SCENES" --out "$OUT/2_curate" "${curate[@]}"
  step 3 split    $python -m data_prep.split --data "$OUT/2_curate" --out "$OUT/3_split"
  step 4 train    $python train_unet.py --data "$OUT/3_split" --out "$OUT/4_train" --bands "$BANDS" "${train[@]}" ${weather[@]+"${weather[@]}"}
  step 5 score    $python infer_unet.py --data "$OUT/3_split" --weights "$OUT/4_train/best.pt" --out "$OUT/5_score" ${weather[@]+"${weather[@]}"}
  [ -n "${DATA:-}" ] ||
  step 6 judge    $python score_masks.py --data "$OUT/3_split" --masks "unet=$OUT/5_score" "optical=$OUT/3_split/mask" --against truth --truth "$SCENES" --out "$OUT/6_judge"
  step 7 map      $python infer_unet.py --data "$SCENES" --weights "$OUT/4_train/best.pt" --references "$OUT/2_curate/ref" --out "$OUT/7_map" "${map[@]}" ${weather[@]+"${weather[@]}"}
  if [ -n "${DATA:-}" ]; then
    [ -z "${WEATHER:-}" ] ||
    step 9 climate  $python climate_analysis.py --data "$OUT/7_map" "${weather[@]}" --out "$OUT/9_climate"
  else
    step 8 cover    $python -m data_prep.snow_cover --data "$OUT/2_curate" --truth "$SCENES" --tables "$OUT/7_map" --out "$OUT/8_cover"
    step 9 climate  $python climate_analysis.py --data "$OUT/8_cover" --weather "$OUT/1_simulate/weather.csv" --source unet --out "$OUT/9_climate"
    step 10 sample  $python -m data_prep.sample --out data/sample
    step 11 curate  $python -m data_prep.curate --data data/sample/scenes --out "$OUT/11_curate" --card
    step 12 split   $python -m data_prep.split --data "$OUT/11_curate" --out "$OUT/12_split"
    step 13 train   $python train_unet.py --data "$OUT/12_split" --out "$OUT/13_train" "${small[@]}"
    step 14 score   $python infer_unet.py --data "$OUT/12_split" --weights "$OUT/13_train/best.pt" --out "$OUT/14_score"
  fi
  optional=yes
  step 15 weights $python -m data_prep.weights --model mobile-sam --out data/weights
  step 16 weights $python -m data_prep.weights --model dinov2-small --out data/weights
  optional=
  needs=data/weights/mobile-sam.safetensors
  step 17 sam     $python run_sam.py --data "$OUT/3_split" --unet "$OUT/5_score" --weights data/weights/mobile-sam.safetensors --out "$OUT/17_sam" --grid-points 8 "${chips[@]}"
  needs=data/weights/dinov2-small/model.safetensors
  step 18 probe   $python probe_activations.py --data "$OUT/3_split" --models dinov2 --weights dinov2=data/weights/dinov2-small --out "$OUT/18_probe" "${places[@]}"
  needs=
  optional=yes
  step 19 pairs   $python train_sar_rgb.py --data "$OUT/3_split" --out "$OUT/19_pairs" "${pairs[@]}"
  step 20 embed   $python embed_tsne.py --data "$OUT/3_split" --model sar-rgb --weights "$OUT/19_pairs/best.pt" --out "$OUT/20_embed" "${shown[@]}"
  optional=
  [ -n "${DATA:-}" ] ||
  step 21 pairs   $python train_sar_rgb.py --data "$OUT/12_split" --out "$OUT/21_pairs" --width 8 --epochs 20
  [ -n "${DATA:-}" ] ||
  step 22 embed   $python embed_tsne.py --data "$OUT/12_split" --model sar-rgb --weights "$OUT/21_pairs/best.pt" --out "$OUT/22_embed"
  step 23 report  $python make_report.py --data "$OUT" --out "$OUT"
}

install() {   # $1: a requirements file; done once for each state of the files
  local stamp=".venv/.installed-$1"
  if [ -e "$stamp" ] && [ "$stamp" -nt "$1" ] && [ "$stamp" -nt constraints.txt ]; then return; fi
  if [ -x $python ] && ! $python -m pip --version >/dev/null 2>&1; then
    echo "runbook.sh: .venv has no pip: its making was interrupted, or this Python makes none; rm -r .venv and run again." >&2
    exit 2
  fi
  if [ ! -x $python ]; then
    local candidate interpreter=
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
      if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then interpreter=$candidate; break; fi
    done
    [ -n "$interpreter" ] || { echo "runbook.sh: no Python 3.11 or newer found; name one with PYTHON=." >&2; exit 2; }
    "$interpreter" -m venv .venv || {
      echo "runbook.sh: $interpreter cannot make .venv; see above (Debian: apt install python3-venv), then rm -r .venv and run again." >&2; exit 2; }
  fi
  echo "installing $1 into .venv (once; torch is large)" >&2
  $python -m pip install --quiet --disable-pip-version-check -r "$1" -c constraints.txt || {
    echo "runbook.sh: pip could not install $1; see above, then run again." >&2; exit 1; }
  touch "$stamp"
  echo "installed; the first job may take a minute to start, while Python compiles what it loads" >&2
}

run_logged() {   # what people read goes to the screen and to $log, the result to $log alone
  : >"$log"
  "$@" 2>&1 >>"$log" | tee -ai "$log" >&2 || return "${PIPESTATUS[0]}"
}

quoted() {   # words as a shell takes them, quotes only where needed
  local word
  for word in "$@"; do
    case $word in '' | *[!A-Za-z0-9_./=:,@%+-]*) printf ' %q' "$word" ;; *) printf ' %s' "$word" ;; esac
  done
}

chosen() {   # $1: a step's number
  [ -z "${ONLY:-}" ] || [ "$1" = "$ONLY" ] || return 1
  [ "$1" -ge "${FROM:-1}" ]
}

needs=     # a file without which a step is left out
optional=  # where set, a step that cannot do its work (exit code 2) is left out, and the chain goes on
any=       # set once a step was chosen
stopped=   # set by Ctrl-C, which a job on its last item may outlive
changed=   # once a step's arguments or input differ from what its folder holds, it and all after it are made anew
step() {
  chosen "$1" || return 0
  any=yes
  echo "[$1 $2]$(quoted "${@:3}")" >&2
  [ -n "${DRY_RUN:-}" ] || perform "$@"
}

perform() {
  local number=$1 name=$2 log="$OUT/logs/$1_$2.log"; shift 2
  if [ -n "$needs" ] && [ ! -e "$needs" ]; then
    echo "[$number $name] left out: $needs is not there" >&2
    return 0
  fi
  mkdir -p "$OUT/logs"
  local code=0 again=$changed
  [ -z "$optional" ] || again=   # weights do not depend on what was changed
  run_logged "$@" $again || code=$?
  if [ $code = 2 ] && grep -q "made with other arguments or input" "$log"; then
    [ -n "$optional" ] || changed=--overwrite
    code=0
    echo "[$number $name] made anew" >&2
    run_logged "$@" --overwrite || code=$?
  fi
  if [ -n "$stopped" ]; then
    echo "runbook.sh: interrupted in step $number ($name); the same command goes on" >&2
    exit 75
  elif [ $code = 2 ] && [ -n "$optional" ]; then
    echo "[$number $name] left out, see above" >&2
  elif [ $code != 0 ]; then
    echo "runbook.sh: step $number ($name) ended with exit code $code; its log: $log" >&2
    exit $code
  fi
}

[ "${BASH_SOURCE[0]}" = "$0" ] || return 0   # slurm/submit.sh reads the steps from here

case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;; esac
if [ "${1:-}" = test ]; then
  shift
  install requirements.txt; install requirements-extra.txt; install requirements-dev.txt
  export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
  exec $python -m pytest -q -n 2 "$@"
elif [ $# != 0 ] && [ "$1" != install ]; then
  echo "runbook.sh: unknown word '$1'; there are only 'test' and 'install' (--help says more)." >&2; exit 2
fi
if [ -z "${DRY_RUN:-}" ]; then install requirements.txt; install requirements-extra.txt; fi
[ "${1:-}" != install ] || exit 0
trap 'stopped=yes' INT
steps
[ -n "$any" ] || { echo "runbook.sh: nothing to do: FROM and ONLY choose no step of this chain (DRY_RUN=1 shows them)." >&2; exit 2; }
case $OUT in /*) ;; *) OUT=$root/$OUT ;; esac
[ -n "${DRY_RUN:-}" ] || echo "done: look into $OUT" >&2
