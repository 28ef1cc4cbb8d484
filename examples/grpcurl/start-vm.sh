#!/bin/sh
# Starts a VM and waits for it with grpcurl and jq: start-vm.sh NAME
# ADDRESS, CA, CERTIFICATE and KEY are what your profile names. The server describes its API (reflection), so grpcurl
# needs no .proto file.
set -eu
name=$1
call() {
  grpcurl -cacert "$CA" -cert "$CERTIFICATE" -key "$KEY" -authority control.ostler.internal "$@"
}

call "$ADDRESS" list
call "$ADDRESS" describe ostler.control.v1.VmService
call -d '{"state": "STOPPED", "selector": "env=prod"}' "$ADDRESS" ostler.control.v1.VmService/ListVms
operation=$(call -d '{"vm": "'"$name"'"}' "$ADDRESS" ostler.control.v1.VmService/StartVm | jq -r .name)
call -d '{"name": "'"$operation"'", "timeout": "60s"}' "$ADDRESS" google.longrunning.Operations/WaitOperation
