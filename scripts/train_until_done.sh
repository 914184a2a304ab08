#!/usr/bin/env bash
# Train, and start again whenever training ended before it was finished: for containers and
# machines on which nothing else restarts what was killed.
#
#   scripts/train_until_done.sh --config configs/ranking.py [what scripts/train.py takes]
#
# Starts again after: 75 (train.max_minutes are over), SIGTERM and SIGUSR1 to the training itself
# (143, 138), and crashes (a traceback, or any other signal such as SIGKILL from the system that ran
# out of memory). Ends with the code of the training when it is finished (0), was stopped with
# Ctrl-C (130), or cannot go on without you (2 to 6, see docs/preemption.md); and when
# $ATTEMPTS (default 3) starts in a row have not brought a newer checkpoint.
# SIGTERM, SIGINT, SIGHUP and SIGUSR1 to this script are passed on; it ends when the training has.
#
# PYTHON: the interpreter (default: python). PAUSE: seconds before a start after a crash (5).

set -u
python=${PYTHON:-python}
script=$(dirname "$0")/train.py
attempts=${ATTEMPTS:-3}
pause=${PAUSE:-5}

config='' workdir='' previous=''
for word in "$@"; do
  case $previous in
    --config) config=$word ;;
    --workdir) workdir=$word ;;
  esac
  case $word in
    --config=*) config=${word#*=} ;;
    --workdir=*) workdir=${word#*=} ;;
  esac
  previous=$word
done
name=$(basename "${config%%:*}" .py)
checkpoints=${workdir:-runs/$name}/checkpoints

newest() {
  local newest=-1 path step
  for path in "$checkpoints"/[0-9]*.json; do
    step=$(basename "$path" .json)
    case $step in
      *[!0-9]*) ;;
      *) if ((10#$step > newest)); then newest=$((10#$step)); fi ;;
    esac
  done
  echo "$newest"
}

child='' told='' interrupted=''
# shellcheck disable=SC2329  # by the traps
pass_on() {
  told=$1 interrupted=yes
  if [ -n "$child" ]; then kill -s "$1" "$child" 2>/dev/null; fi
}
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
trap 'pass_on TERM' HUP
trap 'pass_on USR1' USR1

# Runs a command and sets `code`; returns when it has ended, however often a signal arrives.
attend() {
  # A process group of its own: from a terminal, Ctrl-C would reach the command twice, once past us,
  # and a second Ctrl-C means "at once".
  set -m
  "$@" &
  child=$!
  set +m
  # A signal before `child` was known.
  if [ -n "$told" ]; then kill -s "$told" "$child" 2>/dev/null; fi
  local again
  interrupted=''
  wait "$child"
  code=$?
  while [ -n "$interrupted" ]; do
    interrupted=''
    wait "$child"
    again=$?
    # 127: it had ended already, and the code was its own.
    if ((again != 127)); then code=$again; fi
  done
  child=''
}

code=0 failed=0
while [ -z "$told" ]; do
  before=$(newest)
  attend "$python" "$script" "$@"
  case $code in
    0 | [2-6] | 126 | 127 | 130) exit "$code" ;;
  esac
  if [ -n "$told" ]; then break; fi
  after=$(newest)
  if ((after > before)); then failed=0; else failed=$((failed + 1)); fi
  if ((failed >= attempts)); then
    echo "train_until_done: $attempts attempts in a row without a newer checkpoint; giving up" >&2
    exit "$code"
  fi
  echo "train_until_done: exit code $code, newest checkpoint: step $after; starting again" >&2
  case $code in
    75 | 138 | 143) ;;
    *)
      last=$code
      attend sleep "$pause"
      code=$last
      ;;
  esac
done
exit "$code"
