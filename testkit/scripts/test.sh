#!/usr/bin/env bash
# Checks and tests everything. Goes on after a failure, so that one run tells all; ends with one line that sums up the
# closing lines of all test runners: `N passed, N failed`. A step that fails without a failed test counts as one.
set -euo pipefail
cd "$(dirname "$0")/../.."

began=$SECONDS
output=$(mktemp)
contracts=$(mktemp)
trap 'rm -f "$output" "$contracts"' EXIT
passed=0
failed=0
table=()

# The numbers before "passed" and "failed" in the closing lines of cargo, forge, test_services.sh and the fault campaign.
tally() {
    sed $'s/\x1b\\[[0-9;]*m//g' "$output" | awk '
        /^test result: / { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1) } }
        /^Ran [0-9]+ test suites? in / { for (i = 2; i <= NF; i++) { if ($i == "passed,") p += $(i-2); if ($i == "failed,") f += $(i-1) } }
        /^[0-9]+ passed, [0-9]+ failed$/ { p += $1; f += $3 }
        END { print p + 0, f + 0 }'
}

step() {
    local name=$1 start=$SECONDS status=0 p f
    shift
    echo "── $name"
    "$@" 2>&1 | tee "$output" || status=$?
    read -r p f < <(tally)
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    passed=$((passed + p))
    failed=$((failed + f))
    table+=("$(printf '%-14s %-6s %5d passed %4d failed %6d s' "$name" "$([ "$status" -eq 0 ] && [ "$f" -eq 0 ] && echo ok || echo FAILED)" "$p" "$f" $((SECONDS - start)))")
}

# What was printed by something that has ended with this status.
told() {
    cat "$1"
    return "$2"
}

# The compiler of the contracts has use for one core, and cargo leaves one idle now and then.
npm test --silent --prefix contracts >"$contracts" 2>&1 &
compiling=$!

step format cargo fmt --all -- --check
step lints cargo clippy --locked --workspace --all-targets -- -D warnings
step switches cargo clippy --locked --workspace --all-targets --features simulation/failpoints,testkit/failpoints -- -D warnings
step docs env RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps
step asyncapi npm test --silent --prefix testkit/asyncapi
step build cargo build --locked --workspace
status=0
wait "$compiling" || status=$?
step contracts told "$contracts" "$status"
step workspace cargo test --locked --workspace --no-fail-fast
step replicas cargo test --locked --workspace --test end_to_end -- --ignored
step services "${CARGO_TARGET_DIR:-target}/debug/stack" exec ./test_services.sh
step simulation cargo test --locked --workspace --features simulation/failpoints --no-fail-fast --test simulation --test conformance
step chaos env CHAOS_SEED=1 CHAOS_MINUTES=2 make --no-print-directory chaos

echo
printf '%s\n' "${table[@]}"
echo "took $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
