#!/usr/bin/env bash
# Installs what the tests need and this machine does not have, as far as that can be done without asking; says what to do about the rest.
set -euo pipefail
cd "$(dirname "$0")/../.."

missing=()
have() { command -v "$1" >/dev/null 2>&1; }
has_postgres() {
    [ -n "${TEST_DATABASE_URL:-}" ] && return
    have initdb && return
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && return
    compgen -G '/opt/homebrew/opt/postgresql@*/bin/initdb' >/dev/null && return
    compgen -G '/usr/local/opt/postgresql@*/bin/initdb' >/dev/null
}
has_docker() { have docker && docker info >/dev/null 2>&1; }
has_emulator_program() {
    local root candidates=(/usr/lib/google-cloud-sdk /usr/share/google-cloud-sdk "$HOME/google-cloud-sdk" /snap/google-cloud-cli/current
        /opt/google-cloud-sdk /opt/google-cloud-cli /opt/homebrew/share/google-cloud-sdk /usr/local/share/google-cloud-sdk)
    if have gcloud; then candidates+=("$(gcloud info --format='value(installation.sdk_root)' 2>/dev/null || true)"); fi
    for root in "${candidates[@]}"; do
        if [ -x "$root/platform/pubsub-emulator/bin/cloud-pubsub-emulator" ]; then return 0; fi
    done
    return 1
}

have cargo || { echo 'Rust is missing: https://rustup.rs' >&2; exit 1; }
have npm || { echo 'Node.js (20 or newer, with npm) is missing: https://nodejs.org' >&2; exit 1; }
have curl || missing+=(curl)
has_postgres || missing+=(postgresql)
# To render k8s/.
have kubectl || have kustomize || missing+=(kubernetes-client)
if has_emulator_program && ! have java; then missing+=(default-jre-headless); fi

if [ "${#missing[@]}" -gt 0 ]; then
    if have apt-get && [ "$(id -u)" = 0 ]; then
        echo "installing ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    elif have apt-get && have sudo && sudo -n true 2>/dev/null; then
        echo "installing ${missing[*]}"
        sudo apt-get update -qq
        sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "missing: ${missing[*]}. Install them, for example:" >&2
        echo "  Debian, Ubuntu:  sudo apt-get install ${missing[*]}" >&2
        echo '  macOS:           brew install postgresql@17 openjdk' >&2
        echo 'For PostgreSQL, TEST_DATABASE_URL may name a server where databases may be created instead.' >&2
        exit 1
    fi
fi

if [ -z "${PUBSUB_EMULATOR_HOST:-}" ] && ! has_emulator_program && ! has_docker; then
    cat >&2 <<'TEXT'
There is no Pub/Sub emulator. One of three ways:
  - set PUBSUB_EMULATOR_HOST to the host:port of one that is running
  - gcloud components install beta pubsub-emulator
    (or, from Google's apt repository: apt-get install google-cloud-cli-pubsub-emulator default-jre-headless)
  - start a Docker engine
TEXT
    exit 1
fi

make --no-print-directory {contracts,testkit/asyncapi}/node_modules/.package-lock.json
