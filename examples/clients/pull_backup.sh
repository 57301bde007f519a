#!/bin/bash
# Pull backups with a shell, socat, jq, qemu-img and libnbd's programs:
#
#   pull_backup.sh full|inc QMP STORE DISK...
#   pull_backup.sh restore STORE DISK OUT
#
# The guest writes on; what it overwrites is first copied to a scratch image, which is exported over
# NBD (docs/pull-backup.md). A full backup is copied by nbdcopy. An increment is a copy of the last
# backup into which what the bitmap names is read. Bitmap pull-N records what changes after backup N.
# It is removed when backup N+1 is complete; backup N+1 reads it and leaves it alone.
set -euo pipefail
verb=$1

if [ "$verb" = restore ]; then
    exec cp --sparse=always "$2/$(cat "$2/last")/$3.raw" "$4"
fi

socket=$2 store=$3
shift 3
disks=("$@")
PATIENCE=20 # seconds for one reply

coproc MONITOR { exec socat - "UNIX-CONNECT:$socket"; }
from=${MONITOR[0]} to=${MONITOR[1]}
trap '' PIPE

qmp() { # qmp COMMAND [ARGUMENTS]: prints the reply
    local line
    printf '{"execute": "%s", "id": 1, "arguments": %s}\n' "$1" "${2:-{\}}" >&"$to" || return 1
    while IFS= read -r -t "$PATIENCE" line <&"$from"; do
        case $line in
            *'"event": '* | *'"QMP": '*) ;;
            *'"error": {"'*) echo "$1: $line" >&2 && return 1 ;;
            *'"id": 1'*) echo "$line" && return ;;
        esac
    done
    echo "no reply to $1" >&2
    return 1
}
quietly() { qmp "$@" > /dev/null 2>&1 || true; }

work=$(mktemp -d "$store/work.XXXXXX")
for other in "$store"/work.*; do # of calls that were killed
    [ "$other" = "$work" ] || rm -rf "$other"
done

clean_up() { # what this call, or one that was killed, has left in the emulator
    quietly nbd-server-stop
    for disk in "${disks[@]}"; do
        quietly block-job-cancel "{\"device\": \"pull-$disk\", \"force\": true}"
    done
    for _ in {1..100}; do
        [[ $(qmp query-jobs 2> /dev/null) == *'"pull-'* ]] || break
        sleep 0.05
    done
    for disk in "${disks[@]}"; do
        quietly blockdev-del "{\"node-name\": \"scratch-$disk\"}"
    done
}
at_end() {
    clean_up
    rm -rf "$work"
}
trap at_end EXIT

qmp qmp_capabilities > /dev/null
clean_up
last=$(cat "$store/last" 2> /dev/null || echo 0)
this=$((last + 1))
nodes=$(qmp query-named-block-nodes)
of_disk() { jq -r --arg disk "$1" '.return[] | select(.["node-name"] == $disk) | '"$2" <<< "$nodes"; }

if [ "$verb" = inc ]; then
    for disk in "${disks[@]}"; do
        good='.["dirty-bitmaps"] // [] | .[] | select(.persistent and (.inconsistent | not)) | .name'
        of_disk "$disk" "$good" | grep -qx "pull-$last" || verb=full
    done
fi

# A scratch image above each disk, then one transaction: one moment for all.
actions=
for disk in "${disks[@]}"; do
    qemu-img create -q -f qcow2 "$work/$disk.scratch" "$(of_disk "$disk" '.image["virtual-size"]')"
    qmp blockdev-add "{\"driver\": \"qcow2\", \"node-name\": \"scratch-$disk\",
        \"backing\": \"$disk\", \"file\": {\"driver\": \"file\",
        \"filename\": \"$work/$disk.scratch\"}}" > /dev/null
    quietly block-dirty-bitmap-remove "{\"node\": \"$disk\", \"name\": \"pull-$this\"}"
    actions+="{\"type\": \"block-dirty-bitmap-add\", \"data\":
         {\"node\": \"$disk\", \"name\": \"pull-$this\", \"persistent\": true}},
        {\"type\": \"blockdev-backup\", \"data\": {\"job-id\": \"pull-$disk\",
         \"device\": \"$disk\", \"target\": \"scratch-$disk\", \"sync\": \"none\"}},"
    [ "$verb" = full ] || actions+="{\"type\": \"block-dirty-bitmap-add\", \"data\":
         {\"node\": \"scratch-$disk\", \"name\": \"changed\", \"disabled\": true}},
        {\"type\": \"block-dirty-bitmap-merge\", \"data\": {\"node\": \"scratch-$disk\",
         \"target\": \"changed\", \"bitmaps\": [{\"node\": \"$disk\", \"name\": \"pull-$last\"}]}},"
done
qmp transaction "{\"actions\": [${actions%,}]}" > /dev/null
qmp nbd-server-start "{\"addr\": {\"type\": \"unix\", \"data\": {\"path\": \"$work/nbd\"}}}" > /dev/null

mkdir "$work/out"
for disk in "${disks[@]}"; do
    uri="nbd+unix:///$disk?socket=$work/nbd" out=$work/out/$disk.raw
    bitmaps=
    [ "$verb" = full ] || bitmaps=', "bitmaps": ["changed"]'
    qmp block-export-add "{\"type\": \"nbd\", \"id\": \"pull-$disk\", \"name\": \"$disk\",
        \"node-name\": \"scratch-$disk\"$bitmaps}" > /dev/null
    if [ "$verb" = full ]; then
        nbdcopy --synchronous "$uri" "$out"
        continue
    fi
    cp --sparse=always "$store/$last/$disk.raw" "$out"
    nbdinfo --map=qemu:dirty-bitmap:changed "$uri" > "$work/map"
    reads=$(awk '$3 == 1 { print "out.seek(" $1 "); out.write(h.pread(" $2 ", " $1 "))" }' "$work/map")
    [ -z "$reads" ] || PATH=/usr/bin:$PATH nbdsh -u "$uri" -c "out = open('$out', 'r+b')
$reads
out.close()"
done

# The backup is durable before it is named, and named before its bitmap replaces the last one.
rm -rf "${store:?}/$this"
sync "$work"/out/*.raw "$work/out"
mv "$work/out" "$store/$this"
echo "$this" > "$work/last"
sync "$work/last" "$store"
mv "$work/last" "$store/last"
sync "$store"
for disk in "${disks[@]}"; do
    for name in $(of_disk "$disk" '.["dirty-bitmaps"] // [] | .[].name'); do
        [[ $name != pull-* ]] ||
            quietly block-dirty-bitmap-remove "{\"node\": \"$disk\", \"name\": \"$name\"}"
    done
done
