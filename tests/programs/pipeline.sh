#!/usr/bin/env bash
# Numbers through four processes and three pipes; the sum that comes out against the formula. See README.md.
# A byte lost, doubled or reordered in any pipe, or a process that forgets where it was, changes a sum.
set -euo pipefail

block=2000

generate() {
    local first=1
    while true; do
        seq "$first" $((first + block - 1))
        first=$((first + block))
        sleep 0.03
    done
}

# Every number also carries a remainder, so that digits cannot be swapped unnoticed. (Everything stays within 31 bits, or is
# printed with %.0f: awks differ in how they print larger numbers.)
sign() { awk '{ printf "%s %.0f\n", $1, $1 * 7919 % 65521; fflush() }'; }

# Drops the odd ones, as any filter would.
even() { awk '$1 % 2 == 0 { print; fflush() }'; }

verify() {
    awk -v block="$block" '
        function same(what, expected, found) {
            if (expected == found) return
            printf "BAD %s: expected %.0f, found %.0f\n", what, expected, found
            fflush()
            exit 1
        }
        {
            same("number", 2 * NR, $1)
            same("remainder of " $1, $1 * 7919 % 65521, $2)
            sum = (sum + $1) % 1000003
        }
        NR % (block / 2) == 0 {
            # 2 + 4 + … + 2n = n (n + 1)
            same("sum", (NR % 1000003) * ((NR + 1) % 1000003) % 1000003, sum)
            print "ok " ++cycle " sum=" sum
            fflush()
        }'
}

generate | sign | even | verify
