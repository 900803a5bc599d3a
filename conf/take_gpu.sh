# Sourced before a task of a local run, on the host: takes a GPU that no other task on this machine has, and names it in
# CUDA_VISIBLE_DEVICES. $1: use the first so many devices only (empty: all).
#
# What counts as a device is what CUDA_VISIBLE_DEVICES says (indices, GPU- or MIG- uuids: a user's or a scheduler's choice), else
# all of /dev. The lock is a file lock of the kernel's on descriptor 9, which the task's processes inherit: it ends with the last
# of them, however they die. Two names of one device are one lock where nvidia-smi can tell.

protembed_take_gpu() {
    local most=$1 locks=/tmp/protembed-gpus devices device lock
    devices=${CUDA_VISIBLE_DEVICES:-$(ls /dev | sed -n 's/^nvidia\([0-9][0-9]*\)$/\1/p' | sort -n | paste -sd , -)}
    devices=$(tr , ' ' <<< "$devices" | tr -s ' ' '\n' | head -n "${most:-9999}")
    [ -n "$devices" ] || return 0 # no device in sight: the script of the task says so
    mkdir -p -m 1777 "$locks"
    while true; do
        for device in $devices; do
            lock=$locks/$(nvidia-smi --query-gpu=uuid --format=csv,noheader --id="$device" 2> /dev/null || echo "$device").lock
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
