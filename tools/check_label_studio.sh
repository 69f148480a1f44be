#!/usr/bin/env bash
# Out to a real Label Studio and back, with API and a real brush: no pixel may differ.
#
#   tools/check_label_studio.sh WORK [PORT]
#
# WORK keeps what takes long (the server in an environment of its own, and its data folder as it is
# after the first start); everything else in it is made anew. Needs segal in the current
# environment, chromium and chromedriver, and a package registry the first time. The server listens
# on loopback only and reports to nobody. Prints what holds; exits with another code than 0 at the
# first thing that does not. What was run is in docs/results/annotating.md.
set -euo pipefail
mkdir -p "$1"
work=$(cd "$1" && pwd) port=${2:-18081}
here=$(cd "$(dirname "$0")/.." && pwd)
version=1.23.2

serve() { # DATA: starts the server, and waits until it answers
    mkdir -p "$1" "$work/media"
    LABEL_STUDIO_BASE_DATA_DIR=$1 \
        LOCAL_FILES_SERVING_ENABLED=true LOCAL_FILES_DOCUMENT_ROOT=$work/media \
        LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN=true \
        COLLECT_ANALYTICS=false LATEST_VERSION_CHECK=false SENTRY_DSN='' FRONTEND_SENTRY_DSN='' \
        "$work/venv/bin/label-studio" start --no-browser --internal-host 127.0.0.1 -p "$port" \
        --username annotator@example.org --password not-a-secret \
        --user-token 0123456789abcdef0123456789abcdef01234567 >"$work/server.log" 2>&1 &
    server=$!
    trap stop EXIT
    for _ in $(seq 600); do
        if curl -s -o /dev/null "http://127.0.0.1:$port/health"; then return; fi
        if ! kill -0 "$server" 2>/dev/null; then break; fi
        sleep 1
    done
    echo "FAIL the server does not answer; see $work/server.log" >&2
    exit 1
}

stop() {
    trap - EXIT
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
}

if curl -s -o /dev/null "http://127.0.0.1:$port/health"; then
    echo "FAIL something listens on port $port already; give another one" >&2
    exit 1
fi
if [ ! -x "$work/venv/bin/label-studio" ]; then
    python -m venv "$work/venv"
    "$work/venv/bin/pip" install -q "label-studio==$version"
fi
if [ ! -d "$work/template" ]; then # its migrations take minutes
    rm -rf "$work/first"
    serve "$work/first"
    stop
    mv "$work/first" "$work/template"
fi
rm -rf "$work/data" "$work/media" "$work/loop"
cp -r "$work/template" "$work/data"
serve "$work/data"
libraries=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cd "$here"
PYTHONPATH=$here OMP_NUM_THREADS=1 python -m tools.check_label_studio "$work" "$port" "$libraries"
