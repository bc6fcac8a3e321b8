# What conformance suites take for right though it is not: single results, each with its reason.
# shellcheck shell=bash disable=SC2154

# read_deviations FILE: lines of an extended regular expression that is all of a result, a tab, and why.
read_deviations() {
    mapfile -t deviations < <(grep -v '^#' "$1")
    : >"$scratch/used"
}

# explained RESULT: whether the deviation is known; its reason goes to $scratch/reasons.
explained() {
    local deviation pattern
    for deviation in "${deviations[@]}"; do
        pattern=${deviation%%$'\t'*}
        if grep -Eqx -e "$pattern" <<<"$1"; then
            echo "${deviation#*$'\t'}" >>"$scratch/reasons"
            echo "$pattern" >>"$scratch/used"
            return
        fi
    done
    return 1
}

# After all results: every deviation is one that a result has, but for those that another host or another run may have.
no_deviation_is_stale() {
    local deviation
    for deviation in "${deviations[@]}"; do
        [[ ${deviation#*$'\t'} != @(host|race):* ]] || continue
        grep -Fqx -e "${deviation%%$'\t'*}" "$scratch/used" || fail "a deviation is not stale" "$deviation"
    done
}
