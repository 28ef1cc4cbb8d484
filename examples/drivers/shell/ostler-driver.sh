#!/bin/bash
# A driver program for Ostler's agent in shell: plain QEMU processes, told what to do through their monitor. It needs
# jq and qemu-system-x86_64.
#
#   ostler-agent driver check executable --option command=$PWD/ostler-driver.sh
set -u
QEMU=${QEMU:-qemu-system-x86_64}
state_dir= id=

reply() { printf '{"id":%s,"result":%s}\n' "$id" "$1"; }
fail() { jq -cn --argjson id "$id" --arg reason "$1" --arg message "$2" '{id: $id, error: {reason: $reason, message: $message}}'; }
arg() { jq -r ".args.$1" <<<"$request"; }

# The VM's process, if it runs. The file may be stale, and its number another process's.
pid_of() {
  local pid
  pid=$(cat "$state_dir/$1/pid" 2>/dev/null) || return 1
  { tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qx "$1" && echo "$pid"
}

hello() {
  state_dir=$(arg state_dir)
  if [ "$(jq '.args.options | length' <<<"$request")" != 0 ]; then
    fail INVALID_OPTION "unknown option $(jq -r '.args.options | keys | join(", ")' <<<"$request")"
    return
  fi
  reply '{"protocol_version":1,"type":"custom","display_name":"QEMU by shell","template_formats":["raw"],
    "functions":["direct-download"],"pool_types":["local"]}' | tr -d '\n'
  echo
}

list() {
  local file vm state vms=
  for file in "$state_dir"/*/definition.json; do
    [ -e "$file" ] || continue
    vm=$(basename "$(dirname "$file")")
    state=stopped
    pid_of "$vm" >/dev/null && state=running
    vms+=$(jq -c --arg state "$state" '{vm_id, name, state: $state, cpus, memory_bytes,
      volume_ids: [.disks[].volume_id]}' "$file" 2>/dev/null)$'\n'
  done
  reply "$(jq -cs . <<<"$vms")"
}

samples() {
  local file vm pid all= ticks pages
  for file in "$state_dir"/*/pid; do
    vm=$(basename "$(dirname "$file")")
    pid=$(pid_of "$vm") || continue
    read -r ticks pages < <(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{print $12 + $13, $22}')
    all+=${all:+,}"{\"vm_id\":\"$vm\",\"cpu_time_ns\":$((ticks * 10000000)),\"rss_bytes\":$((pages * 4096))}"
  done
  reply "[$all]"
}

# Writes a definition atomically.
define() {
  mkdir -p -m 700 "$state_dir/$1" && jq -c .args <<<"$request" >"$state_dir/$1/definition.json.new" &&
    mv "$state_dir/$1/definition.json.new" "$state_dir/$1/definition.json"
}

start() {
  local vm=$1 directory="$state_dir/$1" argv said disk
  pid_of "$vm" >/dev/null && { reply null; return; }
  define "$vm" || { fail INTERNAL "cannot write the definition"; return; }
  argv=(-nodefaults -display none -machine pc -accel kvm -accel tcg -name "$vm" -uuid "$vm")
  argv+=(-smp "$(arg cpus)" -m "$(($(arg memory_bytes) >> 20))M" -chardev "socket,id=console,path=console,server=on,wait=off")
  argv+=(-serial chardev:console -chardev pipe,id=monitor,path=monitor -mon chardev=monitor)
  rm -f "$directory"/monitor.*
  mkfifo -m 600 "$directory/monitor.in" "$directory/monitor.out"
  while IFS= read -r disk; do
    argv+=(-drive "if=virtio,format=raw,file=${disk//,/,,}")
  done < <(jq -r '.args.disks | sort_by(.slot)[].path' <<<"$request")
  # QEMU locks the disks, becomes a daemon in a session of its own, and outlives this program and the agent.
  if said=$(cd "$directory" && "$QEMU" "${argv[@]}" -daemonize -pidfile "$directory/pid" 2>&1 </dev/null); then
    reply null
  elif [[ $said == *'"write" lock'* ]]; then
    fail DISK_IN_USE "another VM uses a disk of VM $vm: $said"
  elif [[ $said == *'No such file'* ]]; then
    fail VOLUME_MISSING "a disk of VM $vm does not exist: $said"
  else
    fail START_FAILED "QEMU did not start: ${said:0:1000}"
  fi
}

power_off() {
  local pid tries=0
  if pid=$(pid_of "$1"); then
    kill -KILL "$pid" 2>/dev/null
    while pid_of "$1" >/dev/null && [ $((tries += 1)) -lt 500 ]; do sleep 0.01; done
  fi
  reply null
}

# Presses the power button through QEMU's monitor.
shut_down() {
  if ! pid_of "$1" >/dev/null; then
    fail VM_NOT_RUNNING "VM $1 is not running"
  elif timeout 3 bash -c 'echo system_powerdown >"$1"' - "$state_dir/$1/monitor.in"; then
    reply null
  else
    fail MONITOR_FAILED "the monitor of VM $1 does not answer"
  fi
}

while IFS= read -r request; do
  { read -r id; read -r call; read -r vm; } < <(jq -r '.id, .call, (.args.vm_id // "")' <<<"$request")
  case $call in
    hello) hello ;;
    probe) reply "$("$QEMU" --version | jq -Rsc '{version: capture("version (?<v>[0-9.]+)").v}')" ;;
    list) list ;;
    samples) samples ;;
    define) if define "$vm"; then reply null; else fail INTERNAL "cannot write the definition"; fi ;;
    start) start "$vm" ;;
    shut_down) shut_down "$vm" ;;
    power_off) power_off "$vm" ;;
    delete) rm -rf "${state_dir:?}/${vm:?}" && reply null ;;
    console) reply "{\"socket\":\"$state_dir/$vm/console\"}" ;;
    *) fail FUNCTION_NOT_SUPPORTED "there is no call $call" ;;
  esac
done
