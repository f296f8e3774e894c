#!/usr/bin/env bash
# A superlink and two supernodes on this machine, with TLS, and the app on them.
# usage: local.sh DATA-DIR WORK-FOLDER [RUN-CONFIG...]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage="usage: local.sh DATA-DIR WORK-FOLDER [RUN-CONFIG...]"
data=$(cd "${1:?$usage}" && pwd)
mkdir -p "${2:?$usage}"
work=$(cd "$2" && pwd)
shift 2
port=${PORT:-8000}
export FLWR_TELEMETRY_ENABLED=0 FLWR_HOME="$work/flwr" PYTHONUNBUFFERED=1
# Flower starts a program for every message: compiled rounds are kept between them.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$work/jax}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1 JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

"$here/certificates.sh" "$work/tls"
mkdir -p "$FLWR_HOME"
cat >"$FLWR_HOME/config.toml" <<END
[superlink]
default = "local-tls"

[superlink.local-tls]
address = "127.0.0.1:$port"
root-certificates = "$work/tls/ca.pem"
END

started=()
trap 'kill "${started[@]}" 2>/dev/null || true; wait 2>/dev/null || true' EXIT

flower-superlink --ssl-ca-certfile "$work/tls/ca.pem" --ssl-certfile "$work/tls/server.pem" \
    --ssl-keyfile "$work/tls/server.key" --host 127.0.0.1 --port "$port" \
    --disable-runtime-dependency-installation >"$work/superlink.log" 2>&1 &
started+=($!)
for part in 0 1; do
    flower-supernode --root-certificates "$work/tls/ca.pem" --superlink "127.0.0.1:$port" \
        --host 127.0.0.1 --port "$((port + 1 + part))" \
        --node-config "data-dir='$data' part=$part parts=2" >"$work/node-$part.log" 2>&1 &
    started+=($!)
    echo $! >"$work/node-$part.pid"
done

overrides=(--run-config "directory='$work/run'")
for setting in "$@"; do overrides+=(--run-config "$setting"); done
for _ in $(seq 60); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    sleep 0.5
done
flwr run "$here" local-tls "${overrides[@]}" --stream
