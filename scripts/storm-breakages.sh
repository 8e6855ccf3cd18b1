#!/usr/bin/env bash
# Breaks one promise after the other in a copy of the sources, and has a storm notice each: a storm
# that cannot fail proves nothing. Changes nothing outside target/breakages.
#
# Usage: scripts/storm-breakages.sh [NAME...]
# NAME is a file of crates/storm/breakages without `.patch`; all of them without it. The first line of
# such a file says what is broken, the second which storm shows it.
set -euo pipefail
cd "$(dirname "$0")/.."

STORMS=3
cargo=${CARGO:-cargo}
tree=target/breakages/tree
export RUST_MIN_STACK=33554432

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for patch in crates/storm/breakages/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi

# Times of files stay, so that only what is broken is built again.
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z | tar --create --null --files-from=- | tar --extract --directory="$tree"
build() { (cd "$tree" && CARGO_TARGET_DIR=../build "$cargo" build --quiet --locked --bin "$1"); }
build paystream-storm

missed=()
number=0
for name in "${names[@]}"; do
    patch=crates/storm/breakages/$name.patch
    number=$((number + 1))
    echo "[$number/${#names[@]}] $name: $(head -1 "$patch")"
    git apply --directory="$tree" "$patch"
    build paystream
    read -ra storm <<<"$(sed -n 's/^Storm: //p' "$patch")"
    caught=
    for ((attempt = 1; attempt <= STORMS && ${#caught} == 0; attempt++)); do
        status=0
        said=$(target/breakages/build/debug/paystream-storm "${storm[@]}" --folder target/breakages/storm 2>&1) ||
            status=$?
        case $status in
        0) echo "    storm $attempt of $STORMS: $(head -1 <<<"$said"): everything held" ;;
        1) caught=$(grep --after-context=1 --extended-regexp '^(violated|trouble), ' <<<"$said" | sed -n 2p) ;;
        *) echo "$said" >&2 && exit 2 ;;
        esac
    done
    if [ -n "$caught" ]; then echo "    noticed by storm $((attempt - 1)):$(cut -c1-200 <<<"$caught")"; else missed+=("$name"); fi
    git apply --directory="$tree" --reverse "$patch"
done

if [ ${#missed[@]} -gt 0 ]; then
    echo "NOT NOTICED: ${missed[*]}" >&2
    exit 1
fi
echo "All ${#names[@]} were noticed."
