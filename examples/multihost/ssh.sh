#!/usr/bin/env bash
# ssh.sh FILE RUN HOST HOST...
#
# One process on each host; the first is the coordinator, and may be localhost for a try (then
# all must be). All hosts share this directory, FILE and RUN. PYTHON, PORT, ARGUMENTS (more of them
# for train.py) and, for a try on one machine, XLA_FLAGS are passed on.
set -euo pipefail
text=$1 run=$2
shift 2
coordinator=$1:${PORT:-3389} processes=$# index=0 children=()
trap 'kill "${children[@]}" 2>/dev/null || true' EXIT
for host in "$@"; do
  command=(env XLA_FLAGS="${XLA_FLAGS:-}" "${PYTHON:-python3}" examples/multihost/train.py
    --text "$text" --directory "$run"
    --coordinator "$coordinator" --processes "$processes" --index "$index"
    # shellcheck disable=SC2206  (several words)
    ${ARGUMENTS:-})
  if [ "$host" = localhost ]; then
    "${command[@]}" &
  else
    ssh -tt "$host" "cd $(printf %q "$PWD") && $(printf '%q ' "${command[@]}")" &
  fi
  children+=($!)
  index=$((index + 1))
done
# The first that fails ends all; begun again, they go on.
for _ in "${children[@]}"; do
  wait -n
done
