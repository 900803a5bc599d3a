# Sourced before a task of a local run, on the host: takes a GPU that no other task on this machine has, and names it in
# CUDA_VISIBLE_DEVICES. $1: use the first so many devices only (empty: all).
#
# What counts as a device is what CUDA_VISIBLE_DEVICES says (indices, GPU- or MIG- uuids: a user's or a scheduler's choice), else
# what nvidia-smi lists, by uuid: CUDA and nvidia-smi number unlike cards differently. Without nvidia-smi, all of /dev. The lock is
# a file lock of the kernel's on descriptor 9, which the task's processes inherit: it ends with the last of them, however they die.
# Two names of one device are one lock where nvidia-smi can tell.

protembed_uuids() { # of one device ($1) or of all; nothing when nvidia-smi is not there or fails, whatever it prints
    local found
    found=$(nvidia-smi --query-gpu=uuid --format=csv,noheader ${1:+--id="$1"} 2> /dev/null) && echo "$found"
}

protembed_take_gpu() {
    local most=$1 locks=/tmp/protembed-gpus devices device name lock
    devices=${CUDA_VISIBLE_DEVICES:-$(protembed_uuids || ls /dev | sed -n 's/^nvidia\([0-9][0-9]*\)$/\1/p' | sort -n)}
    devices=$(tr ',\n' '  ' <<< "$devices" | tr -s ' ' '\n' | head -n "${most:-9999}")
    [ -n "$devices" ] || return 0 # no device in sight: the script of the task says so
    mkdir -p -m 1777 "$locks"
    while true; do
        for device in $devices; do
            name=$(protembed_uuids "$device" || echo "$device")
            lock=$locks/${name//\//_}.lock # MIG-GPU-<uuid>/7/0
            [ -e "$lock" ] || (umask 0 && : > "$lock")
            exec 9< "$lock"
            if flock --nonblock 9; then
                export CUDA_VISIBLE_DEVICES=$device
                return 0
            fi
            exec 9<&-
        done
        sleep 1
    done
}
