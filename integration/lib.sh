# What the suites share: counted results, a scratch directory that goes away with all in it, imrun, its sink.
# shellcheck shell=bash
set -euo pipefail

integration=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
suite=$(basename "$0")
# The binary under test.
binary=${IMRUN:-$(dirname "$integration")/target/$(uname -m)-unknown-linux-gnu/release/imrun}

passed=0 failed=0 skipped=0 finished=
undo=()
scratch=

# --- results, as TAP -------------------------------------------------------------------------------------------------

result() {
    echo "$1 $((passed + failed + skipped)) - $suite: $2"
}

# ok NAME
ok() {
    passed=$((passed + 1))
    result ok "$1"
}

# fail NAME [WHY]: WHY may have several lines.
fail() {
    failed=$((failed + 1))
    result 'not ok' "$1"
    [ -z "${2-}" ] || head -n 12 <<<"$2" | sed 's/^/# /'
}

# skip NAME WHY
skip() {
    skipped=$((skipped + 1))
    result ok "$1 # SKIP $2"
}

# finish: the totals; the suite's exit status is 1 when anything failed.
finish() {
    finished=1
    [ "$failed" = 0 ] && exit 0
    exit 1
}

# exits CODE NAME COMMAND…: COMMAND ends with CODE. Its output stays in $scratch/out and $scratch/err.
exits() {
    local want=$1 name=$2 got=0
    shift 2
    "$@" >"$scratch/out" 2>"$scratch/err" || got=$?
    if [ "$got" = "$want" ]; then
        ok "$name"
    else
        fail "$name" "exit $got, not $want: $*"$'\n'"$(tail -n 10 "$scratch/err")"
    fi
}

# holds NAME COMMAND…: COMMAND succeeds. It may read what `exits` left.
holds() {
    local name=$1 why
    shift
    if why=$("$@" 2>&1); then ok "$name"; else fail "$name" "$*"$'\n'"$why"; fi
}

# prints NAME PATTERN COMMAND…: COMMAND ends with 0, and a line of its output has the extended regular expression.
prints() {
    exits 0 "$1: ends with 0" "${@:3}"
    holds "$1" grep -Eq -e "$2" "$scratch/out"
}

# prints_not NAME PATTERN COMMAND…: COMMAND ends with 0, and no line of its output has it.
prints_not() {
    exits 0 "$1: ends with 0" "${@:3}"
    if grep -Eq -e "$2" "$scratch/out"; then fail "$1" "$(<"$scratch/out")"; else ok "$1"; fi
}

# within SECONDS COMMAND…: COMMAND succeeds sooner or later; on a machine that does much else, four times as late.
within() {
    local end=$((SECONDS + 4 * $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}

# in_background COMMAND…: its process is $job; it is ended at exit at the latest.
in_background() {
    "$@" &
    job=$!
    at_exit end_job "$job"
}

end_job() {
    if jobs -rp | grep -qx "$1"; then
        kill -TERM "$1"
        wait "$1"
    fi
}

# gone PID: it has ended, reaped or not.
gone() {
    ! jobs -rp | grep -qx "$1"
}

# ended CODE NAME: $job ends with CODE within a minute or so; it is killed else.
ended() {
    local got=0
    # Bash itself says on standard error how a job was killed.
    {
        within 20 gone "$job" || kill -KILL "$job"
        wait "$job" || got=$?
    } 2>/dev/null
    if [ "$got" = "$1" ]; then ok "$2"; else fail "$2" "exit $got, not $1"; fi
}

# --- beginning and end -----------------------------------------------------------------------------------------------

# at_exit COMMAND…: run at the end, however that comes; the last one first.
at_exit() {
    undo+=("$(printf '%q ' "$@")")
}

tidy() {
    local status=$? number
    trap - EXIT
    set +e
    [ -n "$finished" ] || fail "the suite runs to its end" "status $status"
    for ((number = ${#undo[@]} - 1; number >= 0; number--)); do
        eval "${undo[number]}"
    done
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
    exit
}

# begin: root, a kernel and a binary, or no suite; then $scratch on a disk (EROFS mounts no file of a tmpfs), an empty
# store and an empty runtime directory.
begin() {
    trap tidy EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    [ "$(id -u)" = 0 ] || { skip "all of it" "needs root"; finish; }
    [ "$(printf '6.12\n%s\n' "$(uname -r)" | sort -V | head -n 1)" = 6.12 ] ||
        { skip "all of it" "needs Linux 6.12 or later, this is $(uname -r)"; finish; }
    [ -x "$binary" ] || { skip "all of it" "needs $binary: cargo build --release"; finish; }
    "$integration/packages"
    scratch=$(mktemp -d "/var/tmp/imrun-$suite.XXXXXX")
    at_exit rm -rf --one-file-system "$scratch"
    runtime=$(mktemp -d /run/imrun-test.XXXXXX)
    at_exit rm -rf --one-file-system "$runtime"
    export IMRUN_STORE=$scratch/store
    # shellcheck disable=SC2034  # the suites' own: the command with its global options
    imrun=("$binary" --root "$runtime")
}

# --- images and their launch -----------------------------------------------------------------------------------------

# layouts NAME…: makes the images integration/images/NAME unless they are in $cache.
layouts() {
    local name
    for name in "$@"; do
        "$integration/images/$name"
    done
}
# shellcheck disable=SC2034  # the suites' own
cache=$integration/cache

# start_sink: a bulk receiver whose documents are in $scratch/documents; IMRUN_SINK names it.
start_sink() {
    : >"$scratch/documents"
    in_background "$integration/bulk-receiver.py" "$scratch/documents" "$scratch/port"
    within 10 test -s "$scratch/port"
    IMRUN_SINK=es+http://127.0.0.1:$(<"$scratch/port")
    export IMRUN_SINK
}

# start_registry: a docker-registry without TLS, whose data are in $scratch/registry; $registry is its HOST:PORT, and what
# it answers is in $scratch/registry.access.
start_registry() {
    registry=127.0.0.1:$(free_port 5200 5299)
    printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "%s"}\n' \
        "$scratch/registry" "$registry" >"$scratch/registry.yml"
    in_background docker-registry serve "$scratch/registry.yml" >"$scratch/registry.access" 2>"$scratch/registry.log"
    within 20 curl --silent --output /dev/null "http://$registry/v2/"
}

# publish IMAGE…: images of $cache, byte for byte, into $registry.
publish() {
    local image
    for image in "$@"; do
        skopeo copy --quiet --preserve-digests --dest-tls-verify=false "oci:$cache/$image:latest" "docker://$registry/$image:latest"
    done
}

# publish_other IMAGE TEXT: one upon it with TEXT in /etc/notes takes its name in $registry. The store has the image.
publish_other() {
    local base
    base=$(jq -r '.manifests[0].digest' "$cache/$1/index.json")
    mkdir -p "$scratch/other"
    echo "$2" >"$scratch/other/notes"
    printf 'base = "%s"\n[[file]]\nsource = "notes"\npath = "/etc/notes"\n' "$base" >"$scratch/other/image.toml"
    base=$("${imrun[@]}" bake "$scratch/other/image.toml")
    "${imrun[@]}" push "$base" "$registry/$1:latest" >"$scratch/out" 2>"$scratch/err"
}

# start_discard: a receiver of the bulk API that acknowledges everything and keeps nothing; IMRUN_SINK names it.
start_discard() {
    in_background python3 -c '
import socket, sys, threading
server = socket.create_server(("127.0.0.1", 0), backlog=128)
open(sys.argv[1], "w").write(str(server.getsockname()[1]))
body = b"{\"errors\":false,\"items\":[]}"
answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
def drain(peer):
    stream = peer.makefile("rb")
    while line := stream.readline():
        if line.lower().startswith(b"content-length:"): length = int(line.split(b":")[1])
        if line == b"\r\n":
            stream.read(length)
            peer.sendall(answer)
while True: threading.Thread(target=drain, args=(server.accept()[0],), daemon=True).start()
' "$scratch/port"
    within 10 test -s "$scratch/port"
    IMRUN_SINK=es+http://127.0.0.1:$(<"$scratch/port")
    export IMRUN_SINK
}

# documents FILTER: the jq FILTER's answer about the array of all documents; fails where that is false or null.
documents() {
    jq -es "$1" "$scratch/documents" >/dev/null
}

# line TEXT: the app's line TEXT has arrived.
line() {
    jq -es --arg text "$1" 'any(.[]; .message == $text and ."event.dataset" == "imrun.output")' "$scratch/documents" >/dev/null
}

# reports_writes NAME: this imrun has --on-write; a skip is counted under NAME where it has not.
reports_writes() {
    "${imrun[@]}" run --help | grep -q -e --on-write || { skip "$1" "this imrun has no --on-write"; return 1; }
}

# --- what a launch leaves behind -------------------------------------------------------------------------------------

# In the environment of this suite's containers: `run -e "$mark"`.
mark=IMRUN_SUITE=$suite-$$

# processes: those that have the mark.
processes() {
    grep -lzsxF "$mark" /proc/[0-9]*/environ || true
}

no_process() {
    [ -z "$(processes)" ]
}

# empty_cgroups: those that hold nothing.
empty_cgroups() {
    find "$(findmnt -rnt cgroup2 -o TARGET | head -n 1)" -mindepth 2 -name cgroup.events \
        -exec grep -lx 'populated 0' {} + 2>/dev/null || true
}

# stale_claims: ids that nobody holds.
stale_claims() {
    local claim
    for claim in /run/imrun/ids/*; do
        if [ -e "$claim" ] && flock -n "$claim" true; then echo "$claim"; fi
    done
}

# traces: all that a launch could leave: mounts, loop devices, cgroups, claimed ids, runtime state, processes. Mounts and loop
# devices of other containers than this suite's come and go.
traces() {
    { findmnt -rno TARGET,SOURCE,FSTYPE; losetup -ln -O NAME,BACK-FILE; } | grep -F -e "$scratch" -e "$runtime" || true
    empty_cgroups
    stale_claims
    find "$runtime" -mindepth 1
    processes
}

# watch_traces: from here on nothing may be added. What the first launch makes for good, such as a parent cgroup, must be
# there by now.
watch_traces() {
    traces >"$scratch/before"
}

unchanged() {
    traces | diff "$scratch/before" - | grep '^>' >"$scratch/traces" || true
    [ ! -s "$scratch/traces" ]
}

# left_nothing HOW: all is as it was before, at the latest after a moment.
left_nothing() {
    if within 5 unchanged; then ok "$1 leaves nothing behind"; else fail "$1 leaves nothing behind" "$(<"$scratch/traces")"; fi
}

# free_port FROM TO: the first port of 127.0.0.1 in that range that nothing listens on.
free_port() {
    local port
    for ((port = $1; port <= $2; port++)); do
        if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    return 1
}
