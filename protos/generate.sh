#!/usr/bin/env bash
# Generates the Python stubs of protos/ into the given directory (default: protos/gen), with types.
set -euo pipefail
cd "$(dirname "$0")"
bin=$(cd ../.venvs/tools/bin && pwd)
out=${1:-gen}
mkdir -p "$out"
rm -rf "${out:?}/finery"
mapfile -t files < <(find finery -name '*.proto' | sort)
PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -I . \
    --python_out="$out" --grpc_python_out="$out" \
    --mypy_out="readable_stubs:$out" --mypy_grpc_out="readable_stubs:$out" "${files[@]}"
