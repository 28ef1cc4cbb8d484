#!/bin/sh
# Generates the Go stubs of the control plane's API: stubs.sh DIRECTORY
# The protos name no Go package, so each is mapped to one here. Needs protoc, protoc-gen-go and protoc-gen-go-grpc.
set -eu
protos=$(cd "$(dirname "$0")/../../protos" && pwd)
out=$1
mkdir -p "$out"
cd "$protos"
files=$(find ostler/types ostler/control -name '*.proto' | sort)
set --
for file in $files; do
  set -- "$@" "--go_opt=M$file=$(dirname "$file")" "--go-grpc_opt=M$file=$(dirname "$file")"
done
for kind in go go-grpc; do
  set -- "$@" "--${kind}_opt=Mgoogle/longrunning/operations.proto=google.golang.org/genproto/googleapis/longrunning"
done
# shellcheck disable=SC2086 # one word per file
exec ${PROTOC:-protoc} -I . -I "${GOOGLE_PROTOS:-/usr/include}" --go_out="$out" --go-grpc_out="$out" "$@" $files
