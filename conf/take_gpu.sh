# Sourced before a task of a local run, on the host: takes a GPU that no other task on this machine has, and names it in
# CUDA_VISIBLE_DEVICES. $1: use the first so many devices only (empty: all). modules/gpus counts devices by it, too.
#
# What counts as a device is what CUDA_VISIBLE_DEVICES says (nvidia-smi's indices, GPU- or MIG- uuids: a user's or a scheduler's choice;
# set and empty: none), else what nvidia-smi lists, of a GPU in slices the slices. Names are uuids, because CUDA and nvidia-smi number
# unlike cards differently. Without nvidia-smi, all of /dev. The lock is a file lock of the kernel's on descriptor 9, which the
# task's processes inherit: it ends with the last of them, however they die.

protembed_devices() {
    local device found
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        for device in ${CUDA_VISIBLE_DEVICES//,/ }; do
            if [[ $device =~ ^[0-9]+$ ]] && found=$(nvidia-smi --query-gpu=uuid --format=csv,noheader --id="$device" 2> /dev/null); then
                device=$found
            fi
            echo "$device"
        done
    elif found=$(nvidia-smi -L 2> /dev/null); then
        awk -F 'UUID: ' 'NF > 1 { sub(/\).*/, "", $2); if ($2 ~ /^MIG-/) { whole = ""; print $2 } else { if (whole) print whole; whole = $2 } }
            END { if (whole) print whole }' <<< "$found"
    else
        ls /dev | sed -n 's/^nvidia\([0-9][0-9]*\)$/\1/p' | sort -n
    fi
}

protembed_take_gpu() {
    local most=$1 locks=/tmp/protembed-gpus devices device lock
    devices=$(protembed_devices)
    devices=$(head -n "${most:-9999}" <<< "$devices")
    [ -n "$devices" ] || return 0 # no device in sight: the script of the task says so
    mkdir -p -m 1777 "$locks"
    while true; do
        for device in $devices; do
            lock=$locks/${device//\//_}.lock # MIG-GPU-<uuid>/7/0
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
