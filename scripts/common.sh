# Sourced by the other scripts: where we are, how we speak, how we build.
set -euo pipefail
EDGE_SCRIPT=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
EDGE_ROOT=$PWD
export LC_ALL=C.UTF-8

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Prints the comment block at the top of the calling script, without its '# '.
usage() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$EDGE_SCRIPT"; }

# configure_and_build PRESET [TARGET...]
configure_and_build() {
  local preset=$1
  shift
  say "configure ($preset)"
  mkdir -p "build/$preset"
  cmake --preset "$preset" >"build/$preset/configure.log" 2>&1 ||
    { cat "build/$preset/configure.log" >&2; fail "configuring the preset '$preset' failed"; }
  say "build ($preset)"
  cmake --build "build/$preset" ${*:+--target "$@"} >&2
}
