#!/usr/bin/env bash
# tests/install/run.sh [BUILD_DIR] - is edge usable by somebody else's project?
#
# Installs the libraries of BUILD_DIR (default build/dev; built first if need be), then builds
# the consumer project beside this script in every way a user would: each library alone
# by find_package(), all of them from the .deb, all by add_subdirectory(). Checks
# what each one drags in, what edgeConfig.cmake says about a wrong component, and that every
# public header compiles alone. Ends 'N passed, N failed'.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
if (($# > 1)) || [[ ${1:-} == -* ]]; then
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
  exit $(($# == 1 ? 0 : 2))
fi
build=$(realpath -m "${1:-$root/build/dev}")
work=$(mktemp -d "${TMPDIR:-/tmp}/edge-install-XXXXXX")
trap 'rm -rf "$work"' EXIT

passed=0 failed=0
# check NAME COMMAND...: counts one test; shows the end of its output if it fails.
check() {
  local name=$1
  shift
  if "$@" >"$work/log" 2>&1; then
    passed=$((passed + 1))
    printf 'ok      %s\n' "$name"
  else
    failed=$((failed + 1))
    printf 'FAILED  %s\n' "$name"
    tail -n 30 "$work/log" | sed 's/^/        /'
  fi
}
finish() {
  printf '%d passed, %d failed\n' "$passed" "$failed"
  exit $((failed > 0))
}
cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }

if [[ ! -f $build/CMakeCache.txt ]]; then
  check "configure $build" cmake -S "$root" --preset dev -B "$build"
fi
components=$(sed -n 's/^set(edge_known \(.*\))$/\1/p' "$build/edgeConfig.cmake")
[[ -n $components ]] || { echo "error: no edgeConfig.cmake in $build (EDGE_INSTALL off?)"; failed=1; finish; }
targets=() && for c in $components; do targets+=("edge_$c"); done
check "the libraries build" cmake --build "$build" --target "${targets[@]}"
((failed == 0)) || finish

# The consumer has the flags of the build, so that sanitizers fit and ccache helps.
type=$(cached CMAKE_BUILD_TYPE)
flags=(-G Ninja "-DCMAKE_CXX_COMPILER=$(cached CMAKE_CXX_COMPILER)"
  "-DCMAKE_BUILD_TYPE=$type" "-DCMAKE_CXX_FLAGS=$(cached CMAKE_CXX_FLAGS)"
  "-DCMAKE_CXX_FLAGS_${type^^}=$(cached "CMAKE_CXX_FLAGS_${type^^}")")
command -v ccache >/dev/null && flags+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
launch() { cmake -S "$here" "${flags[@]}" "$@"; }

prefix=$work/prefix
check "install" cmake --install "$build" --prefix "$prefix"
check "install a single component" cmake --install "$build" --prefix "$work/only" --component base
check "... which leaves the others out" test ! -e "$work/only/include/edge/kv"

# What each library may not look for, and not link. SQLite is for those that keep data,
# Boost for those that speak; inference and kv do neither.
declare -A packages=(
  [base]="SQLite3 Boost OpenSSL PkgConfig nlohmann_json CURL"
  [kv]="SQLite3 Boost OpenSSL PkgConfig nlohmann_json CURL"
  [kv_sqlite]="Boost OpenSSL PkgConfig nlohmann_json CURL"
  [rpc]="SQLite3 CURL"  # CMake's search for OpenSSL asks PkgConfig
  [kv_rpc]="SQLite3 CURL"
  [inference]="SQLite3 Boost OpenSSL PkgConfig CURL")
declare -A strangers=(
  [base]="sqlite boost openssl zstd curl json" [kv]="sqlite boost openssl zstd curl json"
  [kv_sqlite]="boost openssl curl json" [rpc]="sqlite zstd curl"
  [kv_rpc]="sqlite zstd curl" [inference]="sqlite boost openssl curl")

# brings_no BINARY CLOSURE WORD...: neither a linked target, a shared library, nor a symbol.
brings_no() {
  local binary=$1 closure=$2 word bad=0
  shift 2
  nm --demangle "$binary" >"$work/symbols"
  ldd "$binary" >"$work/shared"
  for word; do
    grep -i -- "$word" "$closure" "$work/shared" && bad=1
    case $word in
      sqlite) grep -E ' sqlite3_[a-z]' "$work/symbols" && bad=1 ;;
      boost) grep -E ' boost::' "$work/symbols" && bad=1 ;;
      openssl) grep -E ' (SSL|EVP)_[A-Za-z]' "$work/symbols" && bad=1 ;;
      json) grep -E ' nlohmann::' "$work/symbols" && bad=1 ;;
      zstd) grep -E ' ZSTD_[a-z]' "$work/symbols" && bad=1 ;;
      curl) grep -E ' curl_[a-z]' "$work/symbols" && bad=1 ;;
    esac
  done
  return $bad
}

for c in $components; do
  [[ -f $here/use_$c.cc ]] || { check "there is a consumer of $c" false; continue; }
  disabled=()
  for package in ${packages[$c]:-}; do disabled+=("-DCMAKE_DISABLE_FIND_PACKAGE_$package=ON"); done
  check "find_package(edge COMPONENTS $c)${packages[$c]:+ without ${packages[$c]}}" \
    launch -B "$work/$c" -DCMAKE_PREFIX_PATH="$prefix" -DEDGE_USED="$c" "${disabled[@]}"
  check "a program with edge::$c builds" cmake --build "$work/$c"
  check "... and runs" "$work/$c/use_$c"
  if [[ -n ${strangers[$c]:-} && -x $work/$c/use_$c ]]; then
    # shellcheck disable=SC2086
    check "edge::$c brings no ${strangers[$c]}" \
      brings_no "$work/$c/use_$c" "$work/$c/use_$c.closure" ${strangers[$c]}
  fi
done
# The test above must be able to fail.
if [[ -x $work/kv_sqlite/use_kv_sqlite ]]; then
  check "edge::kv_sqlite does bring sqlite" \
    bash -c "! grep -qi sqlite '$work/kv_sqlite/use_kv_sqlite.closure' && exit 1; ldd '$work/kv_sqlite/use_kv_sqlite' | grep -qi sqlite"
fi

# says TEXT COMMAND...: the command fails, and its output has TEXT (line breaks aside).
says() {
  local text=$1
  shift
  "$@" >"$work/said" 2>&1 && { echo "it did not fail"; return 1; }
  tr -s ' \n' ' ' <"$work/said" | tee "$work/flat"
  grep -qF -- "$text" "$work/flat"
}
check "an unknown component is named, with those there are" \
  says "edge: there is no component 'kw'; there are: base" \
  launch -B "$work/unknown" -DCMAKE_PREFIX_PATH="$prefix" -DEDGE_USED="kw"
check "a component that is not installed is named" says "edge: component 'kv' is not installed in" \
  launch -B "$work/missing" -DCMAKE_PREFIX_PATH="$work/only" -DEDGE_USED="kv"
check "a missing package is named" says "SQLite3" \
  launch -B "$work/package" -DCMAKE_PREFIX_PATH="$prefix" -DEDGE_USED="kv_sqlite" \
  -DCMAKE_DISABLE_FIND_PACKAGE_SQLite3=ON
mkdir -p "$work/probe"
cat >"$work/probe/CMakeLists.txt" <<'EOF'
cmake_minimum_required(VERSION 3.25)
project(probe LANGUAGES CXX)
find_package(edge ${WANTED} CONFIG COMPONENTS base OPTIONAL_COMPONENTS kw)
if(NOT edge_FOUND OR NOT edge_base_FOUND OR edge_kw_FOUND)
  message(FATAL_ERROR "edge ${edge_FOUND} base ${edge_base_FOUND} kw ${edge_kw_FOUND}")
endif()
EOF
probe() { cmake -S "$work/probe" -B "$work/probe/$1" "${flags[@]}" -DCMAKE_PREFIX_PATH="$prefix" -DWANTED="$1"; }
check "an optional component may be missing" probe 0.1
check "another version is refused" says "compatible with requested version \"9.9\"" probe 9.9

deb() {
  (cd "$work" && cpack -G DEB --config "$build/CPackConfig.cmake" -B "$work/deb") &&
    mv "$work"/deb/*.deb "$work/edge.deb" && dpkg-deb -x "$work/edge.deb" "$work/unpacked"
}
check "cpack makes a .deb" deb
check "the .deb says what it is and needs" \
  bash -c "dpkg-deb -f '$work/edge.deb' Package Depends | grep -q libedge-dev"
only_ours() {
  dpkg-deb -c "$work/edge.deb" | awk '$1 !~ /^d/ {print $6}' >"$work/listed"
  grep -vE '^\./usr/(include/edge/|lib/[^/]*/?libedge_|lib/([^/]*/)?cmake/edge/)' "$work/listed" && return 1
  [[ $(grep -c '/include/edge/.*\.h$' "$work/listed") -ge 20 ]]
}
check "the .deb holds headers, static libraries and CMake files only" only_ours
all=${components// /;}
check "find_package(edge) from the .deb, all components" \
  launch -B "$work/all" -DCMAKE_PREFIX_PATH="$work/unpacked/usr" -DEDGE_USED="$all"
check "programs with all of them build" cmake --build "$work/all"

# Quick to compile, and without debug information the same for ccache wherever it is built.
check "add_subdirectory()" launch -B "$work/sub" -DEDGE_SOURCE="$root" -DEDGE_USED="$all" \
  -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O0 -Wall -Wextra -Werror"
check "programs build beside the sources" cmake --build "$work/sub"
for c in $components; do
  check "... and use_$c runs" "$work/sub/use_$c"
done
check "a subproject builds no tests, examples or packages of ours" \
  bash -c "! grep -qE '^EDGE_(BUILD_TESTS|BUILD_BENCH|BUILD_EXAMPLES|INSTALL):BOOL=ON' '$work/sub/CMakeCache.txt'"

if [[ $(cached CMAKE_VERIFY_INTERFACE_HEADER_SETS) == ON ]]; then
  check "every public header compiles alone" \
    cmake --build "$build" --target all_verify_interface_header_sets
fi
finish
