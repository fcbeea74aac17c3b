#!/usr/bin/env bash
# gcc compiles generated C sources in a loop, links and runs them; the output against the shell's own sum. See README.md.
set -euo pipefail

bad() {
    echo "BAD $1: expected $2, found $3"
    exit 1
}

mkdir -p compile-job
cd compile-job

cycle=0
while true; do
    cycle=$((cycle + 1))
    expected=0
    declarations=""
    calls="0"
    objects=()
    for part in 1 2 3; do
        value=$((cycle * 1000 + part))
        expected=$((expected + value * value % 65521))
        cat > "part$part.c" <<SOURCE
long part$part(void) {
    volatile long value = $value;
    return value * value % 65521;
}
SOURCE
        gcc -O2 -c "part$part.c" -o "part$part.o" || bad "compiler's exit status" 0 $?
        declarations+="long part$part(void); "
        calls+=" + part$part()"
        objects+=("part$part.o")
    done
    cat > main.c <<SOURCE
#include <stdio.h>
$declarations
int main(void) {
    printf("%ld\n", $calls);
    return 0;
}
SOURCE
    gcc -O2 main.c "${objects[@]}" -o program || bad "linker's exit status" 0 $?
    found=$(./program) || bad "program's exit status" 0 $?
    [ "$found" = "$expected" ] || bad "output of cycle $cycle" "$expected" "$found"
    echo "ok $cycle output=$found"
done
